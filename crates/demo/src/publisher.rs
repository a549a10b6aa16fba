//! Publishes numbers and letters to a broker, as upstream's demo peers do.

use std::{net::SocketAddr, time::Duration};

use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, PublishOptions};
use tokio::time::{self, MissedTickBehavior};

use crate::{
    Error, Result,
    background::{Background, Serve, Stop},
    broker::Login,
    http::random_letter,
};

/// Where the numbers go: `{"Generated number": "0"}`, `"1"`, … as text.
pub const NUMBERS_TOPIC: &str = "/demo/integers";
/// Where the letters go: `{"Generated letter": "a"}`, of either case.
pub const LETTERS_TOPIC: &str = "/demo/letters";

/// How the publisher is called in messages.
const PEER: &str = "MQTT publisher";
/// How long it may take to reach the broker at first.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The pause before it tries again to reach a broker that went away.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// A client that publishes one number and one letter per period, at QoS 1. Dropping it stops it.
#[derive(Debug)]
pub struct Publisher {
    _running: Background,
}

impl Publisher {
    /// Connects to the broker, then publishes, the first pair at once and then one pair each `every`. When the broker goes
    /// away later, it connects again and goes on.
    pub fn start(broker: SocketAddr, login: Option<Login>, every: Duration) -> Result<Self> {
        let (running, ()) =
            Background::start(PEER, move |stop| set_up(broker, login, every, stop))?;
        Ok(Self { _running: running })
    }

    /// Disconnects from the broker, within half a second.
    pub fn stop(self) {}
}

async fn set_up(
    broker: SocketAddr,
    login: Option<Login>,
    every: Duration,
    stop: Stop,
) -> Result<((), Serve)> {
    let name = format!("wiredflow-demo-publisher-{}", std::process::id());
    let mut options = MqttOptions::new(name, (broker.ip().to_string(), broker.port()));
    options.set_keep_alive(30);
    if let Some(Login { username, password }) = login {
        options.set_credentials(username, password);
    }
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    time::timeout(CONNECT_WITHIN, connected(&mut events))
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))
        .map_err(|reason| Error::NotStarted {
            peer: PEER,
            reason: format!("the broker at {broker} cannot be used: {reason}"),
        })?;
    let serve = Box::pin(async move {
        // The events are polled until the disconnect has gone out; the loop over them is never cut in between.
        tokio::join!(keep_connected(&mut events, stop.clone()), async {
            tokio::select! {
                () = publish(&client, every) => {}
                () = stop.heard() => {}
            }
            drop(client.disconnect().await); // the connection may be gone already
        });
    });
    Ok(((), serve))
}

async fn connected(events: &mut EventLoop) -> std::result::Result<(), String> {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn keep_connected(events: &mut EventLoop, stop: Stop) {
    loop {
        if let Err(error) = events.poll().await {
            tracing::debug!(%error, "the {PEER} has lost the broker");
            tokio::select! {
                () = time::sleep(RECONNECT_AFTER) => {}
                () = stop.clone().heard() => return,
            }
        }
    }
}

async fn publish(client: &AsyncClient, every: Duration) {
    let mut ticks = time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0_u64.. {
        ticks.tick().await;
        let pair = [
            (
                NUMBERS_TOPIC,
                format!(r#"{{"Generated number": "{number}"}}"#),
            ),
            (
                LETTERS_TOPIC,
                format!(r#"{{"Generated letter": "{}"}}"#, random_letter()),
            ),
        ];
        for (topic, payload) in pair {
            if client
                .publish(topic, payload, PublishOptions::at_least_once())
                .await
                .is_err()
            {
                return; // the other half is gone: we are being stopped
            }
        }
    }
}

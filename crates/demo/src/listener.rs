//! Hears what a flow sends to the broker.

use std::{net::SocketAddr, time::Duration};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::time;

use crate::{
    Error, LETTERS_TOPIC, NUMBERS_TOPIC, Result,
    background::{Background, Serve, Stop},
    kept::Kept,
};

/// How the listener is called in messages.
const PEER: &str = "MQTT listener";
/// How long it may take to subscribe.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(5);

/// A client that is subscribed to everything. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Listener {
    heard: Kept<Heard>,
    _running: Background,
}

/// A message that somebody other than our own publisher sent to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The topic.
    pub topic: String,
    /// The payload; what is not UTF-8 in it is replaced.
    pub body: String,
}

impl Listener {
    /// Connects and subscribes; hears everything from then on.
    pub(crate) fn start(broker: SocketAddr) -> Result<Self> {
        let heard = Kept::default();
        let log = heard.clone();
        let (running, ()) = Background::start(PEER, move |stop| set_up(broker, log, stop))?;
        Ok(Self {
            heard,
            _running: running,
        })
    }

    pub(crate) fn since(&self, seen: u64) -> (Vec<Heard>, u64) {
        self.heard.since(seen)
    }

    pub(crate) fn stop(self) {}
}

async fn set_up(broker: SocketAddr, log: Kept<Heard>, stop: Stop) -> Result<((), Serve)> {
    let name = format!("wiredflow-demo-listener-{}", std::process::id());
    let options = MqttOptions::new(name, (broker.ip().to_string(), broker.port()));
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    let not_started = |reason: String| Error::NotStarted { peer: PEER, reason };
    client
        .subscribe("#", QoS::AtLeastOnce)
        .await
        .map_err(|error| not_started(error.to_string()))?;
    let subscribed = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::SubAck(_))) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(not_started(error.to_string())),
            }
        }
    };
    time::timeout(SUBSCRIBE_WITHIN, subscribed)
        .await
        .unwrap_or_else(|_| Err(not_started("no answer".to_owned())))?;
    let serve = Box::pin(async move {
        loop {
            let event = tokio::select! {
                event = events.poll() => event,
                () = stop.clone().heard() => return drop(client),
            };
            match event {
                Ok(Event::Incoming(Incoming::Publish(message))) => {
                    let topic = String::from_utf8_lossy(&message.topic).into_owned();
                    if topic != NUMBERS_TOPIC && topic != LETTERS_TOPIC {
                        let body = String::from_utf8_lossy(&message.payload).into_owned();
                        log.push(Heard { topic, body });
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the {PEER} has lost the broker");
                    return;
                }
            }
        }
    });
    Ok(((), serve))
}

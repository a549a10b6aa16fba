//! `mock`: the demo's peers alone, on the ports that examples expect.

use std::time::Duration;

use wiredflow_demo::{LETTERS_TOPIC, NUMBERS_TOPIC, Peers, Ports, Server};
use wiredflow_engine::clock::Clock;

use crate::exit::{Exit, Failure, Outcome};
use crate::service::{Signals, runtime};
use crate::tool::Tool;

/// How often the peers are asked what they have received.
const LOOK: Duration = Duration::from_millis(200);

/// Start servers and a broker for flows to talk to, until ^C
#[derive(Debug, clap::Args)]
#[command(
    after_help = "HTTP servers on ports 8025 (a greeting), 8026 (letters) and 8027 (integers), and an MQTT broker
on port 1883 with numbers on /demo/integers and letters on /demo/letters. They listen on this
machine only, keep nothing, and log what they receive.

Examples:
  wiredflow mock                    in one terminal,
  wiredflow run flow.yaml           in another"
)]
pub(crate) struct Mock {}

impl Mock {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let peers =
            Peers::start(Ports::UPSTREAM).map_err(|error| Failure::failed(error.to_string()))?;
        if !tool.global.quiet {
            tool.screen.print(&what_is_where(&peers))?;
        }
        let runtime = runtime()?;
        runtime.block_on(async {
            let mut signals = Signals::listen()?;
            let clock = Clock::real();
            let mut watch = Watch::default();
            loop {
                for arrival in watch.new_arrivals(&peers) {
                    tracing::info!("{arrival}");
                }
                tokio::select! {
                    () = signals.next() => return Ok(Exit::Done),
                    () = clock.sleep(LOOK) => {}
                }
            }
        })
    }
}

fn what_is_where(peers: &Peers) -> String {
    let url = |server| peers.url(server);
    format!(
        "{}   answers [{{\"Message\": \"Hello world!\"}}]\n\
         {}   answers with a letter\n\
         {}   answers with an integer, and takes what is PUT or POSTed\n\
         {}          MQTT broker, any login: a number on {NUMBERS_TOPIC} and a letter on {LETTERS_TOPIC} each second\n\
         \n^C stops them; what they receive is logged here\n",
        url(Server::Hello),
        url(Server::Letters),
        url(Server::Integers),
        peers.broker(),
    )
}

/// Follows what the peers receive.
#[derive(Debug, Default)]
pub(super) struct Watch {
    received: u64,
    heard: u64,
}

/// Something that a peer has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// By which way: `PUT /result`, or a topic.
    pub(super) way: String,
    /// What it was.
    pub(super) body: String,
}

impl std::fmt::Display for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "received by {}: {}", self.way, self.body)
    }
}

impl Watch {
    /// What has come since the last look.
    pub(super) fn new_arrivals(&mut self, peers: &Peers) -> Vec<Arrival> {
        let (received, total) = peers.received_since(self.received);
        self.received = total;
        let (heard, total) = peers.heard_since(self.heard);
        self.heard = total;
        let by_http = received.into_iter().map(|one| Arrival {
            way: format!("{} {}", one.method, one.path),
            body: one.body,
        });
        let by_mqtt = heard.into_iter().map(|one| Arrival {
            way: format!("MQTT {}", one.topic),
            body: one.body,
        });
        by_mqtt.chain(by_http).collect()
    }
}

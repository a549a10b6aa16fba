//! Who publishes and writes down what the broker has taken, and the comparison with what was stored.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{mqtt::Client, wait::Chance};

/// The pause between two bursts, and before the broker is asked again when it is away.
const PAUSE: Duration = Duration::from_millis(10);
/// The most messages of a burst.
const BURST: usize = 8;

/// What was published: numbers, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The broker has said that it has them.
    pub acked: Vec<u64>,
    /// The connection was lost before the broker had said anything: it may have them or not.
    pub unknown: Vec<u64>,
}

/// Publishes `{"n": 0}`, `{"n": 1}` … at QoS 1, in bursts of random length, until it is asked for its ledger.
#[derive(Debug)]
pub struct Publisher {
    over: Arc<AtomicBool>,
    /// The number of the next message.
    next: Arc<AtomicU64>,
    thread: thread::JoinHandle<Ledger>,
}

impl Publisher {
    /// Begins; a broker that is away is asked again.
    pub fn start(port: u16, topic: &str, mut chance: Chance) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let topic = topic.to_owned();
        let told = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (over, told) = (Arc::clone(&over), Arc::clone(&told));
            move || {
                let (mut ledger, mut next) = (Ledger::default(), 0);
                let mut client = None;
                while !over.load(Ordering::SeqCst) {
                    client = client.or_else(|| Client::connect(port, "", true, None).ok());
                    if let Some(connection) = &mut client {
                        let burst = next..next + 1 + chance.below(BURST) as u64;
                        next = burst.end;
                        told.store(next, Ordering::SeqCst);
                        let payloads = burst.clone().map(|n| format!("{{\"n\":{n}}}"));
                        if connection.publish_all(&topic, payloads, 1).is_ok() {
                            ledger.acked.extend(burst);
                        } else {
                            ledger.unknown.extend(burst);
                            client = None;
                        }
                    }
                    thread::sleep(PAUSE);
                }
                ledger
            }
        });
        Self {
            over,
            next: told,
            thread,
        }
    }

    /// The number of the next message: all lower ones were published before now, or are at this moment.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Ends it and gives what it has written down.
    #[track_caller]
    pub fn end(self) -> Ledger {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the publisher does not panic")
    }
}

impl Ledger {
    /// Compares with what a sink holds, as multisets: panics when a message that the broker had is missing or one
    /// is there that was never published; gives the number of duplicates of the numbers from `from` on.
    #[track_caller]
    pub fn duplicates_in(
        &self,
        sink: &str,
        stored: impl IntoIterator<Item = u64>,
        from: u64,
    ) -> usize {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for number in stored {
            *counts.entry(number).or_default() += 1;
        }
        let lost: Vec<&u64> = self
            .acked
            .iter()
            .filter(|n| !counts.contains_key(n))
            .collect();
        assert!(
            lost.is_empty(),
            "{sink} has lost {} messages: {lost:?}",
            lost.len()
        );
        let foreign: Vec<&u64> = counts
            .keys()
            .filter(|n| !self.acked.contains(n) && !self.unknown.contains(n))
            .collect();
        assert!(
            foreign.is_empty(),
            "{sink} holds what nobody sent: {foreign:?}"
        );
        counts.range(from..).map(|(_, count)| count - 1).sum()
    }
}

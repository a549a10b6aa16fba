//! Whether the packet ids of a session tell a message that comes again from another one.
//!
//! Most brokers count them up: an id comes back after 65,535 messages. One that takes the smallest free id at once
//! gives two messages the same name: after a crash nobody can tell whether the second is the first once more, and
//! where both say the same, a message would be taken for stored that is not. With such a broker nothing is taken for
//! stored: what was not acknowledged is stored again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::delivery::MOST_UNDER_WAY;

/// How many ids are looked back at: more than a broker may have unacknowledged.
const RECENT: usize = 2 * MOST_UNDER_WAY as usize;

/// After so long the broker has read an acknowledgement, and may use its id again.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// What is known of the ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ids {
    /// Nothing yet.
    #[default]
    Unknown,
    /// They count up.
    Counted,
    /// They are used again at once.
    Reused,
}

/// The last ids of a session.
#[derive(Debug, Default)]
pub(super) struct PacketIds {
    known: Ids,
    recent: VecDeque<u16>,
    /// When the first acknowledgement of this connection left.
    acknowledged: Option<Instant>,
}

impl PacketIds {
    /// What an earlier connection of the same session has found.
    pub(super) fn of(known: Ids) -> Self {
        Self {
            known,
            ..Self::default()
        }
    }

    /// What is known.
    pub(super) fn known(&self) -> Ids {
        self.known
    }

    /// A connection stands: acknowledgements that left on the last one may not have been read.
    pub(super) fn connected(&mut self) {
        self.acknowledged = None;
    }

    /// An acknowledgement has left.
    pub(super) fn acknowledged(&mut self, now: Instant) {
        self.acknowledged.get_or_insert(now);
    }

    /// A message has come for the first time.
    pub(super) fn arrived(&mut self, id: u16, now: Instant) {
        if self.known != Ids::Unknown {
            // What counts up is found out early, and stays.
            return;
        }
        if self.recent.contains(&id) {
            self.known = Ids::Reused;
        } else if self
            .acknowledged
            .is_some_and(|since| now.duration_since(since) >= READ_WITHIN)
        {
            self.known = Ids::Counted;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn ids_that_count_up_are_trusted_when_the_broker_could_have_used_one_again() {
        let mut ids = PacketIds::default();
        let now = Clock::real().monotonic();
        ids.arrived(1, now);
        ids.acknowledged(now);
        ids.arrived(2, now + READ_WITHIN / 2);
        assert_eq!(ids.known(), Ids::Unknown, "it may not have read it");
        ids.arrived(3, now + READ_WITHIN);
        assert_eq!(ids.known(), Ids::Counted);
    }

    #[test]
    fn c5_ids_that_come_again_at_once_tell_nothing() {
        let mut ids = PacketIds::default();
        let now = Clock::real().monotonic();
        ids.arrived(1, now);
        ids.acknowledged(now);
        ids.arrived(1, now + 2 * READ_WITHIN);
        assert_eq!(ids.known(), Ids::Reused);
        ids.arrived(2, now + 3 * READ_WITHIN);
        assert_eq!(ids.known(), Ids::Reused);
    }

    #[test]
    fn nothing_is_known_before_anything_is_acknowledged() {
        let mut ids = PacketIds::default();
        let now = Clock::real().monotonic();
        for id in 1..100 {
            ids.arrived(id, now + READ_WITHIN * u32::from(id));
        }
        assert_eq!(ids.known(), Ids::Unknown);
    }
}

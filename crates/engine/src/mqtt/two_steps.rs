//! QoS 2 on its way in: which of the two steps has been done for which message.
//!
//! ```text
//! broker            source                         flow
//!   PUBLISH ────────> ─────────────────────────────> works, stores
//!           <──────── PUBREC  <───────────────────── settled
//!   PUBREL  ────────> PUBCOMP, and the id is free
//! ```
//!
//! The first step is said where a message at QoS 1 is acknowledged: when the flow has settled it.
//! From then on the broker does not send the message again, and the flow does not get it again. Nothing
//! is kept across processes for it: a release of something unknown is answered as any other. So a message is delivered twice when
//! this process dies between the commit and the broker's reading of PUBREC, or the broker forgets that
//! it has sent it.

use std::collections::HashMap;

use bytes::BytesMut;

use super::packets::{write_ack, write_complete, write_received};

/// How far a message is.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// What is remembered of its content.
    print: u64,
    /// The first step was said.
    said: bool,
}

/// The messages at QoS 2 of a session that are not over, by packet id.
#[derive(Debug, Default)]
pub(super) struct TwoSteps {
    under_way: HashMap<u16, Step>,
    /// Came again although the first step was said: it is to be said again.
    again: Vec<u16>,
    /// Released by the broker: the last step is to be said.
    released: Vec<u16>,
}

impl TwoSteps {
    /// A new connection stands. Its broker has kept the session, or knows nothing of us.
    pub(super) fn connected(&mut self, session_present: bool) {
        self.again.clear();
        self.released.clear();
        if !session_present {
            self.under_way.clear();
        }
    }

    /// A message at QoS 1 has come: whatever had its id is over.
    pub(super) fn arrived_in_one(&mut self, id: u16) {
        if !self.under_way.is_empty() {
            self.under_way.remove(&id);
        }
    }

    /// A message at QoS 2 has come. Gives whether the flow is to get it.
    pub(super) fn arrived(&mut self, id: u16, duplicate: bool, print: u64) -> bool {
        let known = self.under_way.get(&id);
        if known.is_some_and(|step| step.said && duplicate && step.print == print) {
            self.again.push(id);
            return false;
        }
        self.under_way.insert(id, Step { print, said: false });
        true
    }

    /// The flow has settled a message: writes the acknowledgement, or the first step of it.
    pub(super) fn acknowledge(&mut self, id: u16, out: &mut BytesMut) {
        if !self.under_way.is_empty()
            && let Some(step) = self.under_way.get_mut(&id)
        {
            step.said = true;
            return write_received(id, out);
        }
        write_ack(id, out);
    }

    /// The broker has released a message.
    pub(super) fn released(&mut self, id: u16) {
        self.under_way.remove(&id);
        self.released.push(id);
    }

    /// Writes what the broker's packets are answered with.
    pub(super) fn write(&mut self, out: &mut BytesMut) {
        self.again.drain(..).for_each(|id| write_received(id, out));
        self.released
            .drain(..)
            .for_each(|id| write_complete(id, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(steps: &mut TwoSteps) -> Vec<(u8, u8)> {
        let mut out = BytesMut::new();
        steps.write(&mut out);
        out.chunks(4).map(|packet| (packet[0], packet[3])).collect()
    }

    fn acknowledged(steps: &mut TwoSteps, id: u16) -> u8 {
        let mut out = BytesMut::new();
        steps.acknowledge(id, &mut out);
        assert_eq!(out[3], id as u8);
        out[0]
    }

    #[test]
    fn a_message_is_received_when_it_is_settled_and_complete_when_it_is_released() {
        let mut steps = TwoSteps::default();
        assert!(steps.arrived(7, false, 1));
        steps.arrived_in_one(8);
        assert_eq!(acknowledged(&mut steps, 8), 0x40);
        assert_eq!(acknowledged(&mut steps, 7), 0x50);
        steps.released(7);
        assert_eq!(written(&mut steps), [(0x70, 7)]);
        // The id is free: the same may be another message now, at either QoS.
        assert!(steps.arrived(7, true, 1));
        steps.arrived_in_one(7);
        assert_eq!(acknowledged(&mut steps, 7), 0x40);
    }

    #[test]
    fn what_was_received_is_not_given_to_the_flow_again_in_the_same_session() {
        let mut steps = TwoSteps::default();
        assert!(steps.arrived(7, false, 1));
        steps.connected(true);
        assert!(steps.arrived(7, true, 1), "the flow had not settled it");
        assert_eq!(acknowledged(&mut steps, 7), 0x50);
        steps.connected(true);
        assert!(!steps.arrived(7, true, 1));
        assert_eq!(written(&mut steps), [(0x50, 7)]);
        assert!(steps.arrived(7, false, 1), "not said to be a duplicate");
        assert_eq!(acknowledged(&mut steps, 7), 0x50);
        assert!(steps.arrived(7, true, 2), "another content");
        assert_eq!(acknowledged(&mut steps, 7), 0x50);
        steps.connected(false);
        assert!(steps.arrived(7, true, 2), "another session");
    }

    #[test]
    fn a_release_of_something_unknown_is_answered() {
        let mut steps = TwoSteps::default();
        steps.connected(true);
        steps.released(9);
        assert_eq!(written(&mut steps), [(0x70, 9)]);
        assert_eq!(written(&mut steps), []);
    }
}

//! Which messages are to be acknowledged: in the order in which they came, and none by the id that
//! it had on an earlier connection.

use std::collections::{HashMap, VecDeque};

/// What became of a message so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The flow has it, or will get it.
    Open,
    /// It may be acknowledged.
    Done,
    /// It is not to be acknowledged: it comes again with a later connection.
    Left,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    packet: u16,
    /// The number by which the flow knows the message.
    known_as: u64,
    /// What is remembered of its content.
    print: u64,
    state: State,
}

/// The unacknowledged messages of a connection, in the order in which they came.
///
/// A resumed session brings again what was never acknowledged, under the packet ids it had: the
/// broker cannot have used them for anything else meanwhile. Such a message is not given to the
/// flow a second time; it takes the new place in the order, under the number that it had. What was
/// acknowledged, but perhaps in vain, is delivered again.
#[derive(Debug)]
pub(super) struct Window {
    /// Slot after slot, numbered from `first`.
    slots: VecDeque<Slot>,
    first: u64,
    /// The new places of messages that came again, by the numbers that they are known as.
    moved: HashMap<u64, u64>,
    /// What earlier connections left unacknowledged and has not come again yet.
    earlier: HashMap<u16, Slot>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            slots: VecDeque::new(),
            first: 1, // no message is known as 0
            moved: HashMap::new(),
            earlier: HashMap::new(),
        }
    }
}

impl Window {
    /// A new connection stands. Its broker has kept the session, or knows nothing of us.
    pub(super) fn connected(&mut self, session_present: bool) {
        self.first += self.slots.len() as u64;
        self.moved.clear();
        let slots = self.slots.drain(..).map(|slot| (slot.packet, slot));
        if session_present {
            self.earlier.extend(slots);
        } else {
            drop(slots);
            self.earlier.clear();
        }
    }

    /// A message has come. Gives the number under which it is to be delivered, or `None` where the
    /// flow has it already.
    pub(super) fn arrived(&mut self, packet: u16, duplicate: bool, print: u64) -> Option<u64> {
        let number = self.first + self.slots.len() as u64;
        let again = self
            .earlier
            .remove(&packet)
            .filter(|slot| duplicate && slot.print == print && slot.state != State::Left);
        if let Some(slot) = again {
            self.moved.insert(slot.known_as, number);
            self.slots.push_back(slot);
            return None;
        }
        self.slots.push_back(Slot {
            packet,
            known_as: number,
            print,
            state: State::Open,
        });
        Some(number)
    }

    /// The flow is done with a message.
    pub(super) fn settle(&mut self, number: u64, acknowledged: bool) {
        let state = if acknowledged {
            State::Done
        } else {
            State::Left
        };
        let place = self.moved.remove(&number).unwrap_or(number);
        let slot = match place.checked_sub(self.first) {
            Some(index) => self.slots.get_mut(index as usize),
            // Of an earlier connection, and not come again yet; or of a session that is lost.
            None => self
                .earlier
                .values_mut()
                .find(|slot| slot.known_as == number),
        };
        if let Some(slot) = slot {
            slot.state = state;
        }
    }

    /// Hands out the packet ids that are to be acknowledged now.
    pub(super) fn release(&mut self, mut acknowledge: impl FnMut(u16)) {
        while let Some(slot) = self.slots.front() {
            match slot.state {
                State::Open => return,
                State::Done => acknowledge(slot.packet),
                // It keeps the broker's window narrower until it comes again, and holds up nobody.
                State::Left => {}
            }
            self.slots.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use wiredflow_testkit::seed;

    use super::*;

    fn released(window: &mut Window) -> Vec<u16> {
        let mut ids = Vec::new();
        window.release(|id| ids.push(id));
        ids
    }

    #[test]
    fn c14_ids_are_released_in_the_order_of_arrival() {
        let mut window = Window::default();
        let numbers: Vec<u64> = (1..=4)
            .map(|packet| window.arrived(packet, false, 0).unwrap())
            .collect();
        window.settle(numbers[2], true);
        window.settle(numbers[1], true);
        assert_eq!(released(&mut window), [0; 0]);
        window.settle(numbers[0], false);
        assert_eq!(released(&mut window), [2, 3]);
        window.settle(numbers[3], true);
        assert_eq!(released(&mut window), [4]);
    }

    #[test]
    fn c4_what_the_flow_still_has_is_known_when_it_comes_again() {
        let mut window = Window::default();
        let open = window.arrived(1, false, 7).unwrap();
        let done = window.arrived(2, false, 8).unwrap();
        let failed = window.arrived(3, false, 9).unwrap();
        window.settle(done, true);
        window.settle(failed, false);
        window.connected(true);
        assert_eq!(window.arrived(1, true, 7), None);
        assert_eq!(window.arrived(2, true, 8), None);
        assert!(
            window.arrived(3, true, 9).is_some(),
            "it failed: it is tried again"
        );
        assert_eq!(released(&mut window), [0; 0]);
        window.settle(open, true);
        assert_eq!(released(&mut window), [1, 2]);
    }

    #[test]
    fn c5_a_number_of_a_lost_session_acknowledges_nothing() {
        let mut window = Window::default();
        let lost = window.arrived(1, false, 7).unwrap();
        window.connected(false);
        let other = window.arrived(1, false, 7).unwrap();
        window.settle(lost, true);
        assert_eq!(released(&mut window), [0; 0]);
        window.settle(other, true);
        assert_eq!(released(&mut window), [1]);
    }

    /// A broker that reuses ids as early as it may, and whose messages all look the same.
    #[derive(Default)]
    struct Broker {
        /// Sent and not acknowledged, in order: id, message, whether it was sent before.
        under_way: Vec<(u16, usize, bool)>,
        sent: usize,
    }

    impl Broker {
        fn send(&mut self) -> u16 {
            let taken = |id: &u16| self.under_way.iter().any(|(other, ..)| other == id);
            let id = (1..).find(|id| !taken(id)).unwrap();
            self.under_way.push((id, self.sent, false));
            self.sent += 1;
            id
        }

        fn message(&self, id: u16) -> usize {
            self.under_way
                .iter()
                .find(|(other, ..)| *other == id)
                .unwrap()
                .1
        }
    }

    /// A client with its flow: what it works on, what it has done, and what it has said.
    #[derive(Default)]
    struct Client {
        window: Window,
        open: Vec<(u64, usize)>,
        done: BTreeSet<usize>,
        said: VecDeque<u16>,
    }

    impl Client {
        fn hear(&mut self, id: u16, message: usize, duplicate: bool) {
            let known = self.open.iter().any(|(_, open)| *open == message);
            match self.window.arrived(id, duplicate, 0) {
                Some(number) => {
                    assert!(!known, "message {message} is given to the flow twice");
                    self.open.push((number, message));
                }
                None => assert!(
                    known || self.done.contains(&message),
                    "message {message} is not given to the flow"
                ),
            }
        }

        fn settle_one(&mut self, index: usize, acknowledged: bool) {
            let (number, message) = self.open.swap_remove(index);
            self.window.settle(number, acknowledged);
            if acknowledged {
                self.done.insert(message);
            }
        }
    }

    #[test]
    fn c4_no_message_is_lost_and_none_is_in_the_flow_twice_whatever_is_cut() {
        let seed = seed();
        for round in 0..300 {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(round));
            let (mut broker, mut client) = (Broker::default(), Client::default());
            let mut unheard: VecDeque<u16> = VecDeque::new();
            for _ in 0..random.random_range(1..400) {
                match random.random_range(0..20) {
                    0..8 if broker.under_way.len() < 12 => unheard.push_back(broker.send()),
                    0..12 => {
                        if let Some(id) = unheard.pop_front() {
                            client.hear(id, broker.message(id), false);
                        }
                    }
                    12..15 if !client.open.is_empty() => {
                        let index = random.random_range(0..client.open.len());
                        client.settle_one(index, random.random_ratio(9, 10));
                    }
                    15..17 => client.window.release(|id| client.said.push_back(id)),
                    17..19 => {
                        if let Some(id) = client.said.pop_front() {
                            let message = broker.message(id);
                            assert!(client.done.contains(&message), "{message} was not done");
                            broker.under_way.retain(|(other, ..)| *other != id);
                        }
                    }
                    _ => {
                        // Cut: what was under way in either direction is gone.
                        unheard.clear();
                        client.said.clear();
                        client.window.connected(true);
                        let again = random.random_range(0..=broker.under_way.len());
                        for (id, message, _) in &broker.under_way[..again] {
                            client.hear(*id, *message, true);
                        }
                        // Cut once more before all came again.
                        if again < broker.under_way.len() {
                            client.window.connected(true);
                            for (id, message, _) in &broker.under_way {
                                client.hear(*id, *message, true);
                            }
                        }
                    }
                }
            }
            // All that is left comes to an end.
            client.window.connected(true);
            for (id, message, _) in &broker.under_way {
                client.hear(*id, *message, true);
            }
            while !client.open.is_empty() {
                client.settle_one(0, true);
            }
            let mut ids = released(&mut client.window);
            ids.sort_unstable();
            let mut left: Vec<u16> = broker.under_way.iter().map(|(id, ..)| *id).collect();
            left.sort_unstable();
            assert_eq!(ids, left, "round {round}");
            assert_eq!(client.done.len(), broker.sent, "round {round}");
        }
    }
}

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A disk that keeps what it was told, and what it was not told is gone with the process.
#[derive(Clone, Default)]
struct Disk {
    rows: BTreeMap<u64, Stored>,
    next: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Stored {
    key: Arc<str>,
    digest: Option<u64>,
    message: usize,
    has_body: bool,
}

impl Disk {
    fn found(&self, remembered: usize) -> FoundOutbox {
        let waiting = self.rows.values().filter(|row| row.has_body).count() as u64;
        let known = self.rows.iter().filter_map(|(number, row)| {
            Some((*number, Arc::clone(&row.key), row.digest?, !row.has_body))
        });
        let known: Vec<_> = known.collect();
        FoundOutbox {
            id: 1,
            session: 1,
            next: self.next,
            waiting: (waiting, waiting),
            known: known[known.len().saturating_sub(remembered)..].to_vec(),
        }
    }

    fn tell(&mut self, taken: &TakenOut) {
        for number in &taken.sent {
            if let Some(row) = self.rows.get_mut(number) {
                row.has_body = false;
            }
        }
        for number in &taken.removed {
            self.rows.remove(number);
        }
    }
}

/// What happens to a sender, one after the other.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The source brings the next message, or one that is not acknowledged again.
    Arrives {
        again: bool,
        which: usize,
    },
    /// The peer confirms the oldest that is under way.
    Confirmed,
    /// The oldest under way fails for good, and its source is told so.
    Failed,
    /// What was confirmed is acknowledged.
    Acknowledged,
    /// The disk is told what has left.
    Rest,
    /// It cannot be told.
    DiskIsFull,
    Crash,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (any::<bool>(), 0usize..8).prop_map(|(again, which)| Event::Arrives { again, which }),
        4 => Just(Event::Confirmed),
        1 => Just(Event::Failed),
        2 => Just(Event::Acknowledged),
        1 => Just(Event::Rest),
        1 => Just(Event::DiskIsFull),
        1 => Just(Event::Crash),
    ];
    proptest::collection::vec(event, 1..200)
}

struct World {
    disk: Disk,
    order: Order,
    remembered: usize,
    /// Numbers of rows under way, oldest first.
    under_way: VecDeque<u64>,
    /// How often the peer has got each message.
    sent: BTreeMap<usize, usize>,
    /// Brought and not acknowledged.
    unacknowledged: BTreeSet<usize>,
    /// Confirmed or known, and not acknowledged.
    done: BTreeSet<usize>,
    messages: usize,
    /// How often each may be there too often: it was confirmed, and a crash came before the disk knew; or it has
    /// come again after so many others that it was known no more.
    excused: BTreeMap<usize, usize>,
}

fn key(message: usize) -> Arc<str> {
    format!("m{message}/0").into()
}

impl World {
    fn new(remembered: usize) -> Self {
        let disk = Disk::default();
        Self {
            order: Order::remembering(&disk.found(remembered), remembered),
            disk,
            remembered,
            under_way: VecDeque::new(),
            sent: BTreeMap::new(),
            unacknowledged: BTreeSet::new(),
            done: BTreeSet::new(),
            messages: 0,
            excused: BTreeMap::new(),
        }
    }

    fn message(&self, number: u64) -> usize {
        self.disk.rows[&number].message
    }

    fn arrives(&mut self, message: usize, again: bool) {
        self.unacknowledged.insert(message);
        let (name, digest) = (key(message), message as u64);
        let seen = match again {
            true => self.order.seen(&name, digest),
            false => Seen::New,
        };
        match seen {
            Seen::Sent => {
                assert!(self.sent.contains_key(&message), "{message} is lost");
                self.done.insert(message);
            }
            // The sender waits until it has left.
            Seen::Waiting => {
                let under_way = self.under_way.iter();
                let mut messages = under_way.map(|number| self.message(*number));
                assert!(messages.any(|other| other == message), "waits for ever");
            }
            Seen::New => {
                let mut rows = self.disk.rows.values();
                if self.sent.contains_key(&message)
                    || rows.any(|row| row.has_body && row.message == message)
                {
                    *self.excused.entry(message).or_default() += 1;
                }
                let number = self.order.number();
                self.order.put(number, &name, Some(digest), 1);
                let row = Stored {
                    key: name,
                    digest: Some(digest),
                    message,
                    has_body: true,
                };
                self.disk.rows.insert(number, row);
                self.disk.next = self.order.next();
                let taken = self.order.taken();
                self.disk.tell(&taken);
                self.under_way.push_back(number);
            }
        }
    }

    fn leaves(&mut self, leaves: Leaves) {
        let Some(number) = self.under_way.pop_front() else {
            return;
        };
        let message = self.message(number);
        if leaves == Leaves::Sent {
            *self.sent.entry(message).or_default() += 1;
            self.done.insert(message);
        }
        self.order.take_out(number, &key(message), 1, leaves);
    }

    /// What the disk has is sent first, then the source brings what was not acknowledged.
    fn crash(&mut self) {
        for row in self.disk.rows.values().filter(|row| row.has_body) {
            if self.sent.contains_key(&row.message) {
                *self.excused.entry(row.message).or_default() += 1;
            }
        }
        self.done.clear();
        self.order = Order::remembering(&self.disk.found(self.remembered), self.remembered);
        let waiting = self.disk.rows.iter().filter(|(_, row)| row.has_body);
        self.under_way = waiting.map(|(number, _)| *number).collect();
        while !self.under_way.is_empty() {
            self.leaves(Leaves::Sent);
        }
        self.done.clear();
        for message in self.unacknowledged.clone() {
            self.arrives(message, true);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Arrives { again: false, .. } => {
                self.messages += 1;
                self.arrives(self.messages, false);
            }
            Event::Arrives { again: true, which } => {
                let known = self.unacknowledged.iter().nth(which).copied();
                if let Some(message) = known {
                    self.arrives(message, true);
                }
            }
            Event::Confirmed => self.leaves(Leaves::Sent),
            Event::Failed => self.leaves(Leaves::Unsent),
            Event::Acknowledged => {
                for message in std::mem::take(&mut self.done) {
                    self.unacknowledged.remove(&message);
                }
            }
            Event::Rest => {
                let taken = self.order.taken();
                self.disk.tell(&taken);
            }
            Event::DiskIsFull => {
                let taken = self.order.taken();
                self.order.not_told(taken);
            }
            Event::Crash => self.crash(),
        }
        let waiting = self.disk.rows.values().filter(|row| row.has_body).count() as u64;
        assert!(
            self.order.waiting().0 <= waiting,
            "a row that waits is gone"
        );
        assert_eq!(self.order.waiting().0, self.under_way.len() as u64);
        assert!(self.order.newest.len() <= self.remembered);
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_sent_twice_but_what_the_disk_did_not_know(
        events in events(),
        remembered in 1usize..12,
    ) {
        let mut world = World::new(remembered);
        for event in events {
            world.event(event);
        }
        world.crash();
        while !world.under_way.is_empty() {
            world.leaves(Leaves::Sent);
        }
        for message in 1..=world.messages {
            let sent = world.sent.get(&message).copied().unwrap_or(0);
            prop_assert!(sent > 0, "{message} is lost");
            let excused = world.excused.get(&message).copied().unwrap_or(0);
            prop_assert!(sent <= 1 + excused, "{message} was sent {sent} times");
        }
    }
}

#[test]
fn another_content_under_the_same_key_is_another_record() {
    let mut order = Order::new(&FoundOutbox::default());
    let number = order.number();
    order.put(number, &key(1), Some(7), 10);
    assert_eq!(order.seen(&key(1), 7), Seen::Waiting);
    order.take_out(number, &key(1), 10, Leaves::Sent);
    assert_eq!(
        (order.seen(&key(1), 7), order.seen(&key(1), 8)),
        (Seen::Sent, Seen::New)
    );
    assert_eq!(order.waiting(), (0, 0));
}

#[test]
fn the_places_of_a_delivery_are_counted_across_its_parcels() {
    let mut order = Order::new(&FoundOutbox::default());
    let token = |id| Token { epoch: 1, id };
    let places: Vec<u32> = [1, 1, 2, 1, 2].map(|id| order.place(token(id))).into();
    assert_eq!(places, [0, 1, 0, 2, 1]);
}

#[test]
fn so_many_are_known_and_no_more() {
    let mut order = Order::new(&FoundOutbox::default());
    for message in 0..REMEMBERED + 2 {
        let number = order.number();
        order.put(number, &key(message), Some(0), 1);
        order.take_out(number, &key(message), 1, Leaves::Sent);
    }
    assert_eq!(order.seen(&key(1), 0), Seen::New);
    assert_eq!(order.seen(&key(2), 0), Seen::Sent);
    let taken = order.taken();
    assert_eq!(
        (taken.removed, taken.sent.len()),
        (vec![0, 1], REMEMBERED + 2)
    );
    assert!(!order.has_taken());
}

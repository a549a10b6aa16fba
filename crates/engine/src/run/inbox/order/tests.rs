use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: InboxLimits = InboxLimits {
    rows: 40,
    bytes: 400,
};

fn identity(place: u32, print: u64, again: bool) -> Identity {
    Identity {
        session: 3,
        place,
        print,
        again,
    }
}

fn empty_from(number: u64, limits: InboxLimits) -> Order {
    let found = Found {
        low: number,
        next: number,
        ..Found::default()
    };
    Order::new(limits, found)
}

/// Keeps so many without an identity, of one byte each.
fn keep(order: &mut Order, rows: usize) {
    order.arriving(rows, rows);
    order.kept((rows, rows), std::iter::repeat_n((None, 1), rows));
}

#[test]
fn what_comes_again_is_not_queued_twice_while_it_is_among_the_newest() {
    let mut order = empty_from(1, InboxLimits::default());
    let first = identity(7, 70, false);
    assert_eq!(order.numbers([Some(first)].into_iter()), [Some(1)]);
    order.kept((1, 5), [(Some(first), 5)].into_iter());
    let come = |order: &Order, identity| order.numbers([Some(identity), None].into_iter());
    assert_eq!(come(&order, identity(7, 70, true)), [None, Some(2)]);
    // Two equal readings are two messages, and another content in its place is another message.
    assert_eq!(come(&order, first), [Some(2), Some(3)]);
    assert_eq!(come(&order, identity(7, 71, true)), [Some(2), Some(3)]);
    keep(&mut order, WINDOW as usize - 1);
    assert_eq!(come(&order, identity(7, 70, true))[0], None);
    keep(&mut order, 1);
    assert_ne!(come(&order, identity(7, 70, true))[0], None);
}

#[test]
fn no_more_is_under_way_than_storages_remember() {
    let start = u64::from(u32::MAX) - 100;
    let mut order = empty_from(start, InboxLimits::default());
    keep(&mut order, 3 * WINDOW as usize);
    order.open_work();
    while let Some(number) = order.wanted() {
        assert_eq!(order.hand_out(number, 1), HandOut::Yes { again: true });
    }
    let behind = start + WINDOW;
    assert_eq!(order.hand_out(behind, 1), HandOut::NotYet);
    // All but the first end: they are dealt with, and the window stays where it is.
    for number in start + 1..behind {
        order.ended(number);
    }
    let write = order.to_write().unwrap();
    assert_eq!((write.low, write.mark.len()), (start, WINDOW as usize - 1));
    order.written(&write);
    assert_eq!((order.wanted(), order.to_write()), (None, None));
    order.ended(start);
    let write = order.to_write().unwrap();
    assert_eq!((write.low, &write.mark[..]), (behind, &[][..]));
    order.written(&write);
    assert_eq!(order.wanted(), Some(behind));
    assert_eq!(order.waiting(), 2 * WINDOW);
}

#[test]
fn large_bodies_go_when_they_are_dealt_with() {
    let mut order = empty_from(1, InboxLimits::default());
    order.kept((0, 0), [(None, LARGE), (None, LARGE + 1)].into_iter());
    order.open_work();
    for (number, size) in [(1, LARGE), (2, LARGE + 1)] {
        order.hand_out(number, size);
        order.ended(number);
    }
    let write = order.to_write().unwrap();
    assert_eq!((write.low, write.mark), (3, vec![2]));
}

#[test]
fn a_full_inbox_takes_nothing_until_a_tenth_is_free() {
    let mut order = empty_from(1, LIMITS);
    order.open_work();
    assert_eq!(
        order.room(),
        Room::For {
            most: 40,
            news: false
        }
    );
    order.arriving(30, 30);
    assert_eq!(
        order.room(),
        Room::For {
            most: 10,
            news: false
        }
    );
    order.kept((30, 30), std::iter::repeat_n((None, 1), 30));
    keep(&mut order, 10);
    assert_eq!(order.room(), Room::Full { news: true });
    assert_eq!(order.room(), Room::Full { news: false });
    let end = |order: &mut Order, number| {
        order.hand_out(number, 1);
        order.ended(number);
        let write = order.to_write().unwrap();
        order.written(&write);
    };
    (1..=3).for_each(|number| end(&mut order, number));
    assert_eq!(order.room(), Room::Full { news: false });
    end(&mut order, 4);
    assert_eq!(
        order.room(),
        Room::For {
            most: 4,
            news: true
        }
    );
    // Bytes count as well.
    order.arriving(1, 400);
    order.kept((1, 400), [(None, 400)].into_iter());
    assert_eq!(order.room(), Room::Full { news: true });
}

/// Fewer than usual, so that they are often reached.
const FEW: u64 = 16;

/// How many messages the broker lets be under way.
const IN_FLIGHT: usize = 12;

/// The table, as the state keeps it.
#[derive(Clone, Debug, Default)]
struct Disk {
    low: u64,
    rows: BTreeMap<u64, Row>,
    first: u64,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    message: usize,
    identity: Identity,
    dealt: bool,
}

/// The size of every body.
const SIZE: u64 = 9;

impl Disk {
    fn write(&mut self, write: &Write) {
        self.low = self.low.max(write.low);
        for number in &write.mark {
            if let Some(row) = self.rows.get_mut(number) {
                row.dealt = true;
            }
        }
        self.rows = self.rows.split_off(&write.forget);
    }

    fn found(&self) -> Found {
        let next = self
            .rows
            .keys()
            .next_back()
            .map_or(self.first, |last| last + 1);
        let live = self.rows.range(self.low..);
        let waiting = live.clone().filter(|(_, row)| !row.dealt).count() as u64;
        let newest = self.rows.range(next.saturating_sub(FEW)..);
        Found {
            low: self.low,
            next: next.max(self.low),
            dealt: live
                .filter(|(_, row)| row.dealt)
                .map(|(number, _)| *number)
                .collect(),
            waiting: (waiting, waiting * SIZE),
            known: newest
                .map(|(number, row)| (*number, row.identity))
                .collect(),
        }
    }
}

/// How the disk takes what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    Once,
    Again,
    Unheard,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A publisher sends a message.
    Publish,
    /// The source brings so many.
    Take(usize, Taking),
    /// The broker hears of the oldest that is kept.
    Acknowledge,
    /// So many are handed out.
    HandOut(usize),
    /// One that is under way ends.
    End(usize),
    /// What has ended is written; or it is, and nobody hears of it; or it is not.
    Write(u8),
    /// Those who work are there anew.
    Reopen,
    /// The process is killed.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let taking = prop_oneof![
        8 => Just(Taking::Once),
        1 => Just(Taking::Again),
        1 => Just(Taking::Unheard),
    ];
    let step = prop_oneof![
        6 => Just(Step::Publish),
        4 => (1..6usize, taking).prop_map(|(most, how)| Step::Take(most, how)),
        4 => Just(Step::Acknowledge),
        4 => (1..6usize).prop_map(Step::HandOut),
        8 => (0..8usize).prop_map(Step::End),
        4 => (0..6u8).prop_map(Step::Write),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 0..300)
}

/// A message at the broker.
#[derive(Clone, Copy)]
struct Sent {
    message: usize,
    place: u32,
    /// Whether it may have come before, and whether it is on its way to us.
    again: bool,
    delivered: bool,
    kept: bool,
}

/// A broker, an inbox, and those who work.
struct World {
    disk: Disk,
    order: Order,
    broker: Vec<Sent>,
    published: usize,
    done: BTreeMap<usize, usize>,
    under_way: Vec<(u64, usize)>,
}

impl World {
    fn new(first: u64) -> Self {
        let disk = Disk {
            low: first,
            first,
            ..Disk::default()
        };
        let mut order = Order::with_window(LIMITS, disk.found(), FEW);
        order.open_work();
        Self {
            disk,
            order,
            broker: Vec::new(),
            published: 0,
            done: BTreeMap::new(),
            under_way: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish => {
                let place = self.published as u32 % 900;
                let sent = Sent {
                    message: self.published,
                    place,
                    again: false,
                    delivered: false,
                    kept: false,
                };
                self.broker.push(sent);
                self.published += 1;
            }
            Step::Take(most, how) => self.take(most, how),
            Step::Acknowledge => {
                if self.broker.first().is_some_and(|sent| sent.kept) {
                    self.broker.remove(0);
                }
            }
            Step::HandOut(most) => self.hand_out(most),
            Step::End(index) if index < self.under_way.len() => {
                let (number, message) = self.under_way.remove(index);
                self.order.ended(number);
                *self.done.entry(message).or_default() += 1;
            }
            Step::End(_) => {}
            Step::Write(how) => {
                let Some(write) = self.order.to_write() else {
                    return;
                };
                if how > 0 {
                    self.disk.write(&write);
                }
                if how > 1 {
                    self.order.written(&write);
                }
            }
            Step::Reopen => {
                self.order.open_work();
                self.under_way.clear();
            }
            Step::Kill => {
                self.order = Order::with_window(LIMITS, self.disk.found(), FEW);
                self.order.open_work();
                self.under_way.clear();
                self.lose_connection();
            }
        }
    }

    fn take(&mut self, most: usize, how: Taking) {
        let Room::For { most: room, .. } = self.order.room() else {
            return;
        };
        let at_most = most.min(room);
        let arriving: Vec<usize> = (0..self.broker.len().min(IN_FLIGHT))
            .filter(|index| !self.broker[*index].delivered)
            .take(at_most)
            .collect();
        self.order
            .arriving(arriving.len(), arriving.len() * SIZE as usize);
        let identities = arriving.iter().map(|index| {
            let sent = &self.broker[*index];
            Some(identity(sent.place, sent.message as u64, sent.again))
        });
        let identities: Vec<_> = identities.collect();
        let numbers = self.order.numbers(identities.iter().copied());
        if how == Taking::Again {
            // The disk has failed once: nothing has changed.
            assert_eq!(self.order.numbers(identities.iter().copied()), numbers);
        }
        let mut kept = Vec::new();
        for ((index, number), identity) in arriving.iter().zip(numbers).zip(&identities) {
            let sent = &mut self.broker[*index];
            (sent.delivered, sent.kept) = (true, true);
            let (Some(number), Some(identity)) = (number, *identity) else {
                continue;
            };
            let row = Row {
                message: sent.message,
                identity,
                dealt: false,
            };
            assert!(
                self.disk.rows.insert(number, row).is_none(),
                "a number of its own"
            );
            kept.push((Some(identity), SIZE as usize));
        }
        if how != Taking::Unheard {
            return {
                let came = (arriving.len(), arriving.len() * SIZE as usize);
                self.order.kept(came, kept.into_iter())
            };
        }
        // The source was dropped while it waited for the disk, and is opened again.
        self.order.open_intake();
        let found = self.disk.rows.range(self.order.next()..);
        let found: Vec<_> = found
            .map(|(_, row)| (Some(row.identity), SIZE as usize))
            .collect();
        self.order.kept((0, 0), found.into_iter());
        self.lose_connection();
    }

    fn lose_connection(&mut self) {
        for sent in &mut self.broker {
            sent.again |= sent.delivered;
            (sent.delivered, sent.kept) = (false, false);
        }
    }

    fn hand_out(&mut self, most: usize) {
        let mut last = None;
        while self.under_way.len() < most
            && let Some(from) = self.order.wanted()
        {
            let rows = self.disk.rows.range(from..);
            let Some((number, row)) = rows
                .filter(|(_, row)| !row.dealt)
                .map(|(n, r)| (*n, *r))
                .next()
            else {
                self.order.nothing_below(u64::MAX);
                continue;
            };
            match self.order.hand_out(number, SIZE as usize) {
                HandOut::NotYet => return,
                HandOut::DealtWith => continue,
                HandOut::Yes { .. } => {}
            }
            assert!(last < Some(number), "in order");
            assert!(number - self.disk.low < FEW);
            last = Some(number);
            self.under_way.push((number, row.message));
        }
    }

    fn end(mut self) -> (usize, BTreeMap<usize, usize>, BTreeMap<u64, Row>) {
        self.step(Step::Kill);
        for _ in 0..4 * (self.published + 10) {
            for step in [
                Step::Take(5, Taking::Once),
                Step::Acknowledge,
                Step::HandOut(3),
                Step::End(0),
                Step::Write(2),
            ] {
                self.step(step);
            }
        }
        assert!(self.broker.is_empty(), "all were taken");
        assert_eq!(self.order.waiting(), 0);
        let found = self.disk.found();
        assert_eq!(found.waiting, (0, 0));
        (self.published, self.done, self.disk.rows)
    }
}

proptest! {
    #[test]
    fn a1_a3_every_message_is_queued_once_and_worked_off_whatever_is_killed(
        steps in steps(),
        first in prop_oneof![
            Just(1),
            (0..700u64).prop_map(|below| u64::from(u32::MAX) - below),
            (0..700u64).prop_map(|below| (1 << 48) - 100_000 - below),
        ],
    ) {
        let mut world = World::new(first);
        let mut queued: BTreeMap<usize, u64> = BTreeMap::new();
        let mut kills = 0;
        for step in steps {
            kills += usize::from(matches!(step, Step::Kill | Step::Reopen));
            world.step(step);
            let waits = world.order.waiting();
            prop_assert!(waits <= LIMITS.rows, "{waits} wait");
            for (number, row) in &world.disk.rows {
                let number = *queued.entry(row.message).or_insert(*number) == *number;
                prop_assert!(number, "message {} is queued twice", row.message);
            }
        }
        let (published, done, rows) = world.end();
        for message in 0..published {
            let times = done.get(&message).copied().unwrap_or(0);
            prop_assert!((1..=1 + kills + 1).contains(&times), "message {message}: {times} times");
        }
        prop_assert!(rows.len() as u64 <= FEW);
    }
}

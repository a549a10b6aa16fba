use proptest::prelude::*;

use super::*;

fn first(place: u32, print: u64) -> Identity {
    Identity {
        session: 3,
        place,
        print,
        again: false,
    }
}

fn again(place: u32, print: u64) -> Identity {
    Identity {
        again: true,
        ..first(place, print)
    }
}

fn token(id: u64) -> Token {
    Token { epoch: 1, id }
}

/// The cursors of a storage.
#[derive(Default)]
struct Cursors(std::collections::BTreeMap<u64, String>);

impl Cursors {
    /// A commit counts.
    fn keep(&mut self, seen: &mut Seen) {
        self.0.extend(seen.texts());
        seen.keep();
    }

    /// As another process finds it.
    fn restarted(&self) -> Seen {
        Seen::read(self.0.values().map(String::as_str)).unwrap()
    }
}

/// As another process finds it, when all that was passed is kept.
fn restarted(seen: &mut Seen) -> Seen {
    let mut cursors = Cursors::default();
    cursors.keep(seen);
    cursors.restarted()
}

#[test]
fn a3_what_comes_again_after_a_crash_is_passed_over() {
    let mut seen = Seen::default();
    assert_eq!(seen.pass(token(1), first(7, 70), 3), 0);
    let mut seen = restarted(&mut seen);
    assert_eq!(seen.pass(token(1), again(7, 70), 2), 2);
    // The fourth of its rows was never stored.
    assert_eq!(seen.pass(token(1), again(7, 70), 2), 1);
    let mut seen = restarted(&mut seen);
    assert_eq!(seen.pass(token(9), again(7, 70), 5), 4);
}

#[test]
fn c5_another_message_in_the_same_place_is_stored() {
    let mut seen = Seen::default();
    seen.pass(token(1), first(7, 70), 1);
    let mut seen = restarted(&mut seen);
    let mut other = restarted(&mut seen);
    assert_eq!(seen.pass(token(1), again(7, 71), 1), 0, "other content");
    assert_eq!(other.pass(token(1), first(7, 70), 1), 0, "said to be new");
    assert_eq!(restarted(&mut other).pass(token(2), again(7, 70), 1), 1);
}

#[test]
fn rows_that_no_delivery_has_alone_are_all_stored() {
    let mut seen = Seen::default();
    let mark = |id, identity| Mark {
        token: token(id),
        identity: Some(identity),
    };
    let marks = [mark(1, first(1, 10)), mark(2, first(2, 20))];
    let rows = [Some(0), Some(1), None];
    assert_eq!(seen.fresh(&marks, rows.into_iter()), None);
    let mut seen = restarted(&mut seen);
    let marks = [mark(8, again(1, 10)), mark(9, again(2, 21))];
    let rows = [None, Some(1), Some(0), Some(0)];
    assert_eq!(seen.fresh(&marks, rows.into_iter()), Some(vec![0, 1, 3]));
}

#[test]
fn a_text_of_another_making_is_refused() {
    // Sixteen bytes in 22 letters, the last of which has two bits of them.
    let empty = "AAAAAAAAAAAAAAAAAAAAAA";
    for text in [
        "?",
        "",
        "AQI",
        "AAAAAAAAAAA",
        &format!("{empty}CA"),
        &format!("{empty}CAgI"),
        &format!("{empty}CEEBAAAA"),
        "AAAAAAAAAAD/////////////",
    ] {
        Seen::read([text]).unwrap_err();
    }
    assert_eq!(Seen::read([empty]).unwrap().entries.len(), 0);
}

#[test]
fn a_commit_that_does_not_count_changes_nothing() {
    let mut seen = Seen::default();
    seen.pass(token(1), first(1, 10), 2);
    seen.pass(token(2), first(2, 20), 2);
    let before = seen.text(0);
    seen.keep();
    seen.pass(token(1), first(1, 10), 3);
    seen.pass(token(3), first(2, 21), 1);
    let other = Identity {
        session: 4,
        ..first(2, 20)
    };
    seen.pass(token(4), other, 1);
    seen.pass(token(5), first(9, 90), 1);
    seen.undo();
    assert_eq!(seen.text(0), before);
    assert_eq!(seen.texts().count(), 0);
    assert_eq!(
        seen.pass(token(1), first(1, 10), 1),
        0,
        "the third of its rows"
    );
}

#[test]
fn c2_what_another_session_brings_is_another_message() {
    let (mut seen, mut cursors) = (Seen::default(), Cursors::default());
    seen.pass(token(1), first(1, 10), 1);
    cursors.keep(&mut seen);
    let mut seen = cursors.restarted();
    let other = Identity {
        session: 4,
        ..again(1, 10)
    };
    assert_eq!(seen.pass(token(1), other, 1), 0);
    cursors.keep(&mut seen);
    assert_eq!(cursors.restarted().pass(token(2), other, 1), 1);
}

#[test]
fn as_many_are_known_as_may_be_under_way() {
    let (mut seen, mut cursors) = (Seen::default(), Cursors::default());
    let last = 3 * MOST as u32;
    for place in 0..last {
        seen.pass(token(place.into()), first(place, place.into()), 1);
        cursors.keep(&mut seen);
        if place % 997 == 0 {
            seen = cursors.restarted();
        }
    }
    assert_eq!(cursors.0.len() as u64, SEGMENTS);
    let mut seen = cursors.restarted();
    assert_eq!(seen.entries.len(), MOST);
    let oldest = last - MOST as u32;
    assert_eq!(seen.pass(token(0), again(oldest, oldest.into()), 1), 1);
    assert_eq!(
        seen.pass(token(1), again(oldest - 1, u64::from(oldest) - 1), 1),
        0
    );
}

#[test]
fn a_commit_writes_what_it_changes() {
    let (mut seen, mut cursors) = (Seen::default(), Cursors::default());
    for place in 0..3 * MOST as u32 {
        seen.pass(token(place.into()), first(place, place.into()), 1);
        let segment = u64::from(place) / SEGMENT;
        assert!(seen.texts().map(|(slot, _)| slot).eq([segment % SEGMENTS]));
        cursors.keep(&mut seen);
    }
    // More at once than there is room for.
    for place in 0..9 * MOST as u32 {
        seen.pass(token(place.into()), first(place, 7), 1);
    }
    assert!(seen.texts().count() as u64 <= SEGMENTS);
    cursors.keep(&mut seen);
    assert_eq!(cursors.restarted().entries.len(), MOST);
}

#[test]
fn the_highest_numbers_are_kept() {
    let mut seen = Seen::default();
    seen.pass(token(1), first(u32::MAX, u64::MAX), usize::MAX);
    assert_eq!(
        restarted(&mut seen).pass(token(2), again(u32::MAX, u64::MAX), 7),
        7
    );
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send,
    Store(usize),
    Acknowledge,
    Cut,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Send),
        4 => (0..20usize).prop_map(Step::Store),
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Cut),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 0..400)
}

/// A message at a broker whose ids go up, as far as 1,000.
#[derive(Clone, Copy)]
struct Message {
    number: usize,
    id: u32,
    sent: bool,
}

proptest! {
    /// A broker, a flow that stores what it has in any order, and a storage; every message has the same content.
    #[test]
    fn a3_every_message_is_stored_once_whatever_is_killed(steps in steps()) {
        let (mut seen, mut cursors, mut stored) = (Seen::default(), Cursors::default(), Vec::new());
        let mut under_way: VecDeque<Message> = VecDeque::new();
        let mut open: Vec<(Token, Message)> = Vec::new();
        let (mut number, mut tokens) = (0, 0);
        let mut done = std::collections::BTreeSet::new();
        let mut steps: Vec<_> = steps;
        steps.push(Step::Kill);
        steps.extend([Step::Store(0); 20]);
        for step in steps {
            let again = match step {
                Step::Send if under_way.len() < 20 => {
                    under_way.push_back(Message { number, id: number as u32 % 1000, sent: false });
                    number += 1;
                    false
                }
                Step::Store(index) if index < open.len() => {
                    let (token, message) = open.remove(index);
                    let identity = Identity { session: 3, place: message.id, print: 5, again: message.sent };
                    if index % 5 == 4 {
                        // The disk fails once.
                        seen.pass(token, identity, 1);
                        seen.undo();
                    }
                    if seen.pass(token, identity, 1) == 0 {
                        stored.push(message.number);
                    }
                    cursors.keep(&mut seen);
                    done.insert(message.number);
                    continue;
                }
                // In order, and heard or not.
                Step::Acknowledge => {
                    if under_way.front().is_some_and(|message| done.contains(&message.number)) {
                        under_way.pop_front();
                    }
                    continue;
                }
                Step::Cut => true,
                Step::Kill => {
                    seen = cursors.restarted();
                    true
                }
                Step::Send | Step::Store(_) => continue,
            };
            if again {
                open.clear();
                under_way.iter_mut().for_each(|message| message.sent = true);
            }
            let from = if again { 0 } else { under_way.len() - 1 };
            for message in under_way.iter().skip(from) {
                tokens += 1;
                open.push((token(tokens), *message));
            }
        }
        stored.sort_unstable();
        prop_assert_eq!(stored, (0..number).collect::<Vec<_>>());
    }
}

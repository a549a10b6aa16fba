//! Random sequences of what may happen to dead letters and ticks, crashes among it, against a plain model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use wiredflow_engine::state::{
    Body, DeadLetter, DeadLetterId, LetterEditor, ReplayEnd, ReplayOutcome, Selection, State,
    StateReader, TickClaim,
};

use super::{FLOW, at, close, letter};

/// Something that happens; the numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Add,
    Ask(usize),
    Remove(usize),
    /// A replay that is under way ends, so many parts of it failing again.
    End(usize, usize),
    Refuse(usize),
    Stay(usize),
    Prune,
    Crash,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Add),
        3 => (0..9_usize).prop_map(Step::Ask),
        1 => (0..9_usize).prop_map(Step::Remove),
        3 => (0..9_usize, 0..3_usize).prop_map(|(which, parts)| Step::End(which, parts)),
        1 => (0..9_usize).prop_map(Step::Refuse),
        1 => (0..9_usize).prop_map(Step::Stay),
        1 => Just(Step::Prune),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
    ];
    vec(step, 1..24)
}

/// What the model knows of a letter.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    asked: bool,
    attempts: u32,
    body: Body,
}

/// A letter that is like no other.
fn unique(number: usize) -> DeadLetter {
    DeadLetter {
        body: Body::Json(json!({ "n": number })),
        delivery: None,
        attempts: 1,
        ..letter("no", 0)
    }
}

fn reopened(folder: &Path) -> State {
    let mut opened = None;
    // A crash leaves the folder locked until the writer's thread has seen it.
    wiredflow_testkit::wait_until(std::time::Duration::from_secs(60), || {
        opened = State::open(folder, FLOW, at(0)).ok();
        opened.is_some()
    });
    opened.unwrap().0
}

fn look(folder: &Path) -> BTreeMap<DeadLetterId, Kept> {
    let reader = StateReader::open(folder, FLOW).unwrap();
    let listed = reader.dead_letters(Selection::default()).unwrap();
    let kept = |id: &DeadLetterId| {
        let letter = reader.dead_letter(&id.to_string()).unwrap().unwrap();
        Kept {
            asked: letter.asked.is_some(),
            attempts: letter.attempts,
            body: letter.body,
        }
    };
    listed
        .iter()
        .map(|letter| (letter.id.clone(), kept(&letter.id)))
        .collect()
}

/// One of the letters, or of those that are asked for.
fn nth(
    model: &BTreeMap<DeadLetterId, Kept>,
    which: usize,
    asked: Option<bool>,
) -> Option<DeadLetterId> {
    let fits = |kept: &Kept| asked.is_none_or(|asked| kept.asked == asked);
    let fitting: Vec<_> = model.iter().filter(|(_, kept)| fits(kept)).collect();
    let (id, _) = fitting.get(which % fitting.len().max(1))?;
    Some((*id).clone())
}

async fn play(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::open(folder.path(), FLOW, at(0)).unwrap().0;
    let mut model: BTreeMap<DeadLetterId, Kept> = BTreeMap::new();
    let mut made = 0;
    for step in steps {
        let handle = state.handle();
        let editor = || LetterEditor::open(folder.path(), FLOW).unwrap();
        let end = async |id: &DeadLetterId, outcome| {
            let end = ReplayEnd {
                letter: id.clone(),
                ended: at(0),
                outcome,
            };
            handle.end_replays([end].into()).await.unwrap();
        };
        match step {
            Step::Add => {
                made += 1;
                let letter = unique(made);
                let id = handle.dead_letter(letter.clone()).await.unwrap();
                let kept = Kept {
                    asked: false,
                    attempts: 1,
                    body: letter.body,
                };
                model.insert(id, kept);
            }
            Step::Ask(which) => {
                let Some(id) = nth(&model, *which, None) else {
                    continue;
                };
                editor().ask(std::slice::from_ref(&id), at(0)).unwrap();
                model.get_mut(&id).unwrap().asked = true;
            }
            Step::Remove(which) => {
                let Some(id) = nth(&model, *which, None) else {
                    continue;
                };
                editor().remove(std::slice::from_ref(&id)).unwrap();
                model.remove(&id);
                // One that is not there any more fails, and takes no other with it.
                if let Some(other) = nth(&model, 0, None) {
                    editor().ask(&[other, id.clone()], at(0)).unwrap_err();
                }
                // What was under way of it changes nothing any more.
                let failed = ReplayOutcome::FailedAgain {
                    letters: vec![unique(0)],
                    reason: None,
                };
                end(&id, failed).await;
            }
            Step::End(which, parts) => {
                let Some(id) = nth(&model, *which, Some(true)) else {
                    continue;
                };
                let letters: Vec<_> = (0..*parts).map(|part| unique(made + part + 1)).collect();
                made += parts;
                let Some(first) = letters.first() else {
                    end(&id, ReplayOutcome::Committed).await;
                    model.remove(&id);
                    continue;
                };
                let before = look(folder.path());
                let outcome = ReplayOutcome::FailedAgain {
                    letters: letters.clone(),
                    reason: None,
                };
                end(&id, outcome).await;
                let attempts = model[&id].attempts + 1;
                let kept = |letter: &DeadLetter| Kept {
                    asked: false,
                    attempts,
                    body: letter.body.clone(),
                };
                model.insert(id.clone(), kept(first));
                // The others have names of their own.
                let now = look(folder.path());
                let names: Vec<_> = now.keys().filter(|id| !before.contains_key(id)).collect();
                assert_eq!(names.len() + 1, letters.len());
                for (name, letter) in names.into_iter().zip(&letters[1..]) {
                    model.insert(name.clone(), kept(letter));
                }
            }
            Step::Refuse(which) => {
                let Some(id) = nth(&model, *which, Some(true)) else {
                    continue;
                };
                end(&id, ReplayOutcome::Refused("no way".to_owned())).await;
                model.get_mut(&id).unwrap().asked = false;
            }
            Step::Stay(which) => {
                let Some(id) = nth(&model, *which, Some(true)) else {
                    continue;
                };
                let outcome = ReplayOutcome::FailedAgain {
                    letters: Vec::new(),
                    reason: Some("too many".to_owned()),
                };
                end(&id, outcome).await;
                model.get_mut(&id).unwrap().asked = false;
            }
            Step::Prune => {
                handle.prune(at(400 * 24 * 3600)).await.unwrap();
                model.retain(|_, kept| kept.asked);
            }
            Step::Crash => {
                drop((handle, state));
                state = reopened(folder.path());
            }
            Step::Close => {
                drop(handle);
                close(state).await;
                state = reopened(folder.path());
            }
        }
        assert_eq!(look(folder.path()), model, "after {step:?}");
        let asked = state.handle().asked_letters(None, 99).await.unwrap();
        let asked: BTreeSet<_> = asked.into_iter().map(|letter| letter.id).collect();
        let expected = model.iter().filter(|(_, kept)| kept.asked);
        assert_eq!(asked, expected.map(|(id, _)| id.clone()).collect());
        for (id, kept) in &model {
            // Who was told before that a letter is asked for does not replay it twice.
            let letter = state.handle().asked_letter(id).await.unwrap();
            assert_eq!(letter.is_some(), kept.asked);
        }
    }
    close(state).await;
}

/// What happens to the ticks of a pipeline.
#[derive(Clone, Debug)]
enum Tick {
    Claim(i64),
    Finish(i64),
    Crash,
    Close,
}

fn ticks() -> impl Strategy<Value = Vec<Tick>> {
    let tick = prop_oneof![
        4 => (0..5_i64).prop_map(Tick::Claim),
        2 => (0..5_i64).prop_map(Tick::Finish),
        1 => Just(Tick::Crash),
        1 => Just(Tick::Close),
    ];
    vec(tick, 1..30)
}

async fn tick_by_tick(ticks: &[Tick]) {
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::open(folder.path(), FLOW, at(0)).unwrap().0;
    state
        .handle()
        .schedule("p", "every 1s", at(0))
        .await
        .unwrap();
    // Each tick that was claimed: by this start of the flow, and whether it is done.
    let mut model: BTreeMap<i64, (bool, bool)> = BTreeMap::new();
    for tick in ticks {
        let handle = state.handle();
        match tick {
            Tick::Claim(second) => {
                let claim = handle.claim_tick("p", at(*second)).await.unwrap();
                let expected = match model.get(second) {
                    None => TickClaim::First,
                    Some((false, false)) => TickClaim::Again,
                    Some(_) => TickClaim::Taken,
                };
                assert_eq!(claim, expected, "{tick:?}");
                let done = model.get(second).is_some_and(|(_, done)| *done);
                let ours = claim != TickClaim::Taken || model[second].0;
                model.insert(*second, (ours, done));
            }
            Tick::Finish(second) => {
                handle.finish_tick("p", at(*second)).await.unwrap();
                if let Some((_, done)) = model.get_mut(second) {
                    *done = true;
                }
            }
            Tick::Crash | Tick::Close => {
                drop(handle);
                match tick {
                    Tick::Close => close(state).await,
                    _ => drop(state),
                }
                state = reopened(folder.path());
                model.values_mut().for_each(|(ours, _)| *ours = false);
                let now: Timestamp = at(100);
                let known = state.handle().schedule("p", "every 1s", now).await.unwrap();
                let open = model.iter().filter(|(_, (_, done))| !done);
                let open: Vec<_> = open.map(|(second, _)| at(*second)).collect();
                assert_eq!(known.interrupted, open);
                assert_eq!(
                    known.last_tick,
                    model.keys().next_back().map(|second| at(*second))
                );
            }
        }
    }
    close(state).await;
}

fn run(play: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.build().unwrap().block_on(play);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dead_letter_is_kept_asked_for_or_gone_whatever_happens(steps in steps()) {
        run(play(&steps));
    }

    #[test]
    fn f5_a_tick_is_claimed_once_in_a_start_and_again_only_where_a_crash_has_left_it(ticks in ticks()) {
        run(tick_by_tick(&ticks));
    }
}

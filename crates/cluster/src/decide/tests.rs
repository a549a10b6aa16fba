use std::collections::BTreeSet;

use jiff::Timestamp;

use super::*;

fn card(labels: &[&str]) -> NodeCard {
    NodeCard {
        format: FORMAT,
        program: String::new(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        cores: 2,
        memory_mib: 1,
        speed: 1.0,
        load: BTreeMap::new(),
        since: Timestamp::UNIX_EPOCH,
        drains: false,
    }
}

fn deployed(version: &str, parts: usize) -> Deployed {
    let part = |number: usize| PartSpec {
        name: format!("p{number}"),
        pipelines: vec![format!("p{number}")],
        pinned_by: Vec::new(),
        labels: BTreeSet::new(),
        cores: 0.5,
    };
    Deployed {
        format: FORMAT,
        version: version.to_owned(),
        wanted: Wanted::Running,
        failure: None,
        parts: (0..parts).map(part).collect(),
        deployed: Timestamp::UNIX_EPOCH,
        changed: Timestamp::UNIX_EPOCH,
        by: String::new(),
    }
}

/// Does as was decided, as the engine would: each write has the next revision.
fn act(view: &mut View, actions: Vec<Action>, revision: &mut u64) {
    for action in actions {
        *revision += 1;
        match action {
            Action::Assign(name, assignment, condition) => {
                let known = view.assignments.get(&name).map(|(_, revision)| *revision);
                assert_eq!(condition, known.map_or(If::Absent, If::Revision));
                view.assignments.insert(name, (assignment, *revision));
            }
            Action::Remove(name, _) => {
                view.assignments.remove(&name).unwrap();
                view.reports.remove(&name);
            }
            Action::Home(name, node) => drop(view.homes.insert(name, node)),
            Action::Fail(flow, deployed, _) => {
                view.flows.insert(flow, (*deployed, *revision));
            }
        }
    }
}

/// All nodes do as they are told, and say so.
fn obey(view: &mut View) {
    for (name, (assignment, epoch)) in &view.assignments {
        if view.nodes.contains_key(&assignment.node) {
            let report = Report {
                format: FORMAT,
                node: assignment.node.clone(),
                epoch: *epoch,
                version: assignment.version.clone(),
                phase: match assignment.wish {
                    Wish::Run => Phase::Open,
                    Wish::Leave => Phase::Left,
                },
                since: Timestamp::UNIX_EPOCH,
            };
            view.reports.insert(name.clone(), report);
        }
    }
}

/// Decides and obeys until nothing is left to do.
#[track_caller]
fn settle(view: &mut View, revision: &mut u64) {
    for _ in 0..10 {
        let actions = decide(view);
        if actions.is_empty() {
            return;
        }
        act(view, actions, revision);
        obey(view);
    }
    panic!("it does not come to rest: {:#?}", decide(view));
}

#[test]
fn what_was_decided_leaves_nothing_to_do() {
    let (mut view, mut revision) = (View::default(), 0);
    for node in ["a", "b", "c"] {
        view.nodes.insert(node.to_owned(), card(&[]));
    }
    view.flows.insert("f".to_owned(), (deployed("v1", 9), 0));
    settle(&mut view, &mut revision);
    assert_eq!(view.assignments.len(), 9);
    for node in ["a", "b", "c"] {
        let has = |(assignment, _): &&(Assignment, u64)| assignment.node == node;
        assert_eq!(view.assignments.values().filter(has).count(), 3);
    }

    view.flows.insert("f".to_owned(), (deployed("v2", 7), 0));
    settle(&mut view, &mut revision);
    assert_eq!(view.assignments.len(), 7);

    view.nodes.get_mut("a").unwrap().drains = true;
    settle(&mut view, &mut revision);
    view.nodes.remove("b");
    settle(&mut view, &mut revision);
    assert!(
        view.assignments
            .values()
            .all(|(assignment, _)| assignment.node == "c")
    );

    view.flows.get_mut("f").unwrap().0.wanted = Wanted::Stopped;
    settle(&mut view, &mut revision);
    assert!(view.assignments.is_empty());
}

#[test]
fn nothing_is_taken_from_a_node_that_may_be_there() {
    let (mut view, mut revision) = (View::default(), 0);
    view.nodes.insert("a".to_owned(), card(&[]));
    view.flows.insert("f".to_owned(), (deployed("v1", 2), 0));
    settle(&mut view, &mut revision);
    view.nodes.clear();
    view.nodes.insert("b".to_owned(), card(&[]));
    view.doubtful.insert("a".to_owned());
    assert_eq!(decide(&view), []);
    view.doubtful.clear();
    settle(&mut view, &mut revision);
    assert!(
        view.assignments
            .values()
            .all(|(assignment, _)| assignment.node == "b")
    );
}

#[test]
fn a_thousand_parts_are_placed_evenly_on_unequal_nodes() {
    let mut view = View::default();
    for (index, cores) in [2, 4, 8, 16].into_iter().enumerate() {
        let card = NodeCard { cores, ..card(&[]) };
        view.nodes.insert(format!("n{index}"), card);
    }
    view.flows.insert("f".to_owned(), (deployed("v1", 1000), 0));
    let mut revision = 0;
    settle(&mut view, &mut revision);
    for (index, cores) in [2.0, 4.0, 8.0, 16.0].into_iter().enumerate() {
        let node = format!("n{index}");
        let has = |(assignment, _): &&(Assignment, u64)| assignment.node == node;
        let count = view.assignments.values().filter(has).count() as f64;
        let fair = 1000.0 * cores / 30.0;
        assert!(
            (count - fair).abs() < 3.0,
            "{node} has {count}, {fair} would be fair"
        );
    }
}

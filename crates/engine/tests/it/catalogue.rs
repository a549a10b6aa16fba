//! The rules that every component must keep, checked by walking the catalogue.

use std::collections::BTreeSet;

use wiredflow_core::problem::Severity;
use wiredflow_engine::catalogue::Card;
use wiredflow_engine::check::{Checked, SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::senders::SENDERS;
use wiredflow_engine::sources::SOURCES;
use wiredflow_engine::stages::STAGES;
use wiredflow_engine::storages::STORAGES;

/// Where a component's example stands in a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Stage,
    Source,
    Storage,
}

fn cards() -> Vec<(Place, Card)> {
    let stages = STAGES.iter().map(|entry| (Place::Stage, entry.card));
    let senders = SENDERS.iter().map(|entry| (Place::Stage, entry.card));
    let sources = SOURCES.iter().map(|entry| (Place::Source, entry.card));
    let storages = STORAGES.iter().map(|entry| (Place::Storage, entry.card));
    stages
        .chain(senders)
        .chain(sources)
        .chain(storages)
        .collect()
}

/// Checks a flow that holds an example, in a folder with the files that examples name.
fn check(place: Place, example: &str) -> Checked {
    let folder = tempfile::tempdir().unwrap();
    let logic =
        "def order_and_calculate(**p): pass\ndef configure(**p): pass\ndef keep(**p): pass\n";
    std::fs::write(folder.path().join("logic.py"), logic).unwrap();
    let text = match place {
        Place::Stage => format!(
            "pipelines:\n  http_numbers:\n    once: true\n    stages:\n      - store: json\n      - {example}\n"
        ),
        Place::Source => format!(
            "pipelines:\n  p:\n    source: {{{}}}\n    stages:\n      - store: json\n",
            example
                .trim_start_matches("source: ")
                .trim_start_matches('{')
                .trim_end()
        ),
        Place::Storage => format!(
            "storages:\n  s: {{{example}}}\npipelines:\n  p:\n    once: true\n    stages:\n      - store: s\n"
        ),
    };
    let text = if place == Place::Source && example.starts_with("source: ") {
        format!("pipelines:\n  p:\n    {example}\n    stages:\n      - store: json\n")
    } else {
        text
    };
    // A link has two ends.
    let other_end = match place {
        _ if !example.contains("link: {") => "",
        Place::Source => "  other:\n    once: true\n    stages: [{load: p}, {link: to_store}]\n",
        Place::Stage | Place::Storage => {
            "  other:\n    source: {link: to_store}\n    stages: [{store: json}]\n"
        }
    };
    let lookup = SystemLookup::new(folder.path());
    let functions = Functions::default();
    check_text(
        &(text + other_end),
        "test",
        folder.path(),
        &functions,
        &lookup,
    )
}

#[test]
fn names_are_well_formed_and_unique_in_their_list() {
    let lists: [Vec<&str>; 4] = [
        STAGES.iter().map(|entry| entry.card.name).collect(),
        SOURCES.iter().map(|entry| entry.card.name).collect(),
        STORAGES.iter().map(|entry| entry.card.name).collect(),
        SENDERS.iter().map(|entry| entry.card.name).collect(),
    ];
    for list in lists {
        assert!(!list.is_empty());
        assert_eq!(
            list.iter().collect::<BTreeSet<_>>().len(),
            list.len(),
            "{list:?}"
        );
        assert!(
            list.is_sorted(),
            "the list is in the order of the names: {list:?}"
        );
        for name in list {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
        }
    }
}

#[test]
fn every_component_and_every_key_is_documented() {
    for (_, card) in cards() {
        assert!(card.doc.trim().len() > 10, "{} has no doc", card.name);
        for field in (card.fields)() {
            let place = format!("{}.{}", card.name, field.name);
            assert!(field.doc.trim().len() > 10, "{place} has no doc");
            assert!(
                !field.expects.is_empty(),
                "{place} says not what may stand there"
            );
            assert!(
                !field.name.ends_with("_ms"),
                "{place}: a unit belongs to the value"
            );
        }
    }
}

#[test]
fn every_example_passes_the_check() {
    for (place, card) in cards() {
        let checked = check(place, card.example);
        assert!(
            checked.plan.is_some(),
            "{}: {}\n{:#?}",
            card.name,
            card.example,
            checked.problems
        );
    }
}

#[test]
fn every_component_refuses_a_key_it_does_not_know() {
    // A key `FIELD` stands for any.
    let free = |card: &Card| (card.fields)().iter().any(|field| field.name == "FIELD");
    for (place, card) in cards().into_iter().filter(|(_, card)| !free(card)) {
        let opening = format!("{}: {{", card.name);
        let Some(start) = card.example.find(&opening) else {
            panic!(
                "the example of {} shows no key: {}",
                card.name, card.example
            );
        };
        let mut example = card.example.to_owned();
        example.insert_str(start + opening.len(), "no_such_key: 1, ");
        let checked = check(place, &example);
        let refused = checked.problems.iter().any(|problem| {
            problem.severity == Severity::Error && problem.message.contains("no_such_key")
        });
        assert!(refused, "{}: {:#?}", card.name, checked.problems);
    }
}

#[test]
fn words_of_the_interface_that_are_not_built_are_refused_as_such() {
    let stage = |stage: &str| format!("pipelines: {{p: {{once: true, stages: [{stage}]}}}}");
    let flow =
        |key: &str| format!("{key}\npipelines: {{p: {{once: true, stages: [{{store: json}}]}}}}");
    let later = [
        flow("engine: nats://localhost"),
        flow("storages: {s: {mysql: {}}}"),
        stage("{store: json, pure: true}"),
        stage("{store: json, keyed: id}"),
        stage("{store: json, pinned: true}"),
        stage("{store: {mongo: {}}}"),
        stage("{link: other/x}"),
        stage("{core_logic: {transform: x}}"),
    ];
    for text in later {
        let folder = tempfile::tempdir().unwrap();
        let lookup = SystemLookup::new(folder.path());
        let checked = check_text(&text, "test", folder.path(), &Functions::default(), &lookup);
        assert!(checked.plan.is_none(), "accepted: {text}");
        let messages: Vec<_> = checked
            .problems
            .iter()
            .map(|problem| &problem.message)
            .collect();
        assert!(
            messages
                .iter()
                .any(|message| message.contains("not built yet")),
            "{text}: {messages:?}"
        );
    }
}

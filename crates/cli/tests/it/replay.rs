//! `dead-letters replay` and `drop`, while the flow runs and while nothing does.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_testkit::{FlowTest, Signal, rows};

use crate::tool;

/// How long a flow may take for what it does at once, on a machine with very much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function that fails on odd numbers while the file `broken` is there.
const LOGIC: &str = "import os, time

def give(relevant_info=None, **params):
    for number in range(params.get('records', 10)):
        yield {'number': number}

def work(relevant_info=None, **params):
    time.sleep(params.get('pause', 0))
    if os.path.exists('broken') and relevant_info['number'] % 2:
        raise ValueError('no odd numbers today')
    return {**relevant_info, 'worked': True}
";

fn numbers(records: usize, pause: f64, trigger: &str) -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    test.file("broken", "");
    test.file(
        "flow.yaml",
        &format!(
            "name: numbers\npipelines:\n  p:\n    {trigger}\n    stages:\n      - core_logic: {{python: \
             \"logic.py:give\", params: {{records: {records}}}}}\n      - core_logic: {{python: \"logic.py:work\", \
             params: {{pause: {pause}}}}}\n        name: work\n        on_error: dead_letter\n      - store: {{jsonl: \
             {{folder: data}}}}\n"
        ),
    );
    test
}

fn letters(test: &FlowTest) -> Vec<Value> {
    let listed = test.run(["dead-letters", "list", "flow.yaml", "--json"]);
    listed.assert_code(0).json()["dead_letters"]
        .as_array()
        .unwrap()
        .clone()
}

/// Whether there are so many letters; a flow that begins has no state for a moment.
fn has_letters(test: &FlowTest, number: usize) -> bool {
    let listed = test.run(["dead-letters", "list", "flow.yaml", "--json"]);
    listed.code == 0 && listed.json()["dead_letters"].as_array().unwrap().len() == number
}

fn letter(test: &FlowTest, id: &Value) -> Value {
    let shown = test.run([
        "dead-letters",
        "show",
        "flow.yaml",
        id.as_str().unwrap(),
        "--json",
    ]);
    shown.assert_code(0).json()
}

fn stored(test: &FlowTest) -> Vec<u64> {
    let rows = wiredflow_testkit::written_rows(&test.path("data/jsonl_in_p.jsonl"));
    let number = |row: &Value| row["number"].as_u64().unwrap();
    let mut numbers: Vec<u64> = rows.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn ids(letters: &[Value]) -> BTreeSet<String> {
    let id = |letter: &Value| letter["id"].as_str().unwrap().to_owned();
    letters.iter().map(id).collect()
}

#[test]
fn a_mended_function_gets_its_dead_letters_again_and_one_that_fails_again_stays_the_same_letter() {
    let test = numbers(10, 0.0, "once: true");
    test.run(["run", "flow.yaml", "-q"]).assert_code(0);
    assert_eq!(stored(&test), [0, 2, 4, 6, 8]);
    let before = letters(&test);
    assert_eq!(before.len(), 5);

    let again = test.run(["dead-letters", "replay", "flow.yaml", "--all"]);
    again.assert_code(1);
    assert!(
        again.stdout.ends_with("5 dead letters: 5 failed again\n"),
        "{}",
        again.stdout
    );
    assert_eq!(ids(&letters(&test)), ids(&before), "the same letters");
    assert_eq!(letter(&test, &before[0]["id"])["attempts"], 2);

    std::fs::remove_file(test.path("broken")).unwrap();
    let one = before[4]["id"].as_str().unwrap();
    let first = test.run(["dead-letters", "replay", "flow.yaml", one]);
    first.assert_code(0);
    assert_eq!(
        first.stdout,
        format!("{one}  p/work  committed\n1 dead letter: 1 committed\n")
    );
    assert_eq!(letters(&test).len(), 4);
    let rest = test.run([
        "dead-letters",
        "replay",
        "flow.yaml",
        "--pipeline",
        "p",
        "--json",
    ]);
    let document = rest.assert_code(0).json();
    assert_eq!(document["ok"], true);
    let replayed = document["replayed"].as_array().unwrap();
    assert_eq!(replayed.len(), 4);
    assert!(replayed.iter().all(|end| end["outcome"] == "committed"));
    assert_eq!(stored(&test), (0..10).collect::<Vec<_>>());
    assert!(letters(&test).is_empty());
    let none = test.run(["dead-letters", "replay", "flow.yaml", "--all"]);
    assert_eq!(none.assert_code(0).stdout, "no dead letters\n");
}

#[test]
fn what_cannot_be_replayed_is_refused_with_what_there_is_and_nothing_is_done() {
    let test = numbers(2, 0.0, "once: true");
    test.run(["run", "flow.yaml", "-q"]).assert_code(0);
    let id = letters(&test)[0]["id"].as_str().unwrap().to_owned();
    let check = |arguments: &[&str], code: i32, words: &str| {
        let ran = test.run(["dead-letters"].iter().chain(arguments));
        ran.assert_code(code);
        assert!(ran.stderr.contains(words), "{words}\n{}", ran.stderr);
        assert_eq!(letter(&test, &json!(id)).get("asked"), None);
    };
    for verb in ["replay", "drop"] {
        check(
            &[verb, "flow.yaml", &id, "zzz"],
            2,
            "there is no dead letter `zzz`",
        );
        check(&[verb, "flow.yaml"], 2, "say which: ");
        check(&[verb, "flow.yaml", &id, "--all"], 2, "give either names");
    }
    let text = test.read("flow.yaml");
    test.file("flow.yaml", &text.replace("name: work", "name: other"));
    check(
        &["replay", "flow.yaml", &id],
        2,
        "the pipeline `p` has no stage `work`: ",
    );
    check(&["replay", "flow.yaml", &id], 2, "other");
    let all = test.run(["dead-letters", "replay", "flow.yaml", "--all", "--json"]);
    let document = all.assert_code(1).json();
    assert_eq!(document["replayed"][0]["outcome"], "refused");
    test.file("flow.yaml", &text.replace("  p:\n", "  q:\n"));
    check(
        &["replay", "flow.yaml", &id],
        2,
        "the flow has no pipeline `p`: ",
    );
    test.file("flow.yaml", &text.replace("stages:", "stagse:"));
    check(&["replay", "flow.yaml", &id], 2, "stagse");
    check(&["list", "flow.yaml", "--json"], 0, "");
    test.file("flow.yaml", &text);
    let dropped = test.run(["dead-letters", "drop", "flow.yaml", &id[..15], "--json"]);
    assert_eq!(dropped.assert_code(0).json(), json!({ "dropped": [id] }));
    assert!(letters(&test).is_empty());
}

#[test]
fn a_running_flow_takes_up_what_is_asked_for_beside_its_work() {
    // One pipeline goes on, one has ended when its letters are asked for.
    for trigger in ["every: 1h", "once: true"] {
        let test = numbers(6, 0.0, trigger);
        let text = test.read("flow.yaml");
        test.file(
            "flow.yaml",
            &format!(
                "{text}  clock:\n    every: 1h\n    stages:\n      - core_logic: {{python: \"logic.py:give\"}}\n"
            ),
        );
        let mut running = test.spawn(["run", "flow.yaml"]);
        running.wait_until(PATIENCE, || {
            stored(&test).len() == 3 && has_letters(&test, 3)
        });
        let asked = test.run(["dead-letters", "replay", "flow.yaml", "--all"]);
        asked.assert_code(1);
        assert!(
            asked.stdout.contains("3 failed again"),
            "{}\n{}",
            asked.stdout,
            running.stderr()
        );
        let kept = letters(&test);
        assert_eq!(kept.len(), 3);
        let one = kept[0]["id"].as_str().unwrap();
        test.run(["dead-letters", "drop", "flow.yaml", one])
            .assert_code(0);
        std::fs::remove_file(test.path("broken")).unwrap();
        let asked = test.run(["dead-letters", "replay", "flow.yaml", "--all", "--json"]);
        let document = asked.assert_code(0).json();
        assert_eq!(document["replayed"].as_array().unwrap().len(), 2);
        assert!(letters(&test).is_empty());
        assert_eq!(stored(&test).len(), 5);
        assert!(!running.has_ended(), "{}", running.stderr());
        running.signal(Signal::Int);
        running.wait(PATIENCE).assert_code(0);
    }
}

#[test]
fn what_is_asked_for_outlives_the_flow_and_is_replayed_at_its_next_start() {
    let test = numbers(6, 0.0, "every: 1h");
    test.run(["run", "flow.yaml", "-q", "--once"])
        .assert_code(0);
    std::fs::remove_file(test.path("broken")).unwrap();
    let asked = test.run(["dead-letters", "replay", "flow.yaml", "--all", "--no-wait"]);
    asked.assert_code(0);
    assert_eq!(stored(&test).len(), 3);
    let shown = test.run(["dead-letters", "show", "flow.yaml"]);
    assert!(shown.stdout.contains("asked"), "{}", shown.stdout);
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(PATIENCE, || letters(&test).is_empty());
    assert!(stored(&test).len() >= 6);
    running.signal(Signal::Int);
    running.wait(PATIENCE).assert_code(0);
}

#[test]
fn a2_a_kill_while_letters_are_replayed_leaves_each_done_or_asked_for() {
    const RECORDS: usize = 120;
    let test = numbers(RECORDS, 0.0, "once: true");
    test.run(["run", "flow.yaml", "-q"]).assert_code(0);
    std::fs::remove_file(test.path("broken")).unwrap();
    let text = test.read("flow.yaml");
    test.file("flow.yaml", &text.replace("pause: 0", "pause: 0.02"));
    let mut kills = 0;
    loop {
        let before = stored(&test).len();
        // The first asks; each other start finds them asked for.
        let mut replay = match kills % 2 {
            0 => test.spawn(["dead-letters", "replay", "flow.yaml", "--all"]),
            _ => test.spawn(["run", "flow.yaml", "--for", "10m"]),
        };
        replay.wait_until(PATIENCE, || stored(&test).len() > before + 7);
        replay.signal(Signal::Kill);
        replay.wait(PATIENCE);
        kills += 1;
        let stored: BTreeSet<u64> = stored(&test).into_iter().collect();
        let left = letters(&test);
        let bodies: Vec<Value> = left.iter().map(|left| letter(&test, &left["id"])).collect();
        for letter in &bodies {
            assert!(letter.get("asked").is_some(), "{letter}");
        }
        let kept = bodies
            .iter()
            .map(|letter| letter["body"]["number"].as_u64().unwrap());
        let all: BTreeSet<u64> = stored.iter().copied().chain(kept).collect();
        assert_eq!(all.len(), RECORDS, "kill {kills}: neither stored nor kept");
        if kills == 3 || left.len() < 20 {
            break;
        }
    }
    test.run(["dead-letters", "replay", "flow.yaml", "--all"])
        .assert_code(0);
    assert!(letters(&test).is_empty());
    let numbers = stored(&test);
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    // A run that was started in between has given the even ones, and all others, once more.
    assert_eq!(distinct.len(), RECORDS);
}

#[test]
fn a_payload_that_could_not_be_read_is_read_again_and_goes_through_the_first_stage() {
    let test = tool();
    let port = wiredflow_testkit::free_port();
    let flow = |format: &str| {
        format!(
            "pipelines:\n  p:\n    source: {{webhook: {{listen: \"127.0.0.1:{port}\", path: /in{format}}}}}\n    stages:\n      \
             - set: {{seen: true}}\n      - store: {{jsonl: {{folder: data}}}}\n"
        )
    };
    test.file("flow.yaml", &flow(""));
    let mut running = test.spawn(["run", "flow.yaml"]);
    let mut told = String::new();
    running.wait_until(PATIENCE, || {
        told = post(port, "no json").unwrap_or_default();
        told.contains("cannot be read")
    });
    running.signal(Signal::Int);
    running.wait(PATIENCE).assert_code(0);
    let again = test.run(["dead-letters", "replay", "flow.yaml", "--all"]);
    again.assert_code(1);
    assert!(
        again.stdout.contains("failed again: the payload from `"),
        "{}",
        again.stdout
    );
    test.file("flow.yaml", &flow(", format: text"));
    test.run(["dead-letters", "replay", "flow.yaml", "--all"])
        .assert_code(0);
    let rows = rows("jsonl", &test.path("data/jsonl_in_p.jsonl")).unwrap();
    assert!(!rows.is_empty());
    assert_eq!(rows[0], json!({"value": "no json", "seen": true}));
    assert!(letters(&test).is_empty());
}

fn post(port: u16, body: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut peer = std::net::TcpStream::connect(("127.0.0.1", port))?;
    peer.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        peer,
        "POST /in HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut told = String::new();
    peer.read_to_string(&mut told)?;
    Ok(told)
}

#[test]
fn a_batch_goes_as_a_batch_and_what_fails_of_it_alone_is_a_letter_of_its_own() {
    let test = tool();
    test.file(
        "logic.py",
        "import json, os\n\ndef give(relevant_info=None, **params):\n    for id in range(3):\n        yield {'id': id}\n\ndef \
         work(relevant_info=None, **params):\n    assert isinstance(relevant_info, list), 'no list'\n    if \
         os.path.exists('broken'):\n        raise ValueError('broken')\n    return [r if r['id'] == 1 else {'no': r['id']} \
         for r in relevant_info]\n",
    );
    test.file("broken", "");
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:give\"}\n      - \
         core_logic: {python: \"logic.py:work\"}\n        name: work\n        batch: {max: 3, within: 10s}\n        \
         on_error: dead_letter\n      - store: {sqlite: {path: data/p.db, table: rows}, key: id}\n",
    );
    test.run(["run", "flow.yaml", "-q"]).assert_code(0);
    let kept = letters(&test);
    assert_eq!(kept.len(), 1);
    assert_eq!(
        letter(&test, &kept[0]["id"])["body"],
        json!([{"id": 0}, {"id": 1}, {"id": 2}])
    );
    std::fs::remove_file(test.path("broken")).unwrap();
    // The sink refuses two, and has no `on_error`: what is replayed stops nothing.
    let replayed = test.run(["dead-letters", "replay", "flow.yaml", "--all", "--json"]);
    let document = replayed.assert_code(1).json();
    let end = &document["replayed"][0];
    assert_eq!(end["outcome"], "dead_lettered");
    assert_eq!(end["became"].as_array().unwrap().len(), 2);
    let parts = letters(&test);
    assert_eq!(
        ids(&parts),
        end["became"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect()
    );
    assert!(parts.iter().any(|part| part["id"] == kept[0]["id"]));
    let mut bodies = Vec::new();
    for part in &parts {
        assert_eq!(part["stage"], "store");
        bodies.push(letter(&test, &part["id"])["body"].to_string());
    }
    bodies.sort();
    assert_eq!(bodies, ["{\"no\":0}", "{\"no\":2}"]);
    let rows = rows("sqlite", &test.path("data/p.db")).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["id"], 1);
}

#[test]
fn params_go_with_the_secret_of_today_and_never_with_stars() {
    let flow = |header: &str| {
        format!(
            "pipelines:\n  p:\n    once: true\n    stages:\n      - configuration: {{python: \"logic.py:configure\", params: \
             {{token: \"{header}\"}}}}\n      - core_logic: {{python: \"logic.py:work\"}}\n        name: work\n        \
             on_error: dead_letter\n      - store: {{jsonl: {{folder: data}}}}\n"
        )
    };
    let test = tool().env("TOKEN", "canary-77aa");
    test.file(
        "logic.py",
        "import os\n\ndef configure(token=None, **params):\n    return {'key': 'Bearer ' + token, 'number': 7}\n\ndef \
         work(relevant_info=None, key=None, number=None, **params):\n    if os.path.exists('broken'):\n        raise \
         ValueError('broken')\n    return {'number': number, 'length': len(key)}\n",
    );
    test.file("broken", "");
    test.file("flow.yaml", &flow("${env:TOKEN}"));
    test.run(["run", "flow.yaml", "-q"]).assert_code(0);
    let kept = letters(&test);
    let id = kept[0]["id"].as_str().unwrap();
    let shown = letter(&test, &kept[0]["id"]);
    assert_eq!(shown["params"], json!({"key": "Bearer ***", "number": 7}));
    std::fs::remove_file(test.path("broken")).unwrap();
    test.file("flow.yaml", &flow("plain"));
    let refused = test.run(["dead-letters", "replay", "flow.yaml", id]);
    refused.assert_code(2);
    assert!(
        refused.stderr.contains(
            "its params held the secret `${env:TOKEN}`, which is not in the flow file any more"
        ),
        "{}",
        refused.stderr
    );
    test.file("flow.yaml", &flow("${env:TOKEN}"));
    test.run(["dead-letters", "replay", "flow.yaml", id])
        .assert_code(0);
    let rows = rows("jsonl", &test.path("data/jsonl_in_p.jsonl")).unwrap();
    assert_eq!(
        rows,
        [json!({"number": 7, "length": "Bearer canary-77aa".len()})]
    );
    for entry in std::fs::read_dir(test.path(".wiredflow")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        let canary = b"canary-77aa";
        assert!(!bytes.windows(canary.len()).any(|window| window == canary));
    }
}

#[test]
fn a_second_command_and_a_drop_while_letters_are_replayed_hurt_nothing() {
    let test = numbers(60, 0.0, "every: 1h");
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(PATIENCE, || has_letters(&test, 30));
    std::fs::remove_file(test.path("broken")).unwrap();
    let last = letters(&test)[0]["id"].as_str().unwrap().to_owned();
    let all = ["dead-letters", "replay", "flow.yaml", "--all", "--json"];
    let (one, two) = (test.spawn(all), test.spawn(all));
    // It may be through already: then it is not there any more.
    let dropped = test.run(["dead-letters", "drop", "flow.yaml", &last]);
    assert!(matches!(dropped.code, 0..=2), "{}", dropped.stderr);
    running.wait_until(PATIENCE, || letters(&test).is_empty());
    let numbers = stored(&test);
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(
        numbers.len(),
        distinct.len(),
        "none is stored twice: {numbers:?}"
    );
    assert!(distinct.len() >= 59);
    running.signal(Signal::Int);
    running.wait(PATIENCE).assert_code(0);
    // What was dropped or taken by the other is not waited for longer than the flow runs.
    for replay in [one, two] {
        let ended = replay.wait(Duration::from_secs(60));
        assert!(
            matches!(ended.code, 0..=2),
            "{}\n{}",
            ended.stdout,
            ended.stderr
        );
    }
}

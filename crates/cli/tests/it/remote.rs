//! Stages that run elsewhere: in another process, and on another machine over a real sshd.

mod asked;
mod broken;
mod hostile;
mod refused;
mod sent;
mod slurm;

use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_testkit::{
    Finished, FlowTest, HttpPeer, Reply, Signal, Sshd, wait_until, written_rows,
};

use crate::{SOON, tool};

/// What copies a program of a hundred megabytes and starts it, on a machine with much else to do.
pub(crate) const A_WHILE: Duration = Duration::from_secs(60);

/// Functions of all sorts.
pub(crate) const LOGIC: &str = r#"
import json, os, time

def configure(**params):
    yield {"factor": 2}
    yield {"factor": 3}

def work(relevant_info=None, db_connectors=None, factor=1, **params):
    print("at work with", factor)
    rows = db_connectors["numbers"].load() or []
    yield [{"made": row["n"] * factor} for row in rows]
    yield {"last": factor}

def fails(relevant_info=None, **params):
    raise ValueError("not " + str(relevant_info))

def counts(relevant_info=None, **params):
    with open(os.environ["MARKS"], "a") as marks:
        marks.write(str(relevant_info[0]["n"]) + "\n")
    time.sleep(0.02)
    return {"n": relevant_info[0]["n"], "twice": 2 * relevant_info[0]["n"]}

def sleeps(relevant_info=None, **params):
    with open(os.environ["MARKS"], "a") as marks:
        marks.write(str(os.getpid()) + "\n")
    time.sleep(1000)

def takes(relevant_info=None, **params):
    held = bytearray(400 << 20)
    return {"held": len(held)}
"#;

/// A flow whose stages run at `place`, in a folder with its files.
fn flow(place: &str, remotes: &str, pipelines: &str) -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    let text = format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}");
    test.file("flow.yaml", &text.replace("PLACE", place));
    let marks = test.path("marks");
    let marks = marks.to_str().unwrap().to_owned();
    test.env("MARKS", &marks)
}

/// The two remotes: a process of its own, and a host.
fn both(sshd: &Sshd, marks: &std::path::Path) -> String {
    let env = format!("env: {{MARKS: \"{}\"}}", marks.display());
    format!(
        "  own: {{process: {{}}}}\n  big: {{ssh: {{{}, {env}}}}}",
        sshd.route()
    )
}

/// Records with the numbers from 0 on, from a stream of one pipeline to another's functions.
pub(crate) fn numbers(count: usize) -> String {
    format!(
        "with recursive n(n) as (select 0 union all select n + 1 from n where n < {}) select n from n",
        count - 1
    )
}

#[test]
fn a_stage_gives_the_same_wherever_it_runs() {
    let sshd = Sshd::start();
    let peer = HttpPeer::start();
    peer.on("/numbers", Reply::json(json!([{"n": 7}, {"n": 8}])));
    let pipelines = format!(
        r#"
  fill:
    once: true
    stages:
      - core_logic: {{sql: "{}"}}
      - store: numbers
  made:
    once: true
    delay: 1s
    stages:
      - configuration: {{python: "logic.py:configure"}}
        remote: PLACE
      - core_logic: {{python: "logic.py:work"}}
        remote: PLACE
      - store: {{jsonl: {{folder: data}}}}
  summed:
    once: true
    delay: 1s
    stages:
      - core_logic: {{sql: "select sum(n) as sum, count(*) as count from numbers where n > :least", params: {{least: 0}}}}
        remote: PLACE
      - store: {{jsonl: {{folder: data}}}}
  asked:
    once: true
    stages:
      - http: {{url: "{}"}}
        remote: PLACE
      - core_logic: {{program: [sh, -c, "cat; echo said >&2"]}}
        remote: PLACE
        name: piped
      - store: {{jsonl: {{folder: data}}}}
  bad:
    once: true
    stages:
      - core_logic: {{python: "logic.py:fails"}}
        remote: PLACE
        on_error: dead_letter
      - store: {{jsonl: {{folder: data}}}}
"#,
        numbers(3),
        peer.url("/numbers")
    );
    let mut all = Vec::new();
    for place in ["local", "own", "big"] {
        let test = tool();
        test.file("logic.py", LOGIC);
        let remotes = both(&sshd, &test.path("marks"));
        let text = format!(
            "name: t\nlisten: off\nstorages: {{numbers: {{jsonl: {{folder: data}}}}}}\nremotes:\n{remotes}\npipelines:\n{pipelines}"
        );
        test.file("flow.yaml", &text.replace("PLACE", place));
        let filled = test.spawn(["run", "flow.yaml", "--once", "--pipeline", "fill"]);
        filled.wait(A_WHILE).assert_code(0);
        let rest = ["made", "summed", "asked", "bad"].map(|name| ["--pipeline", name]);
        let rest = ["run", "flow.yaml", "--once"]
            .into_iter()
            .chain(rest.into_iter().flatten());
        let ran = test.spawn(rest).wait(A_WHILE);
        ran.assert_code(0);
        let rows = |name: &str| written_rows(&test.path(format!("data/jsonl_in_{name}.jsonl")));
        let rows: Vec<Vec<Value>> = ["made", "summed", "asked"].map(rows).into();
        let letters = test
            .run(["dead-letters", "list", "flow.yaml", "--json"])
            .json();
        let letter = &letters["dead_letters"][0];
        let shown = test.run([
            "dead-letters",
            "show",
            "flow.yaml",
            letter["id"].as_str().unwrap(),
            "--json",
        ]);
        let trace = shown.assert_code(0).stdout.contains("raise ValueError");
        for line in ["at work with 2", "at work with 3", "said"] {
            assert!(ran.stderr.contains(line), "{place}: {line}\n{}", ran.stderr);
        }
        all.push((
            place,
            rows,
            letter["reason"].clone(),
            letter["stage"].clone(),
            trace,
        ));
    }
    let (_, rows, reason, stage, trace) = &all[0];
    assert!(
        *trace && reason.as_str().unwrap().contains("not "),
        "{reason}"
    );
    assert_eq!(rows[0].len(), 8, "{rows:?}");
    assert_eq!(rows[1], [json!({"sum": 3, "count": 2})]);
    for (place, other_rows, other_reason, other_stage, other_trace) in &all[1..] {
        assert_eq!(other_rows, rows, "{place}");
        assert_eq!(
            (other_reason, other_stage, other_trace),
            (reason, stage, trace),
            "{place}"
        );
    }
    wait_until(SOON, || sshd.processes("worker").is_empty());
}

/// Runs numbers through `logic.py:FUNCTION` at a place.
pub(crate) fn through(function: &str, count: usize, options: &str) -> String {
    format!(
        r#"
  p:
    once: true
    stages:
      - core_logic: {{sql: "{}"}}
      - core_logic: {{python: "logic.py:{function}", processes: 4}}
        name: far
        remote: PLACE
        batch: {{max: 1, within: 1s}}
{options}
      - store: {{jsonl: {{folder: data}}}}
"#,
        numbers(count)
    )
}

pub(crate) fn stored(test: &FlowTest) -> Vec<Value> {
    match test.path("data/jsonl_in_p.jsonl").exists() {
        true => written_rows(&test.path("data/jsonl_in_p.jsonl")),
        false => Vec::new(),
    }
}

/// Each number was stored once, in order, and each call was made once.
#[track_caller]
pub(crate) fn check_each_once(test: &FlowTest, count: usize) {
    let expected: Vec<Value> = (0..count)
        .map(|n| json!({"n": n, "twice": 2 * n}))
        .collect();
    assert_eq!(stored(test), expected);
    let mut marks: Vec<usize> = test
        .read("marks")
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    marks.sort_unstable();
    assert_eq!(marks, (0..count).collect::<Vec<_>>());
}

#[test]
fn two_hundred_calls_at_once_go_by_one_connection() {
    let sshd = Sshd::start();
    let test = tool();
    let remotes = both(&sshd, &test.path("marks")).replace("port:", "slots: 200, port:");
    test.file("logic.py", LOGIC);
    let pipelines = through("counts", 200, "        parallel: 200").replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    check_each_once(&test, 200);
    assert_eq!(sshd.connections(), 1);
}

#[test]
fn the_profile_says_where_a_stage_ran_and_what_the_way_there_took() {
    let sshd = Sshd::start();
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(&sshd, &test.path("marks"));
    let pipelines = through("counts", 50, "").replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let ran = test
        .spawn(["profile", "flow.yaml", "--for", "30s", "--json"])
        .wait(A_WHILE);
    let profile = ran.assert_code(0).json();
    let stages = profile["stages"].as_array().unwrap();
    let far = stages.iter().find(|stage| stage["stage"] == "far").unwrap();
    assert_eq!(
        (&far["where"], &far["calls"]),
        (&json!("big"), &json!(50)),
        "{far}"
    );
    let seconds = |name: &str| far["seconds"][name].as_f64().unwrap();
    // 50 sleeps of 20 ms there; the way there is no part of them.
    assert!(seconds("external") >= 0.95, "{far}");
    assert!(seconds("overhead") > 0.0, "{far}");
    let sum: f64 = [
        "compute",
        "external",
        "blocked",
        "starved",
        "throttled",
        "overhead",
    ]
    .iter()
    .map(|name| seconds(name))
    .sum();
    assert!(
        (sum - seconds("wall")).abs() <= 0.01 * seconds("wall"),
        "{far}"
    );
    let others = stages.iter().filter(|stage| stage["stage"] != "far");
    assert!(
        others.into_iter().all(|stage| stage["where"] == "local"),
        "{profile}"
    );
}

#[test]
fn a_time_limit_ends_what_works_elsewhere() {
    let sshd = Sshd::start();
    for place in ["own", "big"] {
        let test = tool();
        test.file("logic.py", LOGIC);
        let marks = test.path("marks");
        let remotes = both(&sshd, &marks);
        let options = "        timeout: 1s\n        on_error: dead_letter";
        let pipelines = through("sleeps", 1, options).replace("PLACE", place);
        test.file(
            "flow.yaml",
            &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
        );
        let test = test.env("MARKS", marks.to_str().unwrap());
        let running = test.spawn(["run", "flow.yaml"]);
        wait_until(A_WHILE, || {
            marks.exists() && test.read("marks").ends_with('\n')
        });
        let process: u32 = test.read("marks").trim().parse().unwrap();
        let works = || {
            std::fs::read_to_string(format!("/proc/{process}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"))
        };
        wait_until(SOON, || !works());
        running.signal(Signal::Term);
        running.wait(SOON).assert_code(0);
        let letters = test
            .run(["dead-letters", "list", "flow.yaml", "--json"])
            .json();
        let reason = letters["dead_letters"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("1s"), "{place}: {reason}");
    }
}

#[test]
fn a_process_that_takes_too_much_memory_is_ended_and_the_flow_is_not() {
    let pipelines = through("takes", 1, "        on_error: dead_letter")
        .replace("processes: 4", "processes: 1");
    let test = flow(
        "own",
        "  own: {process: {memory: 128MiB, cpu: 1}}",
        &pipelines,
    );
    let ran: Finished = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(0);
    let letters = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    let letter = &letters["dead_letters"][0];
    let shown = test.run([
        "dead-letters",
        "show",
        "flow.yaml",
        letter["id"].as_str().unwrap(),
    ]);
    assert!(
        shown.stdout.contains("its `memory` is 128 MiB"),
        "{}",
        shown.stdout
    );
}

#[test]
fn another_place_takes_the_calls_of_one_that_is_away() {
    let mut sshd = Sshd::start();
    sshd.go_away();
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(&sshd, &test.path("marks"));
    let pipelines = through("counts", 5, "").replace("PLACE", "[big, own, local]");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let marks = test.path("marks");
    let test = test.env("MARKS", marks.to_str().unwrap());
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(0);
    check_each_once(&test, 5);
    assert!(ran.stderr.contains("cannot be reached"), "{}", ran.stderr);
}

/// A package for Python, made by hand: a wheel is a zip file with a few names in it.
const WHEEL: &str = r#"
import zipfile
with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as wheel:
    info = "tiny-1.0.dist-info/"
    wheel.writestr("tiny.py", "ANSWER = 42\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", f"tiny.py,,\n{info}METADATA,,\n{info}WHEEL,,\n{info}RECORD,,\n")
"#;

#[test]
fn what_requirements_txt_names_is_installed_there_once() {
    let sshd = Sshd::start();
    let can = sshd.ssh("python3 -m venv $HOME/trial && rm -r $HOME/trial");
    if !can.status.success() {
        return wiredflow_testkit::skipped(
            "packages are installed elsewhere",
            "there is no python3-venv",
        );
    }
    let test = tool();
    test.file(
        "logic.py",
        "import tiny\ndef work(**params):\n    return {\"answer\": tiny.ANSWER}\n",
    );
    test.file(
        "requirements.txt",
        "--no-index\n./tiny-1.0-py3-none-any.whl\n",
    );
    test.file("wheel.py", WHEEL);
    let made = std::process::Command::new("python3")
        .arg("wheel.py")
        .current_dir(test.folder())
        .status();
    assert!(made.unwrap().success());
    let text = format!(
        "name: t\nlisten: off\nremotes:\n  big: {{ssh: {{{}, files: [tiny-1.0-py3-none-any.whl]}}}}\npipelines:\n  p:\n    \
         once: true\n    stages:\n      - core_logic: {{python: \"logic.py:work\"}}\n        remote: big\n      - store: {{jsonl: {{folder: data}}}}\n",
        sshd.route()
    );
    test.file("flow.yaml", &text);
    for _ in 0..2 {
        test.spawn(["run", "flow.yaml", "--once"])
            .wait(A_WHILE)
            .assert_code(0);
    }
    assert_eq!(
        stored(&test),
        [json!({"answer": 42}), json!({"answer": 42})]
    );
    let venvs = sshd.cache().join("wiredflow/venv").read_dir().unwrap();
    let venvs = venvs.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(venvs.count(), 1);

    test.file("requirements.txt", "--no-index\nno-such-package\n");
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(
        ran.stderr
            .contains("`requirements.txt` cannot be installed"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("no-such-package"), "{}", ran.stderr);
}

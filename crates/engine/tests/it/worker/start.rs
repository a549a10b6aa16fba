//! Workers that do not become ready, and what the user reads then.

use std::time::{Duration, Instant};

use serde_json::json;
use wiredflow_core::frame::Role;
use wiredflow_core::{Error, ErrorKind};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::tasks::Tasks;
use wiredflow_engine::worker::{Launch, Pool};

use super::{Bench, children, failure, holds, none, run, until};

async fn refused(bench: &Bench, launch: Launch) -> Error {
    let error = bench.open_with(launch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    until("no process is left", || children().is_empty()).await;
    error
}

fn python() -> Launch {
    Launch::python("python3", "numbers.logic")
}

#[tokio::test]
async fn what_is_wrong_with_the_users_file_is_told_when_it_is_opened() {
    for (code, parts, trace) in [
        (
            "import no_such_module\ndef f(): pass\n",
            &["ModuleNotFoundError", "no_such_module"][..],
            "logic.py\", line 1",
        ),
        ("def f(:\n", &["SyntaxError"], "logic.py\", line 1"),
        (
            "def f(): pass\nraise ValueError('at import')\n",
            &["ValueError: at import"],
            "line 2, in <module>",
        ),
        (
            "import sys\nsys.exit(4)\ndef f(): pass\n",
            &["sys.exit(4)"],
            "line 2, in <module>",
        ),
        (
            "import os, sys\nprint('last words', file=sys.stderr)\nos._exit(5)\n",
            &["at its start", "exit status 5"],
            "last words",
        ),
    ] {
        let bench = Bench::new(code).function("f", Role::CoreLogic);
        let error = refused(&bench, python()).await;
        holds(error.message(), parts);
        holds(error.trace().unwrap(), &[trace]);
    }
    for (code, name, parts) in [
        (
            "def ordered(): pass\n",
            "order",
            &[
                "`logic.py` has no function `order`",
                "did you mean `ordered`?",
            ][..],
        ),
        ("def a(): pass\n", "zzzzzz", &["it has: a"]),
        ("a = 5\n", "a", &["no function `a`"]),
    ] {
        holds(
            refused(&Bench::new(code).function(name, Role::CoreLogic), python())
                .await
                .message(),
            parts,
        );
    }
    let mut bench = Bench::new("def f(): pass\n");
    bench.functions[0].source = Some("logick.py:f".to_owned());
    holds(
        refused(&bench, python()).await.message(),
        &["no Python file `logick.py`"],
    );
}

#[tokio::test]
async fn a_file_that_hangs_while_it_is_imported_is_stopped_and_says_where() {
    let bench = Bench::new("import time\nprint('importing')\ntime.sleep(1000)\n")
        .function("f", Role::CoreLogic);
    let within = Duration::from_secs(4);
    let surroundings = (Clock::real(), Tasks::default());
    let opened = Pool::open(
        python(),
        bench.start(),
        1,
        within,
        bench.host.clone(),
        surroundings,
    )
    .await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    holds(error.message(), &["not ready within 4s"]);
    holds(error.trace().unwrap(), &["logic.py\", line 3"]);
    assert!(bench.host.has_line("importing"));
    assert!(children().is_empty());
}

#[tokio::test]
async fn a_missing_interpreter_or_program_comes_with_advice() {
    let bench = Bench::new("def f(): pass\n");
    let error = refused(&bench, Launch::python("no-such-python", "x")).await;
    holds(
        error.message(),
        &["`no-such-python` was not found", "install Python 3.8"],
    );
    let program = Launch::program(&["no-such-program".to_owned()]).unwrap();
    holds(
        refused(&bench, program).await.message(),
        &["`no-such-program` was not found"],
    );
    let data = Launch::program(&["/etc/passwd".to_owned()]).unwrap();
    holds(
        refused(&bench, data).await.message(),
        &["`/etc/passwd` may not be run"],
    );
    assert_eq!(Launch::program(&[]).unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_refused() {
    let bench = Bench::new("def f(): pass\n");
    let frame = |text: &str| {
        let length: String = u32::try_from(text.len())
            .unwrap()
            .to_be_bytes()
            .iter()
            .map(|byte| format!("\\{byte:03o}"))
            .collect();
        format!("printf '{length}%s' '{text}'; sleep 100")
    };
    let hello = |version: u32| {
        format!(r#"{{"type":"hello","version":{version},"functions":["f"],"slots":1}}"#)
    };
    for (script, parts) in [
        (
            "echo usage >&2; exit 2".to_owned(),
            &["exit status 2", "`usage`"][..],
        ),
        ("exec cat".to_owned(), &["only a host sends"]),
        (
            "echo 'Hello, I am no worker'; sleep 100".to_owned(),
            &["over the limit"],
        ),
        (frame("{"), &["cannot be read"]),
        (
            frame(r#"{"type":"done","id":1}"#),
            &["call 1, which is not open"],
        ),
        (frame(&hello(99)), &["version 99", "version 1"]),
    ] {
        let launch = Launch::program(&["sh".to_owned(), "-c".to_owned(), script.clone()]).unwrap();
        let error = refused(&bench, launch).await;
        holds(error.message(), parts);
    }
}

#[tokio::test]
async fn a_users_module_cannot_stand_in_for_pythons_own() {
    let bench = Bench::new(
        "import json, helper\ndef f():\n    return [json.dumps([1]), helper.NAME, __name__]\n",
    );
    for name in ["select", "traceback", "collections", "signal", "inspect"] {
        std::fs::write(
            bench.path(&format!("{name}.py")),
            "raise ValueError('the wrong one')\n",
        )
        .unwrap();
    }
    std::fs::write(bench.path("helper.py"), "NAME = __name__\n").unwrap();
    let pool = bench.open().await.unwrap();
    assert_eq!(
        run(&pool, "f", none()).await.unwrap(),
        [json!(["[1]", "helper", "logic"])]
    );
}

#[tokio::test]
async fn a_worker_that_dies_at_every_start_is_started_ever_more_rarely() {
    let bench = Bench::new(
        "import os\nif os.path.exists('broken'): os._exit(9)\ndef f(): return 'works'\ndef end(): os._exit(1)\n",
    );
    let pool = bench.open().await.unwrap();
    std::fs::write(bench.path("broken"), "").unwrap();
    holds(
        failure(&pool, "end", none()).await.message(),
        &["exit status 1"],
    );
    let mut waits = Vec::new();
    for _ in 0..6 {
        let begun = Instant::now();
        let error = failure(&pool, "f", none()).await;
        assert_eq!(error.kind(), ErrorKind::Data);
        holds(error.message(), &["at its start", "exit status 9"]);
        waits.push(begun.elapsed());
    }
    let shortest = waits[..5].iter().min().unwrap();
    assert!(
        waits[5] >= *shortest + Duration::from_millis(500),
        "{waits:?}"
    );
    std::fs::remove_file(bench.path("broken")).unwrap();
    assert_eq!(run(&pool, "f", none()).await.unwrap(), [json!(["works"])]);
}

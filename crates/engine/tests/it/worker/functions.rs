//! What a user's Python function is given, and what becomes of what it gives.

use serde_json::json;
use wiredflow_core::ErrorKind;
use wiredflow_core::frame::{Level, Role};
use wiredflow_core::storage::Loaded;

use super::{Bench, TestHost, failure, holds, many, none, one, params, run, until, written};

#[tokio::test]
async fn a_batch_is_none_a_dict_or_a_list() {
    let bench = Bench::new(
        "def see(relevant_info=None, **params):\n    return {'type': type(relevant_info).__name__, 'data': relevant_info}\n",
    );
    let pool = bench.open().await.unwrap();
    for (given, seen) in [
        (none(), json!({"type": "NoneType", "data": null})),
        (
            one(json!({"a": 1})),
            json!({"type": "dict", "data": {"a": 1}}),
        ),
        (
            many(&[json!({"a": 1})]),
            json!({"type": "list", "data": [{"a": 1}]}),
        ),
        (
            many(&[json!({"a": 1}), json!(2)]),
            json!({"type": "list", "data": [{"a": 1}, 2]}),
        ),
    ] {
        assert_eq!(run(&pool, "see", given).await.unwrap(), [json!([seen])]);
    }
}

#[tokio::test]
async fn core_logic_gets_what_it_can_take() {
    let bench = Bench::new(
        "def upstream(relevant_info=None, db_connectors=None, **params):\n    return [relevant_info, sorted(db_connectors), params]\n\
         def everything(**params):\n    return sorted(params)\n\
         def nothing():\n    return 'called'\n\
         def named(pipeline_name, limit=3):\n    return [pipeline_name, limit]\n\
         def first(record, factor=1):\n    return {'n': record['n'] * factor}\n\
         def strict(relevant_info):\n    return relevant_info\n",
    );
    let pool = bench.open().await.unwrap();
    let data = || one(json!({"n": 2}));
    let with = |params| super::Given { params, ..data() };
    let upstream = run(&pool, "upstream", with(json!({"limit": 1})))
        .await
        .unwrap();
    assert_eq!(
        upstream,
        [json!([{"n": 2}, ["rows", "state"], {"limit": 1, "pipeline_name": "numbers"}])]
    );
    let everything = run(&pool, "everything", data()).await.unwrap();
    assert_eq!(
        everything,
        [json!(["db_connectors", "pipeline_name", "relevant_info"])]
    );
    assert_eq!(
        run(&pool, "nothing", data()).await.unwrap(),
        [json!(["called"])]
    );
    assert_eq!(
        run(&pool, "named", data()).await.unwrap(),
        [json!(["numbers", 3])]
    );
    assert_eq!(
        run(&pool, "first", with(json!({"factor": 5})))
            .await
            .unwrap(),
        [json!([{"n": 10}])]
    );
    let refused = failure(&pool, "strict", with(json!({"limit": 1}))).await;
    assert_eq!(refused.kind(), ErrorKind::Data);
    holds(refused.message(), &["TypeError", "strict()", "'limit'"]);
}

#[tokio::test]
async fn the_other_roles_are_called_in_their_own_ways() {
    let bench = Bench::new(
        "def configure(pipeline_name, rows, db_connectors, limit, **rest):\n    return {'p': pipeline_name, 'rows': rows.load(), 'same': rows is db_connectors['rows'], 'limit': limit, 'rest': sorted(rest)}\n\
         def short(limit):\n    return {'limit': limit}\n\
         def fetch(url, **rest):\n    yield {'url': url, 'rest': rest}\n    yield [{'n': 1}, {'n': 2}]\n\
         def keep(data, **params):\n    open('kept', 'a').write(repr((data, params)))\n    return 'dropped'\n\
         def deliver(data, **params):\n    yield open('kept', 'a').write(repr(data))\n\
         def clean(data, **params):\n    return {'clean': data}\n",
    )
    .function("configure", Role::Configuration)
    .function("short", Role::Configuration)
    .function("fetch", Role::Http)
    .function("keep", Role::Store)
    .function("deliver", Role::Send)
    .function("clean", Role::Preprocess)
    .host(TestHost::default().holds("rows", Loaded::Rows(vec![json!({"a": 1})])));
    let pool = bench.open().await.unwrap();
    let limit = || params(json!({"limit": 5}));
    let configured = run(&pool, "configure", limit()).await.unwrap();
    assert_eq!(
        configured,
        [
            json!([{"p": "numbers", "rows": [{"a": 1}], "same": true, "limit": 5, "rest": ["state"]}])
        ]
    );
    assert_eq!(
        run(&pool, "short", limit()).await.unwrap(),
        [json!([{"limit": 5}])]
    );
    let fetched = run(&pool, "fetch", params(json!({"url": "u"})))
        .await
        .unwrap();
    assert_eq!(
        fetched,
        [
            json!([{"url": "u", "rest": {}}]),
            json!([{"n": 1}, {"n": 2}])
        ]
    );
    let with = super::Given {
        params: json!({"x": 1}),
        ..one(json!({"a": 1}))
    };
    assert!(run(&pool, "keep", with).await.unwrap().is_empty());
    assert!(run(&pool, "keep", none()).await.unwrap().is_empty());
    assert!(
        run(&pool, "deliver", many(&[json!(7)]))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(written(&bench.path("kept")), "({'a': 1}, {'x': 1})[7]");
    assert_eq!(
        run(&pool, "clean", one(json!(1))).await.unwrap(),
        [json!([{"clean": 1}])]
    );
    assert_eq!(run(&pool, "clean", none()).await.unwrap(), [json!([])]);
}

#[tokio::test]
async fn a_generator_waits_for_those_who_take_and_is_closed_in_good_order() {
    let bench = Bench::new(
        "def count(**params):\n    try:\n        for n in range(10**9):\n            open('made', 'a').write('x')\n            yield {'n': n}\n    finally:\n        open('closed', 'w').write('yes')\n",
    );
    let pool = bench.open().await.unwrap();
    let given = none();
    let mut running = pool.call(given.request("count")).await.unwrap();
    for n in 0..20 {
        let batch = running.next().await.unwrap().unwrap();
        assert_eq!(batch.values().next(), Some(&json!({"n": n})));
    }
    let made = || written(&bench.path("made")).len();
    until("the generator is ahead", || made() > 20).await;
    // Nothing is taken now: what it makes is bounded by the credit, and one that waits for it.
    let before = made();
    tokio::time::timeout(
        std::time::Duration::from_millis(300),
        std::future::pending::<()>(),
    )
    .await
    .unwrap_err();
    assert!(
        made() <= 20 + 4 + 1,
        "{} were made, {before} before",
        made()
    );
    running.close().await.unwrap();
    assert_eq!(written(&bench.path("closed")), "yes");
    let mut again = pool.call(given.request("count")).await.unwrap();
    assert_eq!(
        again.next().await.unwrap().unwrap().values().next(),
        Some(&json!({"n": 0}))
    );
}

#[tokio::test]
async fn async_functions_run_and_share_one_loop() {
    let bench = Bench::new(
        "import asyncio\nLOOPS = set()\n\
         async def work(relevant_info=None):\n    LOOPS.add(asyncio.get_running_loop())\n    await asyncio.sleep(0.001)\n    return {'loops': len(LOOPS)}\n\
         async def stream(until, **params):\n    for n in range(until):\n        await asyncio.sleep(0)\n        yield n\n",
    );
    let pool = bench.open().await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            run(&pool, "work", none()).await.unwrap(),
            [json!([{"loops": 1}])]
        );
    }
    let streamed = run(&pool, "stream", params(json!({"until": 9})))
        .await
        .unwrap();
    assert_eq!(streamed, (0..9).map(|n| json!([n])).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_exception_has_the_traceback_of_the_users_code_only() {
    let bench = Bench::new(
        "def deeper(value):\n    return 1 / value\n\
         def fail(**params):\n    try:\n        deeper(0)\n    except ZeroDivisionError as error:\n        raise ValueError('the glass is empty 😀 \\ud800') from error\n\
         def later(**params):\n    yield 1\n    fail()\n",
    );
    let pool = bench.open().await.unwrap();
    let error = failure(&pool, "fail", none()).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.message(), "ValueError: the glass is empty 😀 \\ud800");
    let trace = error.trace().unwrap();
    holds(
        trace,
        &[
            "line 2, in deeper",
            "return 1 / value",
            "ZeroDivisionError",
            "direct cause",
            "in fail",
        ],
    );
    assert!(!trace.contains("wiredflow"), "{trace}");
    let given = none();
    let mut running = pool.call(given.request("later")).await.unwrap();
    assert!(running.next().await.unwrap().is_some());
    holds(
        running.next().await.unwrap_err().trace().unwrap(),
        &["in later", "in fail"],
    );
    assert!(running.next().await.unwrap().is_none());
}

#[tokio::test]
async fn storages_are_read_and_written_through_the_host() {
    let bench = Bench::new(
        "def load(name, db_connectors, **query):\n    query.pop('relevant_info'), query.pop('pipeline_name')\n    return {'loaded': db_connectors[name].load(**query)}\n\
         def save(name, relevant_info, db_connectors):\n    db_connectors[name].save(relevant_info)\n    return {'saved': db_connectors[name].load()}\n\
         def parallel(db_connectors):\n    import threading\n    got = []\n    threads = [threading.Thread(target=lambda: got.append(len(db_connectors['rows'].load()))) for _ in range(8)]\n    [t.start() for t in threads], [t.join() for t in threads]\n    return got\n",
    )
    .host(
        TestHost::default()
            .holds("rows", Loaded::Rows(vec![json!({"n": "1"}), json!({"n": "2"})]))
            .holds("state", Loaded::Object(json!({"a": 1}).as_object().unwrap().clone())),
    );
    let pool = bench.open().await.unwrap();
    let load = |query| run(&pool, "load", params(query));
    assert_eq!(
        load(json!({"name": "rows"})).await.unwrap(),
        [json!([{"loaded": [{"n": "1"}, {"n": "2"}]}])]
    );
    assert_eq!(
        load(json!({"name": "rows", "limit": 1})).await.unwrap(),
        [json!([{"loaded": [{"n": "2"}]}])]
    );
    assert_eq!(
        load(json!({"name": "state"})).await.unwrap(),
        [json!([{"loaded": {"a": 1}}])]
    );
    let given = super::Given {
        params: json!({"name": "rows"}),
        ..one(json!({"n": 3}))
    };
    assert_eq!(
        run(&pool, "save", given).await.unwrap(),
        [json!([{"saved": [{"n": "1"}, {"n": "2"}, {"n": 3}]}])]
    );
    let unknown = failure(&pool, "load", params(json!({"name": "row"}))).await;
    holds(unknown.message(), &["KeyError", "`row`", "rows, state"]);
    bench.host.storages.lock().unwrap().remove("state");
    let away = failure(&pool, "load", params(json!({"name": "state"}))).await;
    assert_eq!(
        (away.kind(), away.message()),
        (ErrorKind::Remote, "`state` is away")
    );
    bench
        .host
        .storages
        .lock()
        .unwrap()
        .insert("state".to_owned(), Loaded::Nothing);
    assert_eq!(
        load(json!({"name": "state"})).await.unwrap(),
        [json!([{"loaded": null}])]
    );
    assert_eq!(
        run(&pool, "parallel", none()).await.unwrap(),
        [json!([3, 3, 3, 3, 3, 3, 3, 3])]
    );
}

#[tokio::test]
async fn prints_and_logging_become_lines_with_their_levels() {
    let bench = Bench::new(
        "import logging, subprocess, sys\n\
         def say(**params):\n    print('ü one'); print('two\\nthree')\n    sys.stderr.write('to stderr\\n')\n    logging.getLogger('mine').warning('warned'); logging.getLogger('mine').info('unseen')\n    logging.basicConfig(level=logging.DEBUG, format='%(name)s|%(message)s')\n    logging.getLogger('mine').debug('debugged'); logging.error('bad')\n    print('x' * 100000)\n    subprocess.check_call(['echo', 'from', 'a', 'child'])\n    print('no end \\ud800', end='')\n",
    );
    let pool = bench.open().await.unwrap();
    run(&pool, "say", none()).await.unwrap();
    let host = &bench.host;
    until("stderr is read", || {
        host.has_line("to stderr") && host.has_line("from a child")
    })
    .await;
    let said = host.lines.lock().unwrap().clone();
    let level = |part: &str| {
        said.iter()
            .find(|(_, line)| line == part)
            .map(|(level, _)| *level)
    };
    for (line, expected) in [
        ("ü one", Level::Info),
        ("two", Level::Info),
        ("three", Level::Info),
        ("no end \\ud800", Level::Info),
        ("warned", Level::Warn),
        ("mine|debugged", Level::Debug),
        ("root|bad", Level::Error),
        ("to stderr", Level::Info),
        ("from a child", Level::Info),
    ] {
        assert_eq!(level(line), Some(expected), "{line} in {said:?}");
    }
    assert!(!host.has_line("unseen"));
    let long = said
        .iter()
        .find(|(_, line)| line.starts_with("xxx"))
        .unwrap();
    assert!(
        long.1.len() < 20_000 && long.1.contains("cut"),
        "{}",
        long.1.len()
    );
}

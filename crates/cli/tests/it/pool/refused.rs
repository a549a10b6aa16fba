//! What is refused: flows that say what cannot be, and nodes that may not join.

use std::path::Path;

use wiredflow_testkit::{Nats, NatsVersion, wait_until};

use super::{Node, flow, run_once};
use crate::remote::{check_each_once, through};
use crate::{SOON, tool};

#[test]
fn check_says_what_cannot_be() {
    for (workers, part) in [
        (
            "{engine: \"nats://u:p@10.0.0.1\"}",
            "an address with a login in it",
        ),
        (
            "{engine: \"http://10.0.0.1\"}",
            "is not the address of an engine",
        ),
        ("{engine: []}", "no engine is named"),
        (
            "{engine: \"nats://localhost\", labels: [\"task.*.>\"]}",
            "is no label",
        ),
        (
            "{engine: \"nats://localhost\", auth: {user: u}}",
            "one login is wanted",
        ),
        (
            "{engine: \"nats://localhost\", auth: {token: t, seed: s}}",
            "one login is wanted",
        ),
        (
            "{engine: \"nats://localhost\", auth: {credentials: none.creds}}",
            "there is no file `none.creds`",
        ),
        (
            "{engine: \"nats://localhost\", tls: {insecure: true}}",
            "always looked at",
        ),
        (
            "{engine: \"nats://localhost\", files: [\"../x\"]}",
            "is not in the flow's folder",
        ),
        ("{engine: \"nats://localhost\", slots: 0}", "from 1 to 1024"),
    ] {
        let test = tool();
        let stages =
            "[{core_logic: {sql: \"select 1 as n\"}, remote: pool}, {store: {jsonl: {folder: d}}}]";
        test.file(
            "flow.yaml",
            &format!("name: t\nremotes: {{pool: {{workers: {workers}}}}}\npipelines: {{p: {{once: true, stages: {stages}}}}}"),
        );
        let checked = test.run(["check", "flow.yaml"]);
        checked.assert_code(2);
        let said = format!("{}{}", checked.stdout, checked.stderr);
        assert!(said.contains(part), "{workers}: {said}");
    }
}

#[test]
fn a_node_says_what_is_wrong_with_its_arguments() {
    for (arguments, part) in [
        (vec![], "--engine"),
        (
            vec!["--engine", "nats://127.0.0.1:1", "--label", "a b"],
            "is no label",
        ),
        (
            vec!["--engine", "nats://127.0.0.1:1", "--allow", "store"],
            "no kind of code or stage",
        ),
        (
            vec!["--engine", "nats://127.0.0.1:1", "--slots", "0"],
            "at least 1",
        ),
        (
            vec!["--engine", "nats://127.0.0.1:1", "--name", "a.b"],
            "is no name",
        ),
    ] {
        let ended = tool().run(["node"].into_iter().chain(arguments.iter().copied()));
        ended.assert_code(2);
        assert!(
            ended.stderr.contains(part),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
    let far = tool().run(["node", "--engine", "nats://10.255.255.1:4222"]);
    far.assert_code(1);
    assert!(far.stderr.contains("in the clear"), "{}", far.stderr);
}

#[test]
fn a_server_with_users_wants_them_of_flows_and_nodes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = NatsVersion::Debian.program(folder).unwrap();
    let server = Nats::with().user("ada", "right").start(&program);
    let ended = tool().run(["node", "--engine", &server.url()]);
    ended.assert_code(1);
    let test = tool()
        .env("WIREDFLOW_ENGINE_USER", "ada")
        .env("WIREDFLOW_ENGINE_PASSWORD", "right");
    let cache = test.path("cache");
    let test = test.env("XDG_CACHE_HOME", cache.to_str().unwrap());
    let node = test.spawn(["node", "--engine", &server.url(), "--state", "node"]);
    wait_until(SOON, || node.stderr().contains("INFO  node `"));

    let login = ", auth: {user: ada, password: \"${env:PASSWORD}\"}";
    let flow = flow(&server.url(), login, &through("counts", 3, ""));
    let wrong = flow.env("PASSWORD", "wrong");
    run_once(&wrong).assert_code(1);
    let right = wrong.env("PASSWORD", "right");
    run_once(&right).assert_code(0);
    check_each_once(&right, 3);
}

#[test]
fn a_node_takes_only_what_it_allows() {
    let server = super::server();
    let _narrow = Node::start(&server.url(), &["--name", "narrow", "--allow", "http,send"]);
    let test = flow(&server.url(), "", &through("counts", 3, ""));
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    let told = "`narrow` takes no `core_logic`";
    wait_until(SOON, || running.stderr().contains(told));
    let _wide = Node::start(&server.url(), &["--name", "wide"]);
    running.wait(SOON).assert_code(0);
    check_each_once(&test, 3);
}

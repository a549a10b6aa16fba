//! Where a flow listens, and the verbs that find it there.

use std::net::TcpListener;

use serde_json::Value;
use wiredflow_testkit::{Authority, Signal, wait_until};

use super::{Api, QUIET, address, token};
use crate::{SOON, tool};

#[test]
fn the_verbs_find_a_flow_by_its_file_and_by_its_url() {
    let api = Api::run(QUIET);
    api.wait_open("hourly");
    api.wait_open("hook");
    let run = |arguments: &[&str]| api.test.run(arguments.iter().copied());
    let status = run(&["status", "flow.yaml", "--json"]);
    let document = status.assert_code(0).json();
    assert_eq!(
        (&document["flow"], &document["state"]),
        (&"quiet".into(), &"running".into())
    );
    assert_eq!(document["pipelines"].as_array().unwrap().len(), 2);
    let shown = run(&["status", "flow.yaml"]);
    assert!(
        shown.assert_code(0).stdout.contains("quiet is running"),
        "{}",
        shown.stdout
    );
    run(&["pause", "flow.yaml", "hourly"]).assert_code(0);
    assert!(
        run(&["status", "flow.yaml", "hourly"])
            .stdout
            .contains("paused")
    );
    let url = format!("http://{}", api.address);
    let operator = ".wiredflow/token.operator";
    run(&["resume", &url, "hourly", "--token-file", operator]).assert_code(0);
    assert_eq!(api.pipeline("hourly")["paused"], false);
    let paused = run(&["pause", "flow.yaml", "--json"]);
    assert_eq!(
        paused.assert_code(0).json()["pipelines"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        run(&["pause", "flow.yaml", "hook"]).assert_code(0).stdout,
        "hook was paused before\n"
    );
    run(&["resume", "flow.yaml"]).assert_code(0);
    assert_eq!(
        run(&["resume", "flow.yaml", "hook"]).assert_code(0).stdout,
        "hook was not paused\n"
    );
    // Another flow of the same folder is not the one that runs.
    api.test.file("other.yaml", QUIET);
    let other = run(&["status", "other.yaml"]);
    other.assert_code(0);
    api.test
        .file("other.yaml", &QUIET.replace("name: quiet", "name: other"));
    let other = run(&["status", "other.yaml"]);
    let said = &other.assert_code(1).stderr;
    assert!(
        said.contains("`other` does not run") && said.contains("is `quiet`"),
        "{said}"
    );
    // A profile of one pipeline of the flow that runs.
    let one = [
        "profile",
        "--attach",
        "flow.yaml",
        "--for",
        "1s",
        "--pipeline",
        "hourly",
        "--json",
    ];
    let profile = run(&one).assert_code(0).json();
    let names = |key: &str| {
        let all = profile[key].as_array().unwrap().iter();
        all.map(|one| one["pipeline"].clone()).collect::<Vec<_>>()
    };
    assert!(
        names("stages")
            .iter()
            .chain(&names("pipelines"))
            .all(|name| name == "hourly")
    );
    assert_eq!(names("pipelines").len(), 1);
    // Streams are passed over where nobody names them.
    assert_eq!(
        run(&["trigger", "flow.yaml"]).assert_code(0).stdout,
        "triggered hourly\n"
    );
    wait_until(SOON, || {
        api.pipeline("hourly")["deliveries"]["committed"] == 1
    });
    run(&["trigger", "flow.yaml", "hook"]).assert_code(1);
    let logs = run(&["logs", "flow.yaml", "hourly", "--json"]);
    let lines = logs.assert_code(0).json();
    let lines = lines["logs"].as_array().unwrap().clone();
    assert!(
        lines
            .iter()
            .any(|line| line["message"].as_str().unwrap().starts_with("paused")),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .all(|line| line["fields"]["pipeline"] == "hourly")
    );
    assert!(
        run(&["logs", "flow.yaml"])
            .assert_code(0)
            .stdout
            .contains("API at http://127.0.0.1")
    );

    let viewer = ".wiredflow/token.viewer";
    let refused = run(&["pause", &url, "hourly", "--token-file", viewer]);
    refused.assert_code(2);
    assert!(refused.stderr.contains("operator"), "{}", refused.stderr);
    run(&["status", &url]).assert_code(2);
    run(&["status", &url, "--token-file", "flow.yaml"]).assert_code(2);
    run(&[
        "status",
        "http://plant.example:8420",
        "--token-file",
        viewer,
    ])
    .assert_code(2);
    run(&["status", "flow.yaml", "hourli"]).assert_code(2);
    run(&["pause", "flow.yaml", "hourli"]).assert_code(2);
    api.running.signal(Signal::Term);
    api.running.wait(SOON).assert_code(0);
    let gone = api.test.run(["status", "flow.yaml"]);
    gone.assert_code(1);
    assert!(gone.stderr.contains("does not run"), "{}", gone.stderr);
}

#[test]
fn the_verbs_find_no_flow_after_a_kill() {
    let api = Api::run(QUIET);
    api.running.signal(Signal::Kill);
    api.running.wait(SOON).assert_code(137);
    // The note is left, and believed no more.
    assert!(api.test.path(".wiredflow/listen").exists());
    api.test.run(["status", "flow.yaml"]).assert_code(1);
}

#[test]
fn logs_follow_a_flow_to_its_end() {
    let api = Api::run(QUIET);
    api.wait_open("hourly");
    let following = api.test.spawn(["logs", "flow.yaml", "--follow"]);
    following.stdout_contains("API at", SOON);
    api.ask("admin", "POST", "/api/v1/pipelines/hourly/pause")
        .is(200);
    following.stdout_contains("paused: it starts nothing new", SOON);
    following.signal(Signal::Int);
    following.wait(SOON).assert_code(0);
}

#[test]
fn the_default_port_gives_way_and_a_port_of_the_file_does_not() {
    let flow =
        "pipelines: {p: {every: 1h, delay: 1h, stages: [{core_logic: {program: [echo, '{}']}}]}}\n";
    // Two flows at once: other tests may have the default port too.
    let both = [Api::run(flow), Api::run(flow)];
    assert_ne!(both[0].address, both[1].address);
    for api in &both {
        assert!(api.address.ip().is_loopback());
        api.send("GET", "/health", "").is(200);
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let test = tool();
    test.file(
        "flow.yaml",
        &format!("listen: '{}'\n{flow}", taken.local_addr().unwrap()),
    );
    let refused = test.run(["run", "flow.yaml"]);
    refused.assert_code(1);
    assert!(
        refused.stderr.contains("another program has the port"),
        "{}",
        refused.stderr
    );
    assert!(
        !test.path(".wiredflow/state.db").exists(),
        "nothing has run"
    );
}

#[test]
fn a_flow_that_does_not_listen_has_no_port_and_no_token() {
    let test = tool();
    test.file(
        "flow.yaml",
        "listen: off\npipelines: {p: {every: 1h, delay: 1h, stages: [{core_logic: {program: [echo, '{}']}}]}}\n",
    );
    let running = test.spawn(["run", "flow.yaml"]);
    running.stderr_contains("running; ^C", SOON);
    assert!(!running.stderr().contains("API at"));
    assert!(!test.path(".wiredflow/token").exists());
    let told = test.run(["status", "flow.yaml"]);
    told.assert_code(1);
    assert!(told.stderr.contains("does not listen"), "{}", told.stderr);
}

#[test]
fn other_machines_are_let_in_by_tls_alone() {
    let test = tool();
    let flow = |listen: &str| {
        format!(
            "name: t\nlisten: {listen}\npipelines: {{p: {{every: 1h, delay: 1h, stages: [{{core_logic: {{program: [echo, '{{}}']}}}}]}}}}\n"
        )
    };
    for (listen, word) in [
        ("0.0.0.0:0", "it wants `tls"),
        ("'[::]:8420'", "it wants `tls"),
        ("{address: '10.0.0.1:8420'}", "it wants `tls"),
        ("nowhere", "is no address"),
        (
            "{address: '0.0.0.0:0', tls: {cert: none.pem, key: none.pem}}",
            "cannot read",
        ),
        ("{adress: '127.0.0.1:0'}", "address"),
        ("on", "is no address"),
    ] {
        test.file("flow.yaml", &flow(listen));
        let checked = test.run(["check", "flow.yaml", "--json"]);
        let document = checked.assert_code(2).json();
        assert!(document.to_string().contains(word), "{listen}: {document}");
        assert!(
            document["problems"][0]["path"]
                .as_str()
                .unwrap()
                .starts_with("listen"),
            "{document}"
        );
    }
    let identity = Authority::self_signed();
    let listen = format!(
        "{{address: '0.0.0.0:0', tls: {{cert: '{}', key: '{}'}}}}",
        identity.certificate.display(),
        identity.key.display()
    );
    test.file("flow.yaml", &flow(&listen));
    let running = test.spawn(["run", "flow.yaml"]);
    let address = address(&test, &running);
    // By its very certificate.
    let status: Value = test
        .run(["status", "flow.yaml", "--json"])
        .assert_code(0)
        .json();
    assert_eq!(status["flow"], "t");
    // Nobody vouches for it at its URL.
    let url = format!("https://{address}");
    let unknown = test.run(["status", &url, "--token-file", ".wiredflow/token"]);
    unknown.assert_code(1);
    let curl = |more: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command.args([
            "-sk",
            "-o",
            "-",
            "-w",
            "%{http_code}",
            &url.replace("0.0.0.0", "127.0.0.1"),
        ]);
        command
            .args(more)
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let path = |path: &str| format!("{url}{path}");
    // H15: other machines reach it, so metrics want the token.
    assert!(curl(&[&path("/metrics")]).unwrap().ends_with("401"));
    let login = format!("authorization: Bearer {}", token(&test, "viewer"));
    assert!(
        curl(&["-H", &login, &path("/metrics")])
            .unwrap()
            .contains("wiredflow_flow_info")
    );
    // Without TLS there is no answer.
    let mut plain = std::net::TcpStream::connect(address).unwrap();
    plain.set_read_timeout(Some(SOON)).unwrap();
    std::io::Write::write_all(
        &mut plain,
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    .unwrap();
    assert_ne!(super::read_reply(&mut plain).status, 200);
}

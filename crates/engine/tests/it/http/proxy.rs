//! Proxies that the environment names. A program cannot change its own environment safely, so the
//! tests run a part of themselves as another process.

use std::process::Command;

use wiredflow_core::ErrorKind;
use wiredflow_testkit::{HttpPeer, Reply};

use super::{Flow, contains};

const LOCAL: &str = "WIREDFLOW_TEST_LOCAL_PEER";

/// Runs the test `asks` as a process that has the peer as its proxy.
fn asks(proxy: &HttpPeer, local: &HttpPeer) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "http::proxy::asks_by_the_proxy", "--nocapture"])
        .env("HTTP_PROXY", proxy.url(""))
        .env("http_proxy", proxy.url(""))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env(LOCAL, local.url("/local"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_proxy_of_the_environment_is_used_but_not_for_this_machine() {
    let (proxy, local) = (HttpPeer::start(), HttpPeer::start());
    proxy.on(
        "http://peer.invalid/x",
        Reply::bytes("application/json", "[1]"),
    );
    proxy.on("http://peer.invalid/login", Reply::code(407));
    local.on("/local", Reply::bytes("application/json", "[2]"));
    asks(&proxy, &local);
    assert_eq!(local.requests().len(), 1);
    let asked: Vec<String> = proxy
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(
        asked,
        ["http://peer.invalid/x", "http://peer.invalid/login"]
    );
}

/// The part that runs as another process; does nothing when it is run with the others.
#[tokio::test]
async fn asks_by_the_proxy() {
    let Ok(local) = std::env::var(LOCAL) else {
        return;
    };
    let flow = Flow::new();
    assert_eq!(flow.values("http: http://peer.invalid/x").await, [1]);
    let error = flow.error("http: http://peer.invalid/login").await;
    assert_eq!(error.kind(), ErrorKind::Config);
    contains(&error, &["the proxy refused the credentials"]);
    assert_eq!(flow.values(&format!("http: {local}")).await, [2]);
}

//! Whole flows behind a webhook, asked by curl.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use wiredflow_core::Value;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::run::{RunOptions, Running, start};
use wiredflow_testkit::{Authority, free_port, written_rows};

use super::SOON;

fn run(folder: &Path, pipeline: &str) -> Running {
    let mut functions = Functions::default();
    functions.register_simple("odd", |call| match call.data["n"].as_i64() {
        Some(number) if number % 2 == 1 => Err(wiredflow_core::Error::data("it is odd")),
        _ => Ok(call.data.clone()),
    });
    let text = format!("pipelines: {{p: {pipeline}}}");
    let lookup = SystemLookup::new(folder);
    let checked = check_text(&text, "test", folder, &functions, &lookup);
    let plan = checked
        .plan
        .unwrap_or_else(|| panic!("{:#?}", checked.problems));
    start(&plan, &RunOptions::default()).unwrap()
}

/// Asks with curl; returns status and body. It tries again while nobody listens yet.
async fn curl(args: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command
        .args([
            "-sS",
            "--noproxy",
            "*",
            "--retry",
            "50",
            "--retry-delay",
            "0",
            "--retry-connrefused",
        ])
        .args([
            "--retry-max-time",
            "10",
            "--max-time",
            "10",
            "-w",
            "\n%{http_code}",
        ])
        .args(args);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn stored(folder: &Path) -> Vec<Value> {
    written_rows(&folder.join("data/jsonl_in_p.jsonl"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_by_200_is_stored_and_what_cannot_be_read_is_a_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let running = run(
        folder.path(),
        &format!(
            "{{source: {{webhook: {{listen: '127.0.0.1:{port}', path: /in}}}}, stages: [{{core_logic: {{rust: odd}}, on_error: dead_letter}}, {{store: jsonl}}]}}"
        ),
    );
    let url = format!("http://127.0.0.1:{port}/in");
    let (status, body) = curl(&["-d", r#"{"n": 2}"#, &url]).await;
    assert_eq!((status, body.as_str()), (200, r#"{"status":"committed"}"#));
    assert_eq!(stored(folder.path()), [serde_json::json!({"n": 2})]);
    // The flow's own policy has set it aside: it need not be sent again.
    let (status, body) = curl(&["-d", r#"{"n": 3}"#, &url]).await;
    assert_eq!(
        (status, body.as_str()),
        (200, r#"{"status":"dead_lettered"}"#)
    );
    let (status, body) = curl(&["-d", "{n: 4}", &url]).await;
    assert_eq!(status, 400, "{body}");
    let large = folder.path().join("large");
    std::fs::write(&large, " ".repeat((1 << 20) + 1)).unwrap();
    let (status, _) = curl(&["--data-binary", &format!("@{}", large.display()), &url]).await;
    assert_eq!(status, 413);
    assert_eq!(stored(folder.path()).len(), 1);

    running.stopper().stop();
    let ended = tokio::time::timeout(SOON, running.finished())
        .await
        .unwrap();
    assert!(ended.report.ok && !ended.at_once, "{:#?}", ended.report);
    let deliveries = ended.report.pipelines["p"].deliveries;
    assert_eq!((deliveries.committed, deliveries.dead_lettered), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_stops_the_flow_is_told_and_nothing_is_left_open() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let running = run(
        folder.path(),
        &format!(
            "{{source: {{webhook: {{listen: '127.0.0.1:{port}'}}}}, stages: [{{core_logic: {{rust: odd}}}}, {{store: jsonl}}]}}"
        ),
    );
    let url = format!("http://127.0.0.1:{port}/");
    let (status, body) = curl(&["--retry", "0", "-d", r#"{"n": 1}"#, &url]).await;
    // Whether its end or the flow's comes first: it is not committed.
    assert!([500, 503].contains(&status), "{status} {body}");
    assert!(!body.contains("odd"), "{body}");
    let ended = tokio::time::timeout(Duration::from_secs(20), running.finished());
    assert!(!ended.await.unwrap().report.ok);
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_login_open_it_to_other_machines() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (identity, port) = (authority.server(), free_port());
    let running = run(
        folder.path(),
        &format!(
            "{{source: {{webhook: {{listen: '0.0.0.0:{port}', auth: {{bearer: t0ken}}, tls: {{cert: '{}', key: '{}'}}}}}}, stages: [{{store: jsonl}}]}}",
            identity.certificate.display(),
            identity.key.display()
        ),
    );
    let url = format!("https://127.0.0.1:{port}/");
    let ca = authority.path().display().to_string();
    let token = ["-H", "Authorization: Bearer t0ken"];
    let (status, body) =
        curl(&[&["--cacert", &ca, "-d", "[1, 2]", &url], &token[..]].concat()).await;
    assert_eq!(status, 200, "{body}");
    let (status, _) = curl(&["--cacert", &ca, "-d", "[3]", &url]).await;
    assert_eq!(status, 401);
    // Neither without trust nor without TLS.
    let (status, _) = curl(&["--retry", "0", "-d", "[4]", &url]).await;
    assert_eq!(status, 0);
    let plain = url.replace("https", "http");
    let (status, _) = curl(&["--retry", "0", "-d", "[5]", &plain]).await;
    assert_eq!(status, 0);
    assert_eq!(stored(folder.path()), [1, 2]);
    running.stopper().stop();
    let ended = tokio::time::timeout(SOON, running.finished())
        .await
        .unwrap();
    assert!(ended.report.ok, "{:#?}", ended.report);
}

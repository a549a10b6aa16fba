//! Others read it: a Prometheus server, and a tester that knows nothing but the description. Both are heavy, and wait
//! for `scripts/test --all`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use wiredflow_testkit::{free_port, python_program, skipped, thorough, wait_until};

use super::{Api, LISTEN};
use crate::{SOON, tool};

/// The tester, at a version that is known.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

fn flow() -> String {
    format!(
        "name: scraped\n{LISTEN}pipelines:\n  fast: {{every: 200ms, stages: [{{core_logic: {{program: [echo, '{{}}']}}}}, {{store: jsonl}}]}}\n  \
         fails: {{every: 1s, stages: [{{core_logic: {{program: [echo, '{{}}']}}}}, {{core_logic: {{program: ['false']}}, on_error: dead_letter}}, {{store: jsonl}}]}}\n  \
         hook: {{source: {{webhook: {{listen: '127.0.0.1:0'}}}}, stages: [{{store: jsonl}}]}}\n"
    )
}

/// Ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn asked(url: &str) -> Option<Value> {
    let output = Command::new("curl")
        .args(["-s", "-m", "5", url])
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

#[test]
fn prometheus_scrapes_the_metrics_without_a_warning() {
    let case = "a Prometheus server scrapes /metrics";
    if !thorough() {
        return skipped(case, "it is one of `scripts/test --all`");
    }
    if Command::new("prometheus")
        .arg("--version")
        .output()
        .is_err()
    {
        return skipped(case, "there is no `prometheus`");
    }
    let test = tool();
    test.file("flow.yaml", &flow());
    let api = Api::start(test, &[]);
    let port = free_port();
    let token = api.test.path(".wiredflow/token.viewer");
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: wiredflow\n    authorization: {{credentials_file: '{}'}}\n    static_configs: [{{targets: ['{}']}}]\n",
        token.display(),
        api.address
    );
    let config = api.test.file("prometheus.yml", &config);
    let log = std::fs::File::create(api.test.path("prometheus.log")).unwrap();
    let server = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            api.test.path("tsdb").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let _server = Ends(server.unwrap());
    let url = format!("http://127.0.0.1:{port}/api/v1");
    let target =
        || asked(&format!("{url}/targets")).map(|all| all["data"]["activeTargets"][0].clone());
    wait_until(SOON * 3, || {
        target().is_some_and(|target| target["health"] == "up")
    });
    assert_eq!(target().unwrap()["lastError"], "");
    let values = |query: &str| {
        let found = asked(&format!("{url}/query?query={query}"));
        found.map_or(0, |found| {
            found["data"]["result"].as_array().map_or(0, Vec::len)
        })
    };
    for query in [
        "wiredflow_flow_info",
        "wiredflow_stage_seconds_total",
        "wiredflow_stage_service_seconds_bucket",
        "wiredflow_pipeline_deliveries_total",
        "wiredflow_dead_letters",
        "process_cpu_seconds_total",
    ] {
        wait_until(SOON, || values(query) > 0);
    }
    // Each activity of each stage, and no sample twice.
    assert_eq!(values("wiredflow_stage_seconds_total"), 6 * 6);
    let samples = values("scrape_samples_scraped==scrape_samples_post_metric_relabeling");
    assert_eq!(samples, 1);
    let log = api.test.read("prometheus.log");
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("level=warn") || line.contains("level=error"))
        .collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn h3_a_tester_that_knows_only_the_description_finds_no_fault() {
    let case = "schemathesis tries docs/openapi.json";
    if !thorough() {
        return skipped(case, "it is one of `scripts/test --all`");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = match python_program(folder, SCHEMATHESIS, "schemathesis") {
        Ok(place) => place.join("bin/schemathesis"),
        Err(why) => return skipped(case, &format!("schemathesis cannot be had: {why}")),
    };
    let test = tool();
    test.file("flow.yaml", &flow());
    let api = Api::start(test, &[]);
    api.wait_open("hook");
    let description = api.test.file("openapi.json", wiredflow_api::OPEN_API);
    let output = Command::new(program)
        .arg("run")
        .arg(description)
        .args(["--url", &format!("http://{}", api.address)])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", api.token("admin")),
        ])
        // Events have no end, and a profile takes up to a minute by itself.
        .args([
            "--exclude-path",
            "/api/v1/events",
            "--exclude-path",
            "/api/v1/profile",
        ])
        // It shows more than ten wrong tokens, and takes 429 for a fault; who is let in is tried elsewhere.
        .args(["--exclude-checks", "ignored_auth"])
        .args([
            "--max-examples",
            "30",
            "--request-timeout",
            "20",
            "--no-color",
        ])
        .current_dir(api.test.folder())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    // It goes on, and nobody was let in who should not be.
    assert_eq!(api.get("status")["flow"], "scraped");
}

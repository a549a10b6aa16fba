//! A real Apache Airflow 3 with a folder of its own: server, scheduler and reader of DAGs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    owned::Owned,
    wait::{free_port, holds_within},
};

/// How long its database may take to be made, and its processes to answer.
const START: Duration = Duration::from_secs(180);

/// The user and the password that it takes.
pub const AIRFLOW_LOGIN: (&str, &str) = ("tester", "right");

/// An Airflow of the test's own. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Airflow {
    folder: TempDir,
    port: u16,
    _processes: Vec<Owned>,
}

impl Airflow {
    /// Starts the one of an environment with the DAGs of this file, and more variables for its tasks.
    #[track_caller]
    pub fn start(venv: &Path, dags: &Path, variables: &[(&str, &str)]) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let home = folder.path();
        fs::create_dir(home.join("dags")).unwrap();
        fs::copy(dags, home.join("dags/dags.py")).unwrap();
        let (user, password) = AIRFLOW_LOGIN;
        fs::write(
            home.join("passwords.json"),
            format!("{{\"{user}\": \"{password}\"}}"),
        )
        .unwrap();
        let airflow = |what: &[&str]| {
            let mut command = Command::new(venv.join("bin/airflow"));
            let path = std::env::var("PATH").unwrap_or_default();
            let place = home.display();
            let log = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(home.join("log"))
                .unwrap();
            command
                .args(what)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log);
            command.env("PATH", format!("{}/bin:{path}", venv.display()));
            command.envs(variables.iter().copied());
            for (name, value) in [
                ("AIRFLOW_HOME", place.to_string()),
                ("AIRFLOW__CORE__LOAD_EXAMPLES", "False".to_owned()),
                ("AIRFLOW__CORE__EXECUTOR", "LocalExecutor".to_owned()),
                ("AIRFLOW__CORE__PARALLELISM", "2".to_owned()),
                ("AIRFLOW__CORE__DAGS_FOLDER", format!("{place}/dags")),
                (
                    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION",
                    "False".to_owned(),
                ),
                (
                    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
                    format!("http://127.0.0.1:{port}/execution/"),
                ),
                (
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS",
                    format!("{user}:admin"),
                ),
                (
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
                    format!("{place}/passwords.json"),
                ),
                (
                    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
                    format!("sqlite:///{place}/airflow.db"),
                ),
                ("AIRFLOW__API__HOST", "127.0.0.1".to_owned()),
                ("AIRFLOW__API__PORT", port.to_string()),
                ("AIRFLOW__API__WORKERS", "1".to_owned()),
                ("AIRFLOW__API__BASE_URL", format!("http://127.0.0.1:{port}")),
                ("AIRFLOW__API__SECRET_KEY", "for-tests-only".to_owned()),
                (
                    "AIRFLOW__API_AUTH__JWT_SECRET",
                    "0123456789abcdef".repeat(4),
                ),
                ("AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL", "5".to_owned()),
                (
                    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL",
                    "5".to_owned(),
                ),
                (
                    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC",
                    "1".to_owned(),
                ),
                (
                    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED",
                    "False".to_owned(),
                ),
            ] {
                command.env(name, value);
            }
            command
        };
        let made = airflow(&["db", "migrate"]).status().expect("airflow runs");
        let log = || fs::read_to_string(home.join("log")).unwrap_or_default();
        assert!(made.success(), "Airflow has made no database:\n{}", log());
        let parts = ["api-server", "scheduler", "dag-processor"];
        let processes =
            parts.map(|part| Owned::start(&mut airflow(&[part])).expect("airflow starts"));
        let healthy = holds_within(START, || {
            let said = ask(port, "/api/v2/monitor/health");
            said.contains(r#""scheduler":{"status":"healthy""#)
        });
        assert!(healthy, "Airflow does not answer:\n{}", log());
        Self {
            folder,
            port,
            _processes: processes.into(),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Has a DAG run by its API, and gives the state in which the run has ended.
    #[track_caller]
    pub fn trigger(&self, dag: &str, run: &str) -> String {
        let token = self.curl(
            &[
                "-X",
                "POST",
                "-H",
                "content-type: application/json",
                "-d",
                &format!(
                    "{{\"username\":\"{}\",\"password\":\"{}\"}}",
                    AIRFLOW_LOGIN.0, AIRFLOW_LOGIN.1
                ),
            ],
            "/auth/token",
        );
        let token: serde_json::Value = serde_json::from_str(&token).unwrap();
        let header = format!(
            "Authorization: Bearer {}",
            token["access_token"].as_str().unwrap()
        );
        let body = format!("{{\"dag_run_id\":\"{run}\",\"logical_date\":null}}");
        self.curl(
            &[
                "-X",
                "POST",
                "-H",
                &header,
                "-H",
                "content-type: application/json",
                "-d",
                &body,
            ],
            &format!("/api/v2/dags/{dag}/dagRuns"),
        );
        let place = format!("/api/v2/dags/{dag}/dagRuns/{run}");
        let mut state = String::new();
        holds_within(START, || {
            let said = self.curl(&["-H", &header], &place);
            let run: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
            run["state"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut state);
            matches!(state.as_str(), "success" | "failed")
        });
        state
    }

    fn curl(&self, arguments: &[&str], path: &str) -> String {
        let mut command = Command::new("curl");
        command
            .args(["-s", "--max-time", "20"])
            .args(arguments)
            .arg(format!("{}{path}", self.url()));
        let output = command.output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What its processes have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// What is answered there; nothing where nobody does.
fn ask(port: u16, path: &str) -> String {
    let url = format!("http://127.0.0.1:{port}{path}");
    let output = Command::new("curl")
        .args(["-s", "--max-time", "5", &url])
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

//! A cluster that is a script: its answers are those of Slurm 22.05 (`v0.0.38`), and in the shape of later versions.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use wiredflow_testkit::{HttpPeer, Reply, Request};

/// A cluster whose jobs run at once, when they are handed in.
pub(super) struct Cluster {
    pub(super) peer: HttpPeer,
    pub(super) jobs: Arc<Mutex<BTreeMap<u64, Job>>>,
}

#[derive(Debug)]
pub(super) struct Job {
    asked: Value,
    looks: usize,
    pub(super) cancelled: bool,
}

/// What a script says of a job at a look, counted from 1: its states one after the other, the last of which lasts. `gone`
/// is one that Slurm does not know.
pub(super) type States = fn(number: u64, name: &str) -> &'static [&'static str];

/// Answers that are given in place of what a request has done; `None`: that one.
pub(super) type Lost = fn(&Request, usize) -> Option<Reply>;

impl Cluster {
    pub(super) fn start(version: &'static str, states: States, lost: Lost) -> Self {
        let peer = HttpPeer::start();
        let jobs: Arc<Mutex<BTreeMap<u64, Job>>> = Arc::default();
        peer.on_request("*", {
            let jobs = Arc::clone(&jobs);
            let mut count = 0;
            move |request| {
                count += 1;
                let done = answer(&mut jobs.lock().unwrap(), version, states, request);
                lost(request, count).unwrap_or(done)
            }
        });
        Self { peer, jobs }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let jobs = self.jobs.lock().unwrap();
        let name = |job: &Job| job.asked["job"]["name"].as_str().unwrap().to_owned();
        jobs.values().map(name).collect()
    }

    pub(super) fn asked(&self, method: &str, path: &str) -> usize {
        let requests = self.peer.requests();
        let of = |request: &&Request| request.method == method && request.path.ends_with(path);
        requests.iter().filter(of).count()
    }
}

fn answer(
    jobs: &mut BTreeMap<u64, Job>,
    version: &str,
    states: States,
    request: &Request,
) -> Reply {
    let is_new = version != "v0.0.38";
    let no = |number: i64, error: &str, description: &str| {
        let status = if is_new && number == 2017 { 404 } else { 500 };
        Reply::json(json!({"errors": [{"description": description, "error_number": number, "error": error, "source": "s"}], "jobs": []}))
            .status(status)
    };
    if request.header("x-slurm-user-name") != Some("ada") {
        return Reply::text("Authentication failure").status(401);
    }
    if request.header("x-slurm-user-token") != Some("right") {
        return match is_new {
            true => Reply::text("Authentication failure").status(401),
            false => no(
                -1,
                "Unspecified error",
                "slurmctld config is unable to load",
            ),
        };
    }
    let Some(path) = request.path.strip_prefix(&format!("/slurm/{version}/")) else {
        return Reply::text(
            "Unable find requested URL. Please view /openapi/v3 for API reference.",
        )
        .status(404);
    };
    let told = |number: u64, job: &Job, looks: usize| {
        let name = job.asked["job"]["name"].as_str().unwrap();
        let states = states(number, name);
        let state = match job.cancelled {
            true => "CANCELLED",
            false => states[looks.min(states.len()) - 1],
        };
        let job_state = match is_new {
            true => state.split(' ').collect(),
            false => Value::from(state),
        };
        let exit_code = match (state, is_new) {
            ("FAILED", true) => {
                json!({"status": ["ERROR"], "return_code": {"set": true, "infinite": false, "number": 3}, "signal": {"id": {"set": false, "infinite": false, "number": 0}, "name": ""}})
            }
            ("FAILED", false) => json!(768),
            (_, true) => {
                json!({"status": ["SUCCESS"], "return_code": {"set": true, "infinite": false, "number": 0}})
            }
            (_, false) => json!(0),
        };
        let told = json!({"job_id": number, "name": name, "user_name": "ada", "job_state": job_state, "exit_code": exit_code, "state_reason": "None"});
        (state != "gone").then_some(told)
    };
    match (
        request.method.as_str(),
        path.split('/').collect::<Vec<_>>().as_slice(),
    ) {
        ("GET", ["ping"]) => {
            let release = if is_new {
                json!({"slurm": {"release": "24.11.1"}})
            } else {
                json!({"Slurm": {"release": "22.05.8"}})
            };
            Reply::json(
                json!({"meta": release, "errors": [], "pings": [{"hostname": "head", "ping": "UP", "mode": "primary"}]}),
            )
        }
        ("POST", ["job", "submit"]) => {
            let asked = request.json();
            let job = &asked["job"];
            assert_eq!(job["dependency"], "singleton");
            assert_eq!(job["environment"].is_array(), is_new, "{job}");
            assert_eq!(job["memory_per_node"]["set"] == true, is_new, "{job}");
            let number = jobs.len() as u64 + 1;
            let name = job["name"].as_str().unwrap();
            if states(number, name) == ["refused"] {
                return Reply::json(json!({"errors": [{"error_code": 2015, "error": "Requested partition configuration not available now"}]})).status(500);
            }
            // It fails or is lost before it has made anything, or it works.
            if states(number, name).last() == Some(&"COMPLETED")
                || states(number, name).last() == Some(&"gone")
            {
                let ran = Command::new("sh")
                    .args(["-c", asked["script"].as_str().unwrap()])
                    .current_dir(job["current_working_directory"].as_str().unwrap())
                    .status();
                assert!(ran.unwrap().success());
            }
            if states(number, name) == ["FAILED"] {
                std::fs::write(
                    job["standard_error"].as_str().unwrap(),
                    "at work\nno number\n",
                )
                .unwrap();
            }
            jobs.insert(
                number,
                Job {
                    asked,
                    looks: 0,
                    cancelled: false,
                },
            );
            Reply::json(json!({"errors": [], "job_id": number, "step_id": "BATCH"}))
        }
        ("GET", ["jobs"]) => {
            let all: Vec<Value> = jobs
                .iter()
                .filter_map(|(number, job)| told(*number, job, 99))
                .collect();
            Reply::json(json!({"errors": [], "jobs": all}))
        }
        ("GET", ["job", number]) => {
            let number = number.parse().unwrap();
            let job = jobs.get_mut(&number).unwrap();
            job.looks += 1;
            match told(number, job, job.looks) {
                Some(told) => Reply::json(json!({"errors": [], "jobs": [told]})),
                None => no(2017, "Invalid job id specified", "Unable to find JobId"),
            }
        }
        ("DELETE", ["job", number]) => {
            jobs.get_mut(&number.parse().unwrap()).unwrap().cancelled = true;
            Reply::json(json!({"errors": []}))
        }
        _ => panic!("{} {}", request.method, request.path),
    }
}

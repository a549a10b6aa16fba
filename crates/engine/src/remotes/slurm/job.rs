//! How far a job is, as any version of the API tells it.

use wiredflow_core::Value;

/// States of a job that has failed by what it did, or by somebody's wish: it would do so again.
const FAILED: [&str; 6] = [
    "FAILED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "DEADLINE",
    "CANCELLED",
    "REVOKED",
];

/// States of a job that was lost by no fault of its own.
const LOST: [&str; 5] = [
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "LAUNCH_FAILED",
    "RECONFIG_FAIL",
];

/// States of a job that has its nodes.
const RUNNING: [&str; 8] = [
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "RESIZING",
    "STAGE_OUT",
    "POWER_UP_NODE",
];

/// States that stand beside another one and say that it is not the last.
const NOT_OVER: [&str; 6] = [
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "STAGE_OUT",
];

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) user: String,
    pub(super) state: State,
    /// Why it is in its state, in Slurm's words: `Priority`, `NonZeroExitCode`.
    pub(super) reason: Option<String>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running,
    Done,
    /// With the state's own name and what the command left: `FAILED, exit code 3`.
    Failed(String),
    /// With the state's own name.
    Lost(String),
}

impl Job {
    /// Reads one; `None` where it has no number.
    pub(super) fn read(job: &Value) -> Option<Self> {
        let text = |key: &str| job[key].as_str().unwrap_or_default().to_owned();
        // One word before v0.0.40; since then a list of a state and what stands beside it.
        let states: Vec<&str> = match &job["job_state"] {
            Value::Array(states) => states.iter().filter_map(Value::as_str).collect(),
            state => state.as_str().into_iter().collect(),
        };
        let reason = text("state_reason");
        Some(Self {
            number: job["job_id"].as_u64()?,
            name: text("name"),
            user: text("user_name"),
            state: state(&states, &job["exit_code"]),
            reason: Some(reason).filter(|reason| !["", "None"].contains(&reason.as_str())),
        })
    }
}

fn state(states: &[&str], exit: &Value) -> State {
    let one_of = |known: &[&str]| states.iter().find(|state| known.contains(state)).copied();
    if one_of(&NOT_OVER).is_none() {
        if let Some(state) = one_of(&LOST) {
            return State::Lost(state.to_owned());
        }
        if let Some(state) = one_of(&FAILED) {
            let left = left_by(exit).map_or_else(String::new, |left| format!(", {left}"));
            return State::Failed(format!("{state}{left}"));
        }
        if one_of(&["COMPLETED"]).is_some() {
            return State::Done;
        }
    }
    match one_of(&RUNNING) {
        Some(_) => State::Running,
        // Also one that no version so far has.
        None => State::Waiting,
    }
}

/// What the command left: the status of `wait`, or since v0.0.39 an object.
fn left_by(exit: &Value) -> Option<String> {
    let number = |value: &Value| value.as_u64().or_else(|| value["number"].as_u64());
    let (code, signal) = match exit {
        Value::Object(exit) => {
            let signal = exit.get("signal").unwrap_or(&Value::Null);
            let signal = number(&signal["id"]).or_else(|| number(&signal["signal_id"]));
            let code = exit.get("return_code").and_then(number);
            (code.unwrap_or(0), signal.unwrap_or(0))
        }
        status => {
            let status = number(status)?;
            (status >> 8 & 0xff, status & 0x7f)
        }
    };
    match (code, signal) {
        (0, 0) => None,
        (0, signal) => Some(format!("signal {signal}")),
        (code, _) => Some(format!("exit code {code}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(state: &Value, exit: &Value) -> State {
        let job = json!({"job_id": 7, "name": "n", "job_state": state, "exit_code": exit});
        Job::read(&job).unwrap().state
    }

    #[test]
    fn both_shapes_of_a_state_are_read() {
        let failed = |text: &str| State::Failed(text.to_owned());
        let lost = State::Lost("NODE_FAIL".to_owned());
        let set = |number: u64| json!({"set": true, "infinite": false, "number": number});
        let exit = |code: u64, signal: u64| json!({"status": ["ERROR"], "return_code": set(code), "signal": {"id": set(signal), "name": ""}});
        for (told, expected) in [
            ((json!("PENDING"), json!(0)), State::Waiting),
            ((json!("CONFIGURING"), json!(0)), State::Waiting),
            ((json!("SOMETHING_NEW"), json!(0)), State::Waiting),
            ((json!("RUNNING"), json!(0)), State::Running),
            ((json!("COMPLETING"), json!(0)), State::Running),
            ((json!("COMPLETED"), json!(0)), State::Done),
            ((json!("FAILED"), json!(768)), failed("FAILED, exit code 3")),
            ((json!("FAILED"), json!(9)), failed("FAILED, signal 9")),
            (
                (json!("CANCELLED"), json!(15)),
                failed("CANCELLED, signal 15"),
            ),
            ((json!("TIMEOUT"), json!(0)), failed("TIMEOUT")),
            ((json!("NODE_FAIL"), json!(1)), lost.clone()),
            ((json!(["PENDING"]), exit(0, 0)), State::Waiting),
            (
                (json!(["RUNNING", "CONFIGURING"]), exit(0, 0)),
                State::Running,
            ),
            (
                (json!(["COMPLETED", "COMPLETING"]), exit(0, 0)),
                State::Running,
            ),
            ((json!(["COMPLETED"]), exit(0, 0)), State::Done),
            (
                (json!(["FAILED"]), exit(3, 0)),
                failed("FAILED, exit code 3"),
            ),
            (
                (json!(["CANCELLED"]), exit(0, 15)),
                failed("CANCELLED, signal 15"),
            ),
            (
                (json!(["NODE_FAIL", "REQUEUED"]), exit(0, 0)),
                State::Waiting,
            ),
            ((json!(["NODE_FAIL"]), exit(0, 0)), lost),
            (
                (
                    json!(["FAILED"]),
                    json!({"return_code": 2, "signal": {"signal_id": 0}}),
                ),
                failed("FAILED, exit code 2"),
            ),
        ] {
            let (job_state, exit) = told;
            assert_eq!(state(&job_state, &exit), expected, "{job_state}");
        }
        assert_eq!(Job::read(&json!({"job_state": "RUNNING"})), None);
    }
}

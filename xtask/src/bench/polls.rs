//! Very many pipelines that poll once a second.

use std::process::Command;
use std::time::Duration;

use super::figures::Figures;
use super::page::Part;
use super::process::Process;
use super::{Plan, machine};
use crate::Result;

const POLLERS: usize = 5000;

/// Until all connections stand and all have come to their rhythm, and how long is counted then.
const WARM: Duration = Duration::from_secs(8);
const COUNTED: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Contender {
    Floor,
    Tool,
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Percent of the polls that were due.
    made: f64,
    p50: f64,
    p99: f64,
    most: f64,
    drift: f64,
    /// Milliseconds for a poll.
    cpu: f64,
    mib: f64,
}

/// Both contenders in turns. A run takes over a minute, so there are fewer of them.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let pairs = plan.pairs.div_ceil(3);
    let load = machine::load();
    let mut outcomes = [Vec::new(), Vec::new()];
    for number in 1..=pairs {
        for (contender, outcomes) in [Contender::Floor, Contender::Tool]
            .into_iter()
            .zip(&mut outcomes)
        {
            let outcome = run_once(plan, contender)?;
            println!("polls, {number} of {pairs}: {outcome:.2?}");
            outcomes.push(outcome);
        }
    }
    let mut text = format!(
        "{POLLERS} pollers, one poll a second each, spread over the second, ten records in a reply, all stored in one \
         file of JSON lines; {} s are counted. Errors are distances of the requests, as the server sees \
         them, from each poller's own grid; drift is how far the last quarter lies from the first. Median of {pairs} \
         runs in turns [least … most]; load average {load} before.\n\n\
         | | made % | error p50 ms | p99 ms | longest ms | drift ms | CPU ms a poll | peak MiB |\n\
         |---|---|---|---|---|---|---|---|\n",
        COUNTED.as_secs()
    );
    for (name, outcomes) in ["loop by hand", "**wiredflow**"].into_iter().zip(&outcomes) {
        let column = |pick: fn(&Outcome) -> f64| Figures::of(outcomes.iter().map(pick));
        text.push_str(&format!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.1} | {:.2} | {:.3} | {:.0} |\n",
            column(|run| run.made),
            column(|run| run.p50),
            column(|run| run.p99),
            column(|run| run.most),
            column(|run| run.drift),
            column(|run| run.cpu),
            column(|run| run.mib),
        ));
    }
    Ok(Part {
        title: "5,000 polls a second",
        text,
    })
}

fn run_once(plan: &Plan, contender: Contender) -> Result<Outcome> {
    let folder = plan.fresh_folder()?;
    let program = plan.program("wiredflow-bench");
    let mut command = Command::new(&program);
    command.args(["answer", "--pollers", &POLLERS.to_string()]);
    let mut server = Process::start(&mut command, &folder.join("server.log"), true)?;
    let url = format!("http://{}", server.line("address")?);
    let mut command = match contender {
        Contender::Floor => {
            let mut command = Command::new(&program);
            command.args([
                "poll",
                "--url",
                &url,
                "--pollers",
                &POLLERS.to_string(),
                "--file",
            ]);
            command.arg(folder.join("floor.jsonl"));
            command
        }
        Contender::Tool => {
            let mut text = "storages:\n  all: {jsonl: {folder: data}}\npipelines:\n".to_owned();
            for number in 0..POLLERS {
                let delay = Duration::from_secs(1) * number as u32 / POLLERS as u32;
                text.push_str(&format!(
                    "  p{number}: {{every: 1s, delay: {}ms, stages: [http: \"{url}/{number}\", store: all]}}\n",
                    delay.as_millis()
                ));
            }
            let flow = folder.join("flow.yaml");
            std::fs::write(&flow, text).map_err(|error| error.to_string())?;
            let mut command = Command::new(plan.program("wiredflow"));
            command.arg("run").arg(&flow).current_dir(&folder);
            command
        }
    };
    let mut subject = Process::start(&mut command, &folder.join("subject.log"), false)?;
    std::thread::sleep(WARM);
    subject.still_runs()?;
    let before = subject.cpu_seconds();
    server.go()?;
    std::thread::sleep(COUNTED);
    let cpu = subject.cpu_seconds() - before;
    let mib = subject.memory_kib("VmHWM") as f64 / 1024.0;
    server.go()?;
    let answer = server.line("polls")?;
    subject.still_runs()?;
    subject.end()?;
    let figures: Vec<f64> = answer
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [made, expected, p50, p99, most, drift] = figures[..] else {
        return Err(format!("the server said `{answer}`"));
    };
    Ok(Outcome {
        made: made / expected * 100.0,
        p50,
        p99,
        most,
        drift,
        cpu: cpu * 1e3 / made,
        mib,
    })
}

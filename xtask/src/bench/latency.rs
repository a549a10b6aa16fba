//! From published to readable in the file, at a steady rate.

use std::process::Command;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::figures::Figures;
use super::ingest::Contender;
use super::page::Part;
use super::process::Process;
use super::{Plan, machine};
use crate::Result;

const PER_SECOND: usize = 1000;
const SECONDS: usize = 5;

const CONTENDERS: [Contender; 2] = [
    Contender::Floor {
        version: 5,
        sync: true,
    },
    Contender::Tool,
];

/// In milliseconds, and CPU seconds for 100,000 messages.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    p50: f64,
    p99: f64,
    most: f64,
    cpu: f64,
}

/// Both contenders in turns.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let (load, sync) = (machine::load(), machine::sync_time(&plan.folder)?);
    let mut outcomes = [Vec::new(), Vec::new()];
    for number in 1..=plan.pairs {
        for (contender, outcomes) in CONTENDERS.into_iter().zip(&mut outcomes) {
            let outcome = run_once(plan, contender)?;
            println!(
                "latency, {number} of {}: {:42} {outcome:.2?}",
                plan.pairs,
                contender.name()
            );
            outcomes.push(outcome);
        }
    }
    let mut text = format!(
        "From the publisher's clock to the moment at which another process has read the line in the file, at QoS 1 and \
         {PER_SECOND} messages a second for {SECONDS} s. Median of {} runs in turns [least … most]; load \
         average {load}, fdatasync of 4 KiB {:.2} ms.\n\n\
         | | p50 ms | p99 ms | longest ms | CPU s for 100,000 |\n|---|---|---|---|---|\n",
        plan.pairs,
        sync.as_secs_f64() * 1e3,
    );
    for (contender, outcomes) in CONTENDERS.into_iter().zip(&outcomes) {
        let column = |pick: fn(&Outcome) -> f64| {
            let figures = Figures::of(outcomes.iter().map(pick));
            format!(
                "{:.2} [{:.2} … {:.2}]",
                figures.median, figures.least, figures.most
            )
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            contender.name(),
            column(|run| run.p50),
            column(|run| run.p99),
            column(|run| run.most),
            column(|run| run.cpu)
        ));
    }
    Ok(Part {
        title: "Latency of MQTT to jsonl",
        text,
    })
}

fn run_once(plan: &Plan, contender: Contender) -> Result<Outcome> {
    let folder = plan.fresh_folder()?;
    let mut broker = Broker::start(&folder)?;
    let (mut subject, file) = contender.start(plan, &folder, &broker.address, 1)?;
    broker.wait_for_subscriber(&mut subject)?;
    let tool = plan.program("wiredflow-bench");
    let publish = |messages: usize, log: &str| {
        let mut command = Command::new(&tool);
        command.args(["publish", "--broker", &broker.address, "--qos", "1"]);
        command.args(["--per-second", &PER_SECOND.to_string()]);
        command.args(["--messages", &messages.to_string()]);
        let mut publisher = Process::start(&mut command, &folder.join(log), true)?;
        publisher.line("ready")?;
        publisher.go()?;
        Ok::<_, String>(publisher)
    };
    // The file is there, and everything is warm.
    let warm = publish(100, "warm.log")?;
    let until = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(&file)
        .unwrap_or_default()
        .lines()
        .count()
        < 100
    {
        subject.still_runs()?;
        if Instant::now() > until {
            return Err("nothing is stored".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    warm.end()?;

    let messages = PER_SECOND * SECONDS;
    let mut command = Command::new(&tool);
    command
        .args(["watch", "--messages", &messages.to_string(), "--file"])
        .arg(&file);
    let mut watch = Process::start(&mut command, &folder.join("watch.log"), true)?;
    watch.line("ready")?;
    let before = subject.on_core();
    let publisher = publish(messages, "publisher.log")?;
    let answer = watch.line("latency")?;
    let cpu = (subject.on_core() - before).as_secs_f64() * 100_000.0 / messages as f64;
    publisher.end()?;
    subject.end()?;
    let figures: Vec<f64> = answer
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [_, p50, p99, most] = figures[..] else {
        return Err(format!("`watch` said `{answer}`"));
    };
    let (p50, p99, most) = (p50 / 1e3, p99 / 1e3, most / 1e3);
    Ok(Outcome {
        p50,
        p99,
        most,
        cpu,
    })
}

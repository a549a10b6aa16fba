//! MQTT to a storage at full speed: the tool against loops by hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::figures::{Figures, Ratio};
use super::page::Part;
use super::process::Process;
use super::{Plan, machine};
use crate::Result;

/// The run is over when nothing more was stored for so long, complete or not.
const IDLE: Duration = Duration::from_secs(5);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    Tool,
    /// The tool with a table of SQLite.
    ToolTable,
    /// The loop by hand, with MQTT 3.1.1 or 5, and with or without the sync that the tool promises.
    Floor {
        version: u8,
        sync: bool,
    },
    /// The loop by hand with a table of SQLite.
    FloorTable,
    /// The engine as a library, with its clocks or without.
    Engine {
        clocks: bool,
    },
}

/// The floor of the same promise and protocol comes first: it is what the tool is held to.
const CONTENDERS: [Contender; 5] = [
    Contender::Floor {
        version: 5,
        sync: true,
    },
    Contender::Tool,
    Contender::Floor {
        version: 4,
        sync: false,
    },
    Contender::FloorTable,
    Contender::ToolTable,
];

/// The tool's place, and that of the floor that makes the same promise.
const COMPARED: [(usize, usize); 3] = [(1, 0), (1, 2), (4, 3)];

impl Contender {
    pub(super) fn name(self) -> String {
        match self {
            Self::Tool => "**wiredflow**, MQTT 5, jsonl".to_owned(),
            Self::ToolTable => "**wiredflow**, MQTT 5, sqlite".to_owned(),
            Self::FloorTable => "loop by hand, MQTT 5, sqlite".to_owned(),
            Self::Engine { clocks: true } => "the engine with its clocks".to_owned(),
            Self::Engine { clocks: false } => "the engine without clocks".to_owned(),
            Self::Floor { version, sync } => format!(
                "loop by hand, MQTT {}, jsonl, {}",
                if version == 4 { "3.1.1" } else { "5" },
                if sync { "synced" } else { "not synced" },
            ),
        }
    }

    /// The table that it fills, where it is one.
    fn table(self) -> Option<&'static str> {
        match self {
            Self::ToolTable => Some("ingest"),
            Self::FloorTable => Some("numbers"),
            Self::Tool | Self::Floor { .. } | Self::Engine { .. } => None,
        }
    }

    /// Starts it in the folder; it stores what the broker brings in the file.
    pub(super) fn start(
        self,
        plan: &Plan,
        folder: &Path,
        broker: &str,
        qos: u8,
    ) -> Result<(Process, PathBuf)> {
        let log = folder.join("contender.log");
        match self {
            Self::FloorTable | Self::Floor { .. } => {
                let (version, word, file) = match self {
                    Self::Floor { version, sync } => {
                        (version, (!sync).then_some("--no-sync"), "floor.jsonl")
                    }
                    _ => (5, Some("--table"), "floor.db"),
                };
                let file = folder.join(file);
                let mut command = Command::new(plan.program("wiredflow-bench"));
                command.args([
                    "floor",
                    "--broker",
                    broker,
                    "--version",
                    &version.to_string(),
                ]);
                command
                    .args(["--qos", &qos.to_string(), "--file"])
                    .arg(&file);
                command.args(word);
                Ok((Process::start(&mut command, &log, false)?, file))
            }
            Self::Tool | Self::ToolTable | Self::Engine { .. } => {
                let (store, file) = match self {
                    Self::ToolTable => ("sqlite", "data/flow.db"),
                    _ => ("{jsonl: {folder: data}}", "data/jsonl_in_ingest.jsonl"),
                };
                let flow = folder.join("flow.yaml");
                let text = format!(
                    "pipelines:\n  ingest:\n    source: {{mqtt: {{broker: \"{broker}\", topic: bench/numbers, \
                     qos: {qos}}}}}\n    stages:\n      - store: {store}\n"
                );
                std::fs::write(&flow, text).map_err(|error| error.to_string())?;
                let mut command = match self {
                    Self::Engine { clocks } => {
                        let mut command = Command::new(plan.program("wiredflow-bench"));
                        command.args(["ingest", "--flow"]).arg(&flow);
                        command.args((!clocks).then_some("--no-clocks"));
                        command
                    }
                    _ => {
                        let mut command = Command::new(plan.program("wiredflow"));
                        command.arg("run").arg(&flow);
                        command
                    }
                };
                command.current_dir(folder);
                let file = folder.join(file);
                Ok((Process::start(&mut command, &log, false)?, file))
            }
        }
    }
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) per_second: f64,
    pub(super) cpu: f64,
    broker_cpu: f64,
    publisher_cpu: f64,
    peak_mib: f64,
    pub(super) lost: usize,
    doubled: usize,
    longest_stall: Duration,
}

pub(super) fn run_once(plan: &Plan, contender: Contender, qos: u8) -> Result<Outcome> {
    let folder = plan.fresh_folder()?;
    let mut broker = Broker::start(&folder)?;
    let (mut subject, file) = contender.start(plan, &folder, &broker.address, qos)?;
    broker.wait_for_subscriber(&mut subject)?;
    let mut command = Command::new(plan.program("wiredflow-bench"));
    command.args([
        "publish",
        "--broker",
        &broker.address,
        "--qos",
        &qos.to_string(),
    ]);
    command.args(["--messages", &plan.messages.to_string()]);
    let mut publisher = Process::start(&mut command, &folder.join("publisher.log"), true)?;
    let bytes: u64 = publisher
        .line("ready")?
        .parse()
        .map_err(|_| "no size".to_owned())?;

    let cpu = || {
        (
            subject.cpu_seconds(),
            broker.process.cpu_seconds(),
            publisher.cpu_seconds(),
        )
    };
    let mut rows = match contender.table() {
        None => None,
        Some(table) => Some(plan.rows(&folder, &file, table)?),
    };
    let before = cpu();
    publisher.go()?;
    let mut seen = match &rows {
        None => watch(&file, bytes),
        Some(_) => Seen::default(),
    };
    if let Some(rows) = &mut rows {
        let answer = rows.line("rows")?;
        let figures: Vec<f64> = answer
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        let [count, seconds] = figures[..] else {
            return Err(format!("`rows` said `{answer}`"));
        };
        seen.stored = Some(count as usize);
        seen.took = Duration::from_secs_f64(seconds);
        rows.wait()?;
    }
    // The last acknowledgements belong to the run.
    std::thread::sleep(Duration::from_millis(100));
    let cpu = || {
        (
            subject.cpu_seconds(),
            broker.process.cpu_seconds(),
            publisher.cpu_seconds(),
        )
    };
    let after = cpu();
    subject.still_runs()?;
    let peak_mib = subject.memory_kib("VmHWM") as f64 / 1024.0;
    subject.end()?;
    publisher.wait()?;

    let (stored, doubled) = match seen.stored {
        Some(rows) => (rows.min(plan.messages), rows.saturating_sub(plan.messages)),
        None => {
            let lines = std::fs::read_to_string(&file).unwrap_or_default();
            let stored: BTreeSet<u64> = lines.lines().filter_map(sequence_of).collect();
            (
                stored.len(),
                lines.lines().count().saturating_sub(stored.len()),
            )
        }
    };
    let messages = plan.messages as f64;
    let each = 100_000.0 / messages;
    Ok(Outcome {
        per_second: messages / seen.took.as_secs_f64(),
        cpu: (after.0 - before.0) * each,
        broker_cpu: (after.1 - before.1) * each,
        publisher_cpu: (after.2 - before.2) * each,
        peak_mib,
        lost: plan.messages.saturating_sub(stored),
        doubled,
        longest_stall: seen.longest_stall,
    })
}

/// How a storage grew.
#[derive(Default)]
pub(super) struct Seen {
    /// From the first growth to the last.
    pub(super) took: Duration,
    /// The longest time without.
    longest_stall: Duration,
    /// How many rows there are, where they were counted.
    stored: Option<usize>,
}

/// Follows a file's length until it has all bytes or does not grow any more.
pub(super) fn watch(file: &Path, bytes: u64) -> Seen {
    let start = Instant::now();
    let length = std::fs::metadata(file).map_or(0, |data| data.len());
    let (mut first, mut last, mut length) = (None, start, length);
    let mut longest = Duration::ZERO;
    while length < bytes && last.elapsed() < IDLE {
        let now = std::fs::metadata(file).map_or(0, |data| data.len());
        if now > length {
            let moment = Instant::now();
            if first.is_some() {
                longest = longest.max(moment - last);
            }
            first.get_or_insert(moment);
            (last, length) = (moment, now);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Seen {
        took: last - first.unwrap_or(start),
        longest_stall: longest,
        stored: None,
    }
}

/// The number of the message that a stored line is.
fn sequence_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("\"sequence\":")?;
    let digits = rest
        .trim_start()
        .split(|c: char| !c.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

/// Looks whether everything arrives, once for each contender; no figure is looked at.
pub(super) fn smoke(plan: &Plan) -> Result {
    for (contender, qos) in CONTENDERS.into_iter().flat_map(|one| [(one, 0), (one, 1)]) {
        let outcome = run_once(plan, contender, qos)?;
        println!("{} at QoS {qos}: {} lost", contender.name(), outcome.lost);
        if outcome.lost > 0 || outcome.doubled > 0 {
            let name = contender.name();
            return Err(format!("{name} at QoS {qos}: {outcome:?}"));
        }
    }
    Ok(())
}

/// All contenders at both levels of QoS, in turns.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let mut text = String::new();
    let mut intro = format!(
        "{} messages of about 85 bytes of JSON, one publisher, one broker, one subscriber, all on this machine; \
         the subscriber parses each, appends it to a file of JSON lines, syncs once for all that came \
         meanwhile, and acknowledges after that. Rates are those of the whole machine; CPU seconds (user and \
         system, for 100,000 messages) tell the contenders apart. Median of {} runs in turns \
         [least … most].",
        plan.messages, plan.pairs
    );
    let sync = machine::sync_time(&plan.folder)?;
    let load = machine::load();
    for qos in [0, 1] {
        let rounds = rounds(plan, qos)?;
        write_table(&mut text, qos, &rounds);
    }
    let sync_after = machine::sync_time(&plan.folder)?;
    let load_after = machine::load();
    intro.push_str(&format!(
        " fdatasync of 4 KiB on this disk: {:.2} ms before and {:.2} ms after; load average {load} before \
         and {load_after} after.",
        sync.as_secs_f64() * 1e3,
        sync_after.as_secs_f64() * 1e3,
    ));
    Ok(Part {
        title: "MQTT to jsonl and to sqlite",
        text: format!("{intro}\n{text}"),
    })
}

type Round = [Outcome; CONTENDERS.len()];

fn rounds(plan: &Plan, qos: u8) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for number in 1..=plan.pairs {
        let mut round = Vec::new();
        for contender in CONTENDERS {
            let outcome = run_once(plan, contender, qos)?;
            println!(
                "QoS {qos}, {number} of {}: {:42} {:7.0}/s  {:.2} CPU s (broker {:.2}, publisher {:.2})  \
                 {:5.1} MiB  {} lost  {} doubled  longest stall {:.0?}",
                plan.pairs,
                contender.name(),
                outcome.per_second,
                outcome.cpu,
                outcome.broker_cpu,
                outcome.publisher_cpu,
                outcome.peak_mib,
                outcome.lost,
                outcome.doubled,
                outcome.longest_stall,
            );
            round.push(outcome);
        }
        let round = Round::try_from(round).map_err(|_| "a round is not whole".to_owned())?;
        rounds.push(round);
    }
    Ok(rounds)
}

fn write_table(text: &mut String, qos: u8, rounds: &[Round]) {
    text.push_str(&format!(
        "\n### QoS {qos}\n\n| | stored/s | CPU s | broker's CPU s | peak MiB | lost | longest stall ms |\n\
         |---|---|---|---|---|---|---|\n"));
    for (index, contender) in CONTENDERS.into_iter().enumerate() {
        let column =
            |pick: fn(&Outcome) -> f64| Figures::of(rounds.iter().map(|round| pick(&round[index])));
        let (rate, cpu) = (column(|run| run.per_second), column(|run| run.cpu));
        let lost: usize = rounds.iter().map(|round| round[index].lost).sum();
        text.push_str(&format!(
            "| {} | {:.0} [{:.0} … {:.0}] | {:.2} [{:.2} … {:.2}] | {:.2} | {:.1} | {lost} | {:.0} |\n",
            contender.name(),
            rate.median,
            rate.least,
            rate.most,
            cpu.median,
            cpu.least,
            cpu.most,
            column(|run| run.broker_cpu).median,
            column(|run| run.peak_mib).most,
            column(|run| run.longest_stall.as_secs_f64() * 1e3).most));
    }
    text.push_str("\n| wiredflow as a part of | rate | CPU |\n|---|---|---|\n");
    for (tool, floor) in COMPARED {
        let ratio = |pick: fn(&Outcome) -> f64| {
            let pairs = rounds
                .iter()
                .map(|round| (pick(&round[tool]), pick(&round[floor])));
            Ratio::of(pairs).to_string()
        };
        let (rate, cpu) = (ratio(|run| run.per_second), ratio(|run| run.cpu));
        let name = CONTENDERS[floor].name();
        text.push_str(&format!("| {name} | {rate} | {cpu} |\n"));
        println!("QoS {qos}, wiredflow as a part of {name}: rate {rate}, CPU {cpu}");
    }
}

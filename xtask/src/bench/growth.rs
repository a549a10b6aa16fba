//! What the amount that is stored already costs, and whether a burst gets through.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Plan;
use super::broker::Broker;
use super::figures::{Figures, Ratio};
use super::ingest::watch;
use super::page::Part;
use super::process::Process;
use crate::Result;

/// How many records the array holds before the messages come.
const STORED: [usize; 2] = [1_000, 1_000_000];

/// How many messages come then, and how many in a burst.
const MESSAGES: usize = 20_000;
const BURST: usize = 30_000;

/// How many bursts there are.
const BURSTS: usize = 10;

const ARRAY: &str = "data/json_in_ingest.json";

/// CPU seconds for 100,000 messages to a short array and to a long one, in turns.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let mut runs = Vec::new();
    for number in 1..=plan.pairs {
        let mut pair = [0.0; 2];
        for (stored, cpu) in STORED.into_iter().zip(&mut pair) {
            let folder = plan.fresh_folder()?;
            fill(&folder.join(ARRAY), stored).map_err(|error| error.to_string())?;
            let outcome = run(
                plan,
                &folder,
                Store::Array,
                MESSAGES,
                "max_queued_messages 0\n",
            )?;
            if outcome.lost > 0 {
                return Err(format!("{} of {MESSAGES} are lost", outcome.lost));
            }
            *cpu = outcome.cpu;
        }
        println!("growth, {number} of {}: {pair:.2?}", plan.pairs);
        runs.push(pair);
    }
    let column = |index: usize| Figures::of(runs.iter().map(|pair| pair[index]));
    let ratio = Ratio::of(runs.iter().map(|pair| (pair[1], pair[0])));
    let text = format!(
        "{MESSAGES} messages at QoS 1 to a `json` storage, whose file is a valid array after every commit. CPU \
         seconds for 100,000 messages, median of {} runs in turns [least … most].\n\n\
         | records stored before | CPU s |\n|---|---|\n| {} | {:.2} |\n| {} | {:.2} |\n\nThe long one as a part of \
         the short one: {ratio}.\n",
        plan.pairs,
        STORED[0],
        column(0),
        STORED[1],
        column(1),
    );
    Ok(Part {
        title: "The json array as it grows",
        text,
    })
}

/// How much of a burst is lost at a broker with its defaults.
pub(super) fn measure_bursts(plan: &Plan) -> Result<Part> {
    let mut lost = Vec::new();
    for number in 1..=BURSTS {
        let folder = plan.fresh_folder()?;
        let outcome = run(plan, &folder, Store::Lines, BURST, "")?;
        println!("burst, {number} of {BURSTS}: {} lost", outcome.lost);
        lost.push(outcome.lost);
    }
    let whole = lost.iter().filter(|lost| **lost == 0).count();
    let text = format!(
        "{BURST} messages at QoS 1 as fast as a publisher can, to `jsonl`, at mosquitto's defaults: it keeps 1000 \
         messages for a subscriber and drops what is more, so this is a race that \
         `max_queued_messages` ends. In {whole} of {BURSTS} runs nothing was lost; lost in each: {lost:?}.\n"
    );
    Ok(Part {
        title: "A burst at a broker with its defaults",
        text,
    })
}

/// An array as the tool writes it.
fn fill(path: &Path, records: usize) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for record in 0..records {
        let before = if record == 0 { "[\n" } else { ",\n" };
        write!(
            file,
            "{before}{{\"old\":{record},\"sensor\":\"line-1\",\"celsius\":20.5}}"
        )?;
    }
    file.write_all(b"\n]\n")?;
    file.into_inner()?.sync_all()
}

#[derive(Clone, Copy)]
enum Store {
    Array,
    Lines,
}

struct Outcome {
    cpu: f64,
    lost: usize,
}

fn run(plan: &Plan, folder: &Path, store: Store, messages: usize, broker: &str) -> Result<Outcome> {
    let mut broker = Broker::start_with(folder, broker)?;
    let (store, file) = match store {
        Store::Array => ("json", ARRAY),
        Store::Lines => ("jsonl", "data/jsonl_in_ingest.jsonl"),
    };
    let flow = folder.join("flow.yaml");
    let text = format!(
        "pipelines:\n  ingest:\n    source: {{mqtt: {{broker: \"{}\", topic: bench/numbers}}}}\n    stages:\n      \
         - store: {{{store}: {{folder: data}}}}\n",
        broker.address
    );
    std::fs::write(&flow, text).map_err(|error| error.to_string())?;
    let mut command = Command::new(plan.program("wiredflow"));
    command.arg("run").arg(&flow).current_dir(folder);
    let mut tool = Process::start(&mut command, &folder.join("tool.log"), false)?;
    broker.wait_for_subscriber(&mut tool)?;
    let file = folder.join(file);
    let before = std::fs::metadata(&file).map_or(0, |data| data.len());
    let mut command = Command::new(plan.program("wiredflow-bench"));
    command.args(["publish", "--broker", &broker.address, "--qos", "1"]);
    command.args(["--messages", &messages.to_string()]);
    let mut publisher = Process::start(&mut command, &folder.join("publisher.log"), true)?;
    let bytes: u64 = publisher
        .line("ready")?
        .parse()
        .map_err(|_| "no size".to_owned())?;
    let cpu = tool.on_core();
    publisher.go()?;
    watch(&file, before + bytes);
    std::thread::sleep(Duration::from_millis(100));
    let cpu = (tool.on_core() - cpu).as_secs_f64() * 100_000.0 / messages as f64;
    publisher.wait()?;
    tool.end()?;
    let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let stored = text
        .lines()
        .filter(|line| line.contains("\"sequence\""))
        .count();
    Ok(Outcome {
        cpu,
        lost: messages.saturating_sub(stored),
    })
}

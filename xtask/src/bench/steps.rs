//! What the engine itself costs: stages that do nothing, in Rust and in Python.

use std::process::Command;

use super::figures::{Figures, Ratio};
use super::page::Part;
use super::process::Process;
use super::{Plan, machine};
use crate::Result;

/// How many records go through Python at each size of batch.
const RECORDS: [(usize, usize); 2] = [(1, 20_000), (64, 400_000)];

/// Starts one part of the bench program in a folder and gives the figures of the line that begins with `word`.
fn figures<const N: usize>(plan: &Plan, word: &str, more: &[String]) -> Result<[f64; N]> {
    let folder = plan.fresh_folder()?;
    let mut command = Command::new(plan.program("wiredflow-bench"));
    command.arg(word).arg("--folder").arg(folder.join("flow"));
    command.args(more);
    let mut part = Process::start(&mut command, &folder.join("part.log"), true)?;
    let answer = part.line(word)?;
    part.wait()?;
    let figures: Vec<f64> = answer
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    <[f64; N]>::try_from(figures).map_err(|_| format!("`{word}` said `{answer}`"))
}

/// Many independent stages and some in a row.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let (load, sync) = (machine::load(), machine::sync_time(&plan.folder)?);
    let mut runs = Vec::new();
    for number in 1..=plan.pairs {
        let run: [f64; 8] = figures(plan, "steps", &[])?;
        println!("steps, {number} of {}: {run:.2?} ms", plan.pairs);
        runs.push(run);
    }
    let column = |index: usize| Figures::of(runs.iter().map(|run| run[index]));
    let mut text = format!(
        "Recorded means a row in `state.db` for each run, synced to the disk. The first figure ends when the last delivery \
         is settled, the others when the flow has ended in good order and its state is closed. A function runs on a \
         thread, unless its author has said that it is quick and never waits. Median of {} runs [least … most]; load average \
         {load}, fdatasync of 4 KiB {:.2} ms.\n\n| ms | on a thread | quick |\n|---|---|---|\n",
        plan.pairs,
        sync.as_secs_f64() * 1e3,
    );
    let rows = [
        "1,000 deliveries of a source through a stage",
        "1,000 pipelines that run once, recorded, from the first call",
        "40 stages in a row, recorded, from the first call",
        "the same with the opening of the flow and a new state",
    ];
    for (index, what) in rows.iter().enumerate() {
        text.push_str(&format!(
            "| {what} | {:.1} | {:.1} |\n",
            column(index),
            column(index + rows.len())
        ));
    }
    Ok(Part {
        title: "Stages that do nothing",
        text,
    })
}

/// A stage in Python against a bare pipe, in turns.
pub(super) fn measure_python(plan: &Plan) -> Result<Part> {
    let mut text = format!(
        "Records per second through a function in Python that gives back what it gets. The bare loop sends a frame of \
         a length and JSON, waits for the reply and reads it, one call after the other. Median of {} runs in \
         turns [least … most].\n\n| records in a call | bare loop | **wiredflow** | as a part |\n|---|---|---|---|\n",
        plan.pairs
    );
    for (batch, records) in RECORDS {
        let mut runs = Vec::new();
        for number in 1..=plan.pairs {
            let words = [
                "--batch",
                &batch.to_string(),
                "--records",
                &records.to_string(),
            ];
            let run: [f64; 2] = figures(plan, "python", &words.map(str::to_owned))?;
            println!("python by {batch}, {number} of {}: {run:.0?}", plan.pairs);
            runs.push(run);
        }
        let column = |index: usize| Figures::of(runs.iter().map(|run| run[index]));
        let ratio = Ratio::of(runs.iter().map(|run| (run[1], run[0])));
        text.push_str(&format!(
            "| {batch} | {:.0} | {:.0} | {ratio} |\n",
            column(0),
            column(1)
        ));
    }
    Ok(Part {
        title: "Logic in Python",
        text,
    })
}

//! A flow that runs until the process is ended, with its clocks or without: what measuring costs.

use std::path::Path;

use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::Metering;
use wiredflow_engine::run::{self, RunOptions};

use crate::{Options, Result};

pub(crate) fn run(options: &Options<'_>) -> Result {
    let file = Path::new(options.text("--flow")?);
    let folder = file.parent().unwrap_or(Path::new("."));
    let text = std::fs::read_to_string(file)?;
    let lookup = SystemLookup::new(folder);
    let checked = check_text(&text, "bench", folder, &Functions::default(), &lookup);
    let problems = checked.problems;
    let plan = checked.plan.ok_or_else(|| format!("{problems:?}"))?;
    let metering = match options.has("--no-clocks") {
        true => Metering::Off,
        false => Metering::On,
    };
    let options = RunOptions {
        metering,
        ..RunOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let running = run::start(&plan, &options)?;
        Ok::<_, wiredflow_core::Error>(running.finished().await)
    })?;
    match ended.report.error {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}

//! Flows that run inside this process, by the engine as a library.

use std::path::Path;
use std::time::{Duration, Instant};

use wiredflow_engine::check::SystemLookup;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{self, RunOptions};

use crate::Result;

/// A plan of a flow's text. Its folder is emptied.
pub(crate) fn plan(text: &str, folder: &Path, functions: &Functions) -> Result<Plan> {
    plan_beside(text, folder, functions, &[])
}

/// The same, with files beside it.
pub(crate) fn plan_beside(
    text: &str,
    folder: &Path,
    functions: &Functions,
    files: &[(&str, &str)],
) -> Result<Plan> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    for (name, content) in files {
        std::fs::write(folder.join(name), content)?;
    }
    let lookup = SystemLookup::new(folder);
    let checked = wiredflow_engine::check::check_text(text, "bench", folder, functions, &lookup);
    let problems = checked.problems;
    checked.plan.ok_or_else(|| format!("{problems:?}").into())
}

/// Runs a plan to its end, and gives the time from before it was opened until after it was closed.
pub(crate) fn run(plan: &Plan) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let begun = Instant::now();
    let ended = runtime.block_on(async {
        let running = run::start(plan, &RunOptions::default())?;
        Ok::<_, wiredflow_core::Error>(running.finished().await)
    })?;
    let took = begun.elapsed();
    match ended.report.error {
        None => Ok(took),
        Some(error) => Err(error.to_string().into()),
    }
}

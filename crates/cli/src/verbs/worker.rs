//! `worker`: this program as the far end of a stage that runs elsewhere, and as the way there.

use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::worker::Parting;
use wiredflow_far::{Ended, Limits, Streams, Surroundings, serve};

use crate::exit::{Exit, Failure, Outcome};

/// Run a stage for a flow that runs elsewhere; started by Wiredflow itself
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A stage with `remote: NAME` runs in such a process: it gets the stage and its calls on its standard
input, and answers on its standard output, in the words of the worker protocol. There is no reason to start it by hand."
)]
pub(crate) struct Worker {
    /// Serve the host on standard input and output
    #[arg(long, required = true)]
    stdio: bool,

    /// End when this and all that it starts use more memory, in bytes
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,

    /// Keep to so many cores
    #[arg(long, value_name = "CORES")]
    cpu: Option<usize>,

    /// What the process list shows
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

impl Worker {
    pub(crate) fn run(&self, functions: Functions) -> Outcome {
        let limits = Limits {
            memory: self.memory,
            cores: self.cpu,
        };
        limits.keep_to_cores().map_err(wrong)?;
        let streams = Streams::take().map_err(wrong)?;
        let clock = Clock::real();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(wrong)?;
        let outcome = runtime.block_on(async {
            let (input, output) = streams.open().map_err(wrong)?;
            let surroundings = Surroundings {
                functions,
                folder: None,
                clock: clock.clone(),
            };
            tokio::select! {
                ended = serve(input, output, surroundings) => match ended.map_err(wrong)? {
                    Ended::Left => Ok(Exit::Done),
                    Ended::Broke => Ok(Exit::Wrong),
                },
                words = limits.exceeded(&clock) => Err(Failure::failed(words)),
            }
        });
        // A function that never ends holds its thread, and is not waited for.
        runtime.shutdown_background();
        outcome
    }
}

/// What keeps a worker from working.
fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::Told(Exit::Parted(Parting::Wrong), error.to_string())
}

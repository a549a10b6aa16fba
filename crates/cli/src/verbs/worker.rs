//! `worker`: this program as the far end of a stage that runs elsewhere, and as the way there.

use std::fmt;
use std::io;

use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::worker::Parting;
use wiredflow_far::{
    Bridged, Cache, Ended, Limits, Refusal, Session, Streams, Surroundings, Venv, bridge, link,
    serve,
};

use crate::exit::{Exit, Failure, Outcome};

/// Run a stage for a flow that runs elsewhere; started by Wiredflow itself
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A stage with `remote: NAME` runs in such a process: it gets the stage and its calls on its standard
input, and answers on its standard output, in the words of the worker protocol. For another machine there is one more of
them on each side, which carry these streams over ssh. There is no reason to start one by hand."
)]
pub(crate) struct Worker {
    #[command(flatten)]
    part: Part,

    /// Start the session first
    #[arg(long, requires = "bridge")]
    new: bool,

    /// End when this and all that it starts use more memory, in bytes
    #[arg(long, value_name = "BYTES", requires = "stdio")]
    memory: Option<u64>,

    /// Keep to so many cores
    #[arg(long, value_name = "CORES", requires = "stdio")]
    cpu: Option<usize>,

    /// What the process list shows
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

/// Which part it plays.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Part {
    /// Serve the host on standard input and output
    #[arg(long)]
    stdio: bool,

    /// Carry standard input and output to a session on another machine, which the input names
    #[arg(long)]
    link: bool,

    /// Join standard input and output with a session on this machine
    #[arg(long, value_name = "ID")]
    bridge: Option<String>,

    /// Be a session, which outlives its connections for a while
    #[arg(long, value_name = "ID")]
    session: Option<String>,

    /// Put the code on standard input in its place
    #[arg(long, value_name = "HASH")]
    unpack: Option<String>,

    /// Make the virtual environment that standard input names
    #[arg(long)]
    venv: bool,
}

impl Worker {
    pub(crate) fn run(&self, functions: Functions) -> Outcome {
        let clock = Clock::real();
        let part = &self.part;
        if let Some(hash) = &part.unpack {
            let cache = Cache::of_user().map_err(wrong)?;
            cache.bring_code(hash, io::stdin().lock()).map_err(wrong)?;
            return Ok(Exit::Done);
        }
        if part.venv {
            let cache = Cache::of_user().map_err(wrong)?;
            let venv: Venv = serde_json::from_reader(io::stdin().lock()).map_err(wrong)?;
            venv.make(&cache, &clock).map_err(wrong)?;
            return Ok(Exit::Done);
        }
        if let Some(id) = &part.session {
            return in_runtime(Threads::One, async || {
                let cache = Cache::of_user().map_err(wrong)?;
                let session = Session::prepare(id, &cache).await.map_err(wrong)?;
                session
                    .run(functions, &cache, &clock)
                    .await
                    .map_err(wrong)?;
                Ok(Exit::Done)
            });
        }
        let limits = Limits {
            memory: self.memory,
            cores: self.cpu,
        };
        limits.keep_to_cores().map_err(wrong)?;
        let streams = Streams::take().map_err(wrong)?;
        let threads = match part.stdio {
            true => Threads::Some,
            false => Threads::One,
        };
        in_runtime(threads, async || {
            if let Some(id) = &part.bridge {
                let cache = Cache::of_user().map_err(wrong)?;
                let bridged = bridge(id, self.new, streams, &cache, &clock).await;
                return match bridged.map_err(wrong)? {
                    Bridged::Closed => Ok(Exit::Done),
                    Bridged::Gone => Ok(Exit::Parted(Parting::Gone)),
                };
            }
            let streams = streams.open().map_err(wrong)?;
            if part.link {
                let Err(Refusal { parting, words }) = link(streams, &clock).await else {
                    return Ok(Exit::Done);
                };
                return Err(Failure::Told(Exit::Parted(parting), words));
            }
            let surroundings = Surroundings {
                functions,
                folder: None,
                clock: clock.clone(),
                prints: None,
            };
            tokio::select! {
                ended = serve(streams.0, streams.1, surroundings) => match ended.map_err(wrong)? {
                    Ended::Left => Ok(Exit::Done),
                    Ended::Broke => Ok(Exit::Wrong),
                },
                words = limits.exceeded(&clock) => Err(Failure::failed(words)),
            }
        })
    }
}

/// Threads of the runtime.
#[derive(Clone, Copy)]
enum Threads {
    /// This one: bytes are carried quickest without a change of thread. Functions have threads and processes of their own.
    One,
    /// Some, for a stage beside its flow: one that computes right where it is called must not hold what its host says.
    Some,
}

fn in_runtime(threads: Threads, work: impl AsyncFnOnce() -> Outcome) -> Outcome {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Some => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(wrong)?;
    let outcome = runtime.block_on(work());
    // A function that never ends holds its thread, and is not waited for.
    runtime.shutdown_background();
    outcome
}

/// What keeps a worker from working.
fn wrong(error: impl fmt::Display) -> Failure {
    Failure::Told(Exit::Parted(Parting::Wrong), error.to_string())
}

//! `process`: a process of its own on this machine, with limits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wiredflow_core::fields::Size;
use wiredflow_core::node::Node;
use wiredflow_core::{Result, config};

use super::{Remote, RemoteKind, Way};
use crate::catalogue::CheckCx;
use crate::resources::Resources;
use crate::worker::Launch;

/// How often it says that it is alive: one that is frozen must not hold its calls for ever.
const BEAT: Duration = Duration::from_secs(2);

/// Less memory than this is too little for the process itself.
const LEAST_MEMORY: u64 = 32 << 20;

config! {
    /// A process of its own on this machine: what its stages use is limited, and what they break is theirs.
    pub struct ProcessConfig {
        /// The most memory that it and what it starts may use together; beyond that it is ended, and the call has failed.
        memory: Option<Size>,
        /// How many cores it may use.
        cpu: Option<usize>,
        /// Calls at once, of all stages together.
        slots: usize = "4",
    }
}

/// See [`ProcessConfig`].
#[derive(Debug)]
pub(crate) struct Process;

/// The process of a stage whose pipeline is isolated.
pub(super) fn of_its_own() -> Remote {
    let config = ProcessConfig {
        memory: None,
        cpu: None,
        // They are not counted: its calls are as many as the stage makes.
        slots: Semaphore::MAX_PERMITS,
    };
    Remote {
        name: Process::NAME.into(),
        slots: Arc::new(Semaphore::new(config.slots)),
        way: Way::Channel(Arc::new(move |resources| {
            Process::launch(&config, "of its own", resources)
        })),
    }
}

impl RemoteKind for Process {
    const NAME: &'static str = "process";
    const EXAMPLE: &'static str = "process: {memory: 512MiB, cpu: 1}";
    type Config = ProcessConfig;

    fn check(config: &ProcessConfig, node: &Node, cx: &mut CheckCx<'_>) {
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        if config.memory.is_some_and(|memory| memory.0 < LEAST_MEMORY) {
            let message = "`memory` must be at least 32MiB: the process itself needs some";
            cx.reading.error(span("memory"), message);
        }
        if config.cpu == Some(0) {
            cx.reading.error(span("cpu"), "`cpu` must be at least 1");
        }
    }

    fn slots(config: &ProcessConfig) -> usize {
        config.slots
    }

    fn launch(config: &ProcessConfig, name: &str, resources: &Resources) -> Result<Launch> {
        let Resources {
            flow,
            pipeline,
            stage,
            ..
        } = resources;
        let mut arguments = vec!["worker".to_owned(), "--stdio".to_owned()];
        if let Some(memory) = config.memory {
            arguments.extend(["--memory".to_owned(), memory.0.to_string()]);
        }
        if let Some(cores) = config.cpu {
            arguments.extend(["--cpu".to_owned(), cores.to_string()]);
        }
        arguments.extend(["--label".to_owned(), format!("{flow}/{pipeline}/{stage}")]);
        let launch = Launch::own_program(&arguments, Vec::new(), format!("the process `{name}`"))?;
        Ok(launch.beating(BEAT))
    }
}

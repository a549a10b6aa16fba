//! `stop`: ends a deployed flow.

use crate::deployed;
use crate::engine::EngineArguments;
use crate::exit::{Failure, Outcome};
use crate::service;
use crate::tool::Tool;

/// End a flow that runs on the nodes of a cluster
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Its parts end in good order, within 10 seconds each. `run FILE --engine URL` starts it again; what its storages keep in files
stays on the nodes that have them, and so does the word on which nodes those are, until `--forget`.

Examples:
  wiredflow stop sensors --engine nats://10.0.0.1:4222
  wiredflow stop sensors --engine nats://10.0.0.1:4222 --forget"
)]
pub(crate) struct Stop {
    /// The flow's name
    #[arg(value_name = "FLOW")]
    flow: String,

    #[command(flatten)]
    engine: EngineArguments,

    /// Forget it too, and which nodes have its files; the files stay
    #[arg(long)]
    forget: bool,
}

impl Stop {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if !self.engine.is_given() {
            return Err(Failure::wrong(
                "`--engine URL` is missing: a flow that runs on this machine alone is ended by ^C or SIGTERM",
            ));
        }
        let stopping = deployed::stop(tool, &self.engine, &self.flow, self.forget);
        service::runtime()?.block_on(stopping)
    }
}

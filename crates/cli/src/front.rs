//! The API of what `run` runs: one port for all sessions of a flow that is watched, unless the change is about it.

use std::path::PathBuf;

use wiredflow_api::logs::Recent;
use wiredflow_api::{Door, Live, Server};
use wiredflow_engine::listen::Listen;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{RunOptions, Running};

use crate::exit::Failure;

/// What the port was opened for.
type For = (Listen, PathBuf);

/// The API, or its absence.
#[derive(Debug)]
pub(crate) struct Front<'a> {
    logs: Option<&'a Recent>,
    server: Option<(For, Server)>,
}

/// What stands between the opening of a port and the start of the flow.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The port of the session before serves on.
    Same,
    /// A port of its own, or none.
    Other(Box<(For, Option<Door>)>),
}

impl<'a> Front<'a> {
    /// None without `logs`.
    pub(crate) fn new(logs: Option<&'a Recent>) -> Self {
        Self { logs, server: None }
    }

    /// Takes the port of a plan, before anything of it runs.
    ///
    /// # Errors
    /// `Failed` when the port that the file names cannot be had, or the tokens are not safe.
    pub(crate) async fn open(&self, plan: &Plan, options: &RunOptions) -> Result<Opened, Failure> {
        let state = options.state.clone().unwrap_or_else(|| plan.state.clone());
        let wanted = (plan.listen.clone(), state);
        if self
            .server
            .as_ref()
            .is_some_and(|(for_, _)| *for_ == wanted)
        {
            return Ok(Opened::Same);
        }
        let door = match self.logs {
            None => None,
            Some(_) => Door::open(&wanted.0, &plan.folder, &wanted.1)
                .await
                .map_err(|error| Failure::failed(error.message()))?,
        };
        Ok(Opened::Other(Box::new((wanted, door))))
    }

    /// Shows the flow that runs now.
    ///
    /// # Errors
    /// `Failed` when the certificate cannot be used.
    pub(crate) fn show(
        &mut self,
        opened: Opened,
        plan: &Plan,
        options: &RunOptions,
        running: &Running,
    ) -> Result<(), Failure> {
        let state = options.state.clone().unwrap_or_else(|| plan.state.clone());
        if let Opened::Other(opened) = opened {
            let (wanted, door) = *opened;
            // The old note goes before the new one is left.
            self.server = None;
            if let (Some(door), Some(logs)) = (door, self.logs) {
                let server = door.serve(&options.clock, logs);
                let server = server.map_err(|error| Failure::failed(error.message()))?;
                self.server = Some((wanted, server));
            }
        }
        if let Some((_, server)) = &self.server {
            server.show(Some(Live {
                plan: plan.clone(),
                state,
                started: options.clock.now(),
                control: running.control(),
                figures: running.figures(),
            }));
        }
        Ok(())
    }

    /// Ends it in good order.
    pub(crate) async fn close(&mut self) {
        if let Some((_, server)) = self.server.take() {
            server.close().await;
        }
    }
}

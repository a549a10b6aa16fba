//! Reaches a flow that runs: by its file, whose state folder says where it listens, or by its URL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use wiredflow_api::client::{Client, Refusal};
use wiredflow_api::{Role, note, token_file};
use wiredflow_core::problem::possible;
use wiredflow_engine::state::{flow_of, is_locked};

use crate::exit::{Exit, Failure};
use crate::flow_file;
use crate::service::runtime;
use crate::tool::Tool;

/// Which flow, and which of its pipelines.
#[derive(Debug, clap::Args)]
pub(crate) struct Subject {
    /// The flow file, or the URL of a flow that runs elsewhere
    #[arg(index = 1, value_name = "FILE|URL")]
    file: Option<String>,

    /// Only these pipelines; all when left out
    #[arg(index = 2, value_name = "PIPELINE")]
    pipelines: Vec<String>,
}

/// A flow that runs, and the pipelines that are meant.
#[derive(Debug)]
pub(crate) struct Reached {
    client: Client,
    runtime: tokio::runtime::Runtime,
    /// The names that were given.
    pub(crate) named: Vec<String>,
}

impl Subject {
    /// The flow of a file, or at a URL.
    pub(crate) fn of(file: &str) -> Self {
        Self {
            file: Some(file.to_owned()),
            pipelines: Vec::new(),
        }
    }

    /// The name of a deployed flow, where one stands in the place of a file.
    pub(crate) fn name(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Finds the flow.
    ///
    /// # Errors
    /// `Wrong` for a file, URL or token that is none; `Failed` when the flow does not run, or does not listen.
    pub(crate) fn reach(&self, tool: &Tool) -> Result<Reached, Failure> {
        let mut named = self.pipelines.clone();
        let file = match &self.file {
            // With a flow linked in, the first argument is a pipeline unless it is a file.
            Some(first) if tool.flow.is_some() && !is_url(first) && !Path::new(first).exists() => {
                named.insert(0, first.clone());
                None
            }
            file => file.as_deref(),
        };
        let wrong = |error: wiredflow_core::Error| Failure::wrong(error.message());
        let token = tool.global.token_file.as_deref();
        let client = match file {
            Some(url) if is_url(url) => {
                let token = token.ok_or_else(|| {
                    Failure::wrong(
                        "a flow at a URL wants `--token-file FILE`, a file with its token",
                    )
                })?;
                Client::of_url(url, token).map_err(wrong)?
            }
            file => {
                let place = flow_file::state_place(tool, file.map(Path::new))?;
                let known = || place.pipelines.iter().map(String::as_str);
                if let Some(unknown) = named
                    .iter()
                    .find(|name| known().all(|known| known != **name))
                {
                    let help = possible(unknown, known());
                    return Err(Failure::wrong(format!(
                        "the flow has no pipeline `{unknown}`: {help}"
                    )));
                }
                let flow = &place.flow;
                if !is_locked(&place.folder) {
                    return Err(Failure::failed(format!(
                        "`{flow}` does not run: `wiredflow run` starts it"
                    )));
                }
                if let Some(other) = flow_of(&place.folder).filter(|other| other != flow) {
                    return Err(Failure::failed(format!(
                        "`{flow}` does not run: the flow that runs from the state folder `{}` is `{other}`",
                        place.folder.display()
                    )));
                }
                let note = note(&place.folder).ok_or_else(|| {
                    Failure::failed(format!(
                        "`{flow}` runs and does not listen: its file says `listen: off`, or it starts just now"
                    ))
                })?;
                let usual: PathBuf = token_file(&place.folder, Role::Admin);
                Client::of_note(&note, token.unwrap_or(&usual)).map_err(wrong)?
            }
        };
        Ok(Reached {
            client,
            runtime: runtime()?,
            named,
        })
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

impl Reached {
    /// Reads a document below `/api/v1`.
    ///
    /// # Errors
    /// What the flow says.
    pub(crate) fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let asked = self.client.get(path, query, Duration::ZERO);
        self.runtime.block_on(asked).map_err(told)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// What the flow says.
    pub(crate) fn post(&self, path: &[&str]) -> Result<Value, Failure> {
        self.runtime.block_on(self.client.post(path)).map_err(told)
    }

    /// The documents of the pipelines that are meant.
    ///
    /// # Errors
    /// `Wrong` for a name that no pipeline has.
    pub(crate) fn pipelines(&self) -> Result<Vec<Value>, Failure> {
        let document = self.get(&["pipelines"], &[])?;
        let mut all = document["pipelines"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let name = |pipeline: &Value| pipeline["pipeline"].as_str().unwrap_or_default().to_owned();
        let known: Vec<String> = all.iter().map(name).collect();
        if let Some(unknown) = self.named.iter().find(|name| !known.contains(name)) {
            let help = possible(unknown, known.iter().map(String::as_str));
            return Err(Failure::wrong(format!(
                "the flow that runs has no pipeline `{unknown}`: {help}"
            )));
        }
        all.retain(|pipeline| self.named.is_empty() || self.named.contains(&name(pipeline)));
        Ok(all)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn told(refusal: Refusal) -> Failure {
    match &refusal {
        Refusal::Answer(400 | 401 | 403 | 404, why) => Failure::Told(Exit::Wrong, why.clone()),
        refusal => Failure::failed(refusal.message()),
    }
}

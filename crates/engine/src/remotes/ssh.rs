//! `ssh`: another machine, of which nothing is wanted but that it lets us in.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wiredflow_core::fields::Pairs;
use wiredflow_core::node::Node;
use wiredflow_core::{Error, Result, config};

use super::RemoteKind;
use crate::catalogue::CheckCx;
use crate::goods;
use crate::resources::Resources;
use crate::worker::Launch;

/// How long a session may go on when the process that carries its connection is lost: it notices that it is alone within
/// 10 seconds, and has a lease of 30 (crates/far/src/session.rs).
const LINGERS: Duration = Duration::from_secs(45);

config! {
    /// Another machine, reached by this machine's `ssh`, with its config, agent, jump hosts and known hosts. It needs an
    /// SSH server, and Python for functions in Python; Wiredflow's program and the flow's code are copied there.
    pub struct SshConfig short host {
        /// The machine, as `ssh` takes it: `user@address`, or a name of the user's `~/.ssh/config`.
        host: String,
        /// The port; left out, as `ssh` has it.
        port: Option<u16>,
        /// The file of the private key; left out, as `ssh` has it. `~/` is the home folder.
        identity: Option<String>,
        /// The file of the hosts that are known; left out, as `ssh` has it. A host that is not known is refused.
        known_hosts: Option<String>,
        /// The Python there.
        python: String = "python3",
        /// Variables for the user's code there.
        env: Pairs<String>,
        /// Files and folders of the flow's folder that go along, beside its Python files: models, tables, programs.
        files: Vec<String>,
        /// Calls at once, of all stages together.
        slots: usize = "4",
    }
}

/// A machine as the program that goes there is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The name of the remote, for messages.
    pub name: String,
    /// What the process list there shows.
    pub label: String,
    /// As `ssh` takes it.
    pub host: String,
    /// The port, if not `ssh`'s own.
    pub port: Option<u16>,
    /// The file of the private key.
    pub identity: Option<String>,
    /// The file of the known hosts.
    pub known_hosts: Option<String>,
    /// The Python there.
    pub python: String,
    /// Variables for the user's code.
    pub env: Vec<(String, String)>,
    /// The flow's folder here.
    pub folder: String,
    /// What of it goes along beside its Python files.
    pub files: Vec<String>,
}

/// See [`SshConfig`].
#[derive(Debug)]
pub(crate) struct Ssh;

impl RemoteKind for Ssh {
    const NAME: &'static str = "ssh";
    const EXAMPLE: &'static str = "ssh: {host: worker@10.0.0.7, python: python3, slots: 4}";
    type Config = SshConfig;

    fn check(config: &SshConfig, node: &Node, cx: &mut CheckCx<'_>) {
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        // What begins with a dash would be an option of `ssh`.
        let odd = |text: &str| {
            text.is_empty() || text.starts_with('-') || text.contains(char::is_whitespace)
        };
        if odd(&config.host) {
            let message = format!("`{}` is no host", config.host.escape_debug());
            cx.reading.error_with_help(
                span("host"),
                message,
                "write `user@address`, or a name of your ~/.ssh/config",
            );
        }
        if config.python.is_empty() || config.python.starts_with('-') {
            cx.reading
                .error(span("python"), "`python` is a command or a path");
        }
        for (key, file) in [
            ("identity", &config.identity),
            ("known_hosts", &config.known_hosts),
        ] {
            let Some(file) = file else { continue };
            let path = here(file, cx.folder);
            if !Path::new(&path).is_file() {
                cx.reading
                    .error(span(key), format!("there is no file `{path}`"));
            }
        }
        goods::check(&config.env, &config.files, node, cx);
    }

    fn slots(config: &SshConfig) -> usize {
        config.slots
    }

    fn launch(config: &SshConfig, name: &str, resources: &Resources) -> Result<Launch> {
        let Resources {
            flow,
            pipeline,
            stage,
            folder,
            ..
        } = resources;
        let label = format!("{flow}/{pipeline}/{stage}");
        let file = |file: &Option<String>| file.as_ref().map(|file| here(file, folder));
        let host = Host {
            name: name.to_owned(),
            label: label.clone(),
            host: config.host.clone(),
            port: config.port,
            identity: file(&config.identity),
            known_hosts: file(&config.known_hosts),
            python: config.python.clone(),
            env: config.env.0.clone(),
            folder: here("", folder),
            files: config.files.clone(),
        };
        let unwritten =
            |error: serde_json::Error| Error::bug(format!("a host cannot be written: {error}"));
        let text = serde_json::to_vec(&host).map_err(unwritten)?;
        let mut preamble = u32::try_from(text.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
            .to_vec();
        preamble.extend(text);
        let arguments = ["worker", "--link", "--label", &label].map(str::to_owned);
        let launch = Launch::own_program(&arguments, preamble, format!("the remote `{name}`"))?;
        Ok(launch.lingering(LINGERS))
    }
}

/// A file of this machine as the flow file names it: from the home folder, or from the flow's.
fn here(file: &str, folder: &Path) -> String {
    let path = match file.strip_prefix("~/").zip(std::env::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => std::path::absolute(folder)
            .unwrap_or_else(|_| folder.to_owned())
            .join(file),
    };
    path.to_string_lossy().into_owned()
}

//! The command line, as clap knows it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::log::{LogFormat, LogLevel};
use crate::verbs;

/// The verbs that have a place in the interface and no code yet.
pub(crate) const NOT_BUILT_YET: &[&str] = &["advise", "simulate", "split", "apply"];

/// Data services from one file: collect, compute, store and send
#[derive(Debug, Parser)]
#[command(
    name = "wiredflow",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
#[command(
    after_help = "A flow is a file of pipelines; a pipeline has one trigger and a list of stages.

Examples:
  wiredflow demo                  watch a whole service work, with everything it needs inside
  wiredflow init my_service       write a first flow of your own
  wiredflow check flow.yaml       all problems of a flow, with their places
  wiredflow test flow.yaml        its own tests: no server, no waiting
  wiredflow run flow.yaml         run it until ^C
  wiredflow profile flow.yaml     where its time goes, what limits it and why
  wiredflow stages http           what a stage can do, key by key

`wiredflow VERB --help` shows more, with examples."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What goes with every verb.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Global {
    /// The least that is logged; logs go to standard error
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        value_enum,
        hide_possible_values = true
    )]
    #[arg(
        help = "What is logged, to standard error: off, error, warn, info (default), debug, trace"
    )]
    pub(crate) log_level: Option<LogLevel>,

    /// How log lines look: text or json
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true
    )]
    #[arg(default_value = "text", hide_default_value = true)]
    #[arg(help = "How log lines look: text (default) or json")]
    pub(crate) log_format: LogFormat,

    /// The folder of the flow's state, in the place of the one that the flow names
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,

    /// Say only what goes wrong: no progress, no summary, logs from `warn` up
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// The file of the token that a running flow is asked with, in the place of the one in its state folder
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Demo(verbs::demo::Demo),
    Mock(verbs::mock::Mock),
    Init(verbs::init::Init),
    Check(verbs::check::Check),
    Run(verbs::run::Run),
    Test(verbs::test::Test),
    Graph(verbs::graph::Graph),
    Profile(verbs::profile::Profile),
    Runs(verbs::runs::Runs),
    DeadLetters(verbs::dead_letters::DeadLetters),
    Stages(verbs::stages::Stages),
    Status(verbs::status::Status),
    Stop(verbs::stop::Stop),
    Pause(verbs::switch::Pause),
    Resume(verbs::switch::Resume),
    Trigger(verbs::switch::Trigger),
    Logs(verbs::logs::Logs),
    Remotes(verbs::remotes::Remotes),
    Node(verbs::node::Node),
    Worker(verbs::worker::Worker),
}

impl Verb {
    /// What is logged when the user does not say.
    pub(crate) fn usual_log_level(&self, quiet: bool) -> LogLevel {
        match self {
            // Cases that expect failures would be noise; what they did is in the report.
            Self::Test(_) => LogLevel::Error,
            _ if quiet => LogLevel::Warn,
            _ => LogLevel::Info,
        }
    }
}

/// What the command line says.
#[derive(Debug)]
pub(crate) enum Said {
    /// A verb.
    Verb(Box<Arguments>),
    /// A verb that is not built yet.
    NotBuiltYet(String),
}

/// Whether the program has a flow of its own, so that FILE can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    Flow,
    None,
}

/// Reads the command line. Help and version are errors of clap's too: they print themselves.
pub(crate) fn read(
    arguments: impl IntoIterator<Item = OsString>,
    linked: Linked,
) -> Result<Said, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = flowing(command(linked));
    if linked == Linked::Flow {
        command = in_the_words_of(command, &program(&arguments));
    }
    let matches = command.try_get_matches_from_mut(arguments)?;
    if let Some(name) = matches.subcommand_name()
        && NOT_BUILT_YET.contains(&name)
    {
        return Ok(Said::NotBuiltYet(name.to_owned()));
    }
    let arguments = Arguments::from_arg_matches(&matches);
    arguments
        .map(|arguments| Said::Verb(Box::new(arguments)))
        .map_err(|error| error.format(&mut command))
}

/// The whole command, with the verbs that are not built yet.
pub(crate) fn command(linked: Linked) -> clap::Command {
    let mut command = Arguments::command();
    if linked == Linked::None {
        for verb in [
            "check", "run", "test", "graph", "profile", "runs", "pause", "resume", "trigger",
            "logs",
        ] {
            command = command.mut_subcommand(verb, file_is_required);
        }
        command = command.mut_subcommand("status", |verb| {
            verb.mut_arg("file", |file| file.required_unless_present("engine"))
        });
        command = command.mut_subcommand("remotes", |verb| {
            verb.mut_subcommand("test", file_is_required)
        });
        command = command.mut_subcommand("dead-letters", |verb| {
            ["list", "show"].into_iter().fold(verb, |verb, inner| {
                verb.mut_subcommand(inner, file_is_required)
            })
        });
    }
    for name in NOT_BUILT_YET {
        command = command.subcommand(later(name));
    }
    let list = NOT_BUILT_YET.join(", ");
    let examples = command.get_after_help().map(ToString::to_string);
    command.after_help(format!(
        "{}\n\nNot built yet: {list}.",
        examples.unwrap_or_default()
    ))
}

/// The command with its prose in the lines of the terminal: what stands in the source in several lines is
/// one, unless it is indented.
fn flowing(command: clap::Command) -> clap::Command {
    let text = command.get_after_help().map(ToString::to_string);
    let command = match text {
        Some(text) => {
            let mut joined = String::new();
            let mut is_prose = false;
            for line in text.lines() {
                let goes_on = is_prose && !line.is_empty() && !line.starts_with(' ');
                if !joined.is_empty() {
                    joined.push(if goes_on { ' ' } else { '\n' });
                }
                joined.push_str(line);
                is_prose = !line.is_empty() && !line.starts_with(' ') && !line.ends_with(':');
            }
            command.after_help(joined)
        }
        None => command,
    };
    command.mut_subcommands(flowing)
}

/// How the user has called the program.
fn program(arguments: &[OsString]) -> String {
    let path = arguments.first().map(Path::new).and_then(Path::file_name);
    path.map_or_else(
        || "wiredflow".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The examples of a program with a flow of its own: its name, and no file.
fn in_the_words_of(command: clap::Command, program: &str) -> clap::Command {
    let examples = command.get_after_help().map(ToString::to_string);
    let command = match examples {
        Some(text) => {
            let text = text.replace("wiredflow ", &format!("{program} "));
            command.after_help(text.replace(" flow.yaml", ""))
        }
        None => command,
    };
    command.mut_subcommands(|verb| in_the_words_of(verb, program))
}

fn file_is_required(verb: clap::Command) -> clap::Command {
    verb.mut_arg("file", |file| file.required(true))
}

/// A verb that takes anything and does nothing: what it will take is not to be guessed at now.
pub(crate) fn later(name: &'static str) -> clap::Command {
    let rest = clap::Arg::new("rest")
        .num_args(0..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .value_parser(clap::value_parser!(OsString));
    clap::Command::new(name)
        .hide(true)
        .disable_help_flag(true)
        .arg(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_sound() {
        command(Linked::None).debug_assert();
        command(Linked::Flow).debug_assert();
    }

    fn said(line: &str, linked: Linked) -> Result<Said, clap::Error> {
        read(line.split(' ').map(OsString::from), linked)
    }

    #[test]
    fn a_program_with_a_flow_of_its_own_needs_no_file() {
        for line in ["x check", "x run --once", "x runs", "x dead-letters list"] {
            assert!(
                matches!(said(line, Linked::Flow), Ok(Said::Verb(_))),
                "{line}"
            );
            let kind = said(line, Linked::None).unwrap_err().kind();
            assert_eq!(
                kind,
                clap::error::ErrorKind::MissingRequiredArgument,
                "{line}"
            );
        }
    }

    #[test]
    fn every_verb_of_the_interface_is_known() {
        let interface = [
            "demo",
            "mock",
            "init",
            "check",
            "run",
            "graph",
            "test",
            "profile",
            "advise",
            "simulate",
            "split",
            "apply",
            "node",
            "stop",
            "status",
            "logs",
            "worker",
            "runs",
            "dead-letters",
            "pause",
            "resume",
            "trigger",
            "remotes",
            "stages",
        ];
        let command = command(Linked::None);
        for verb in interface {
            assert!(command.find_subcommand(verb).is_some(), "{verb}");
        }
    }
}

//! From the arguments to a verb and its exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use wiredflow_api::logs::Recent;
use wiredflow_core::config_reader::not_built_yet;
use wiredflow_engine::builder::Flow;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::worker::Parting;

use crate::arguments::{self, Arguments, Global, Linked, Said, Verb};
use crate::exit::{Exit, Failure, Outcome};
use crate::log;
use crate::paint::{Ink, printable_lines};
use crate::screen::Screen;

/// What every verb is given.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) screen: Arc<Screen>,
    pub(crate) global: Global,
    pub(crate) flow: Option<Flow>,
    /// The newest log lines.
    pub(crate) logs: Recent,
}

impl Tool {
    /// The Rust functions that are linked in.
    pub(crate) fn functions(&self) -> Functions {
        let flow = self.flow.as_ref();
        flow.map(|flow| flow.functions().clone())
            .unwrap_or_default()
    }

    /// Prints one JSON document.
    pub(crate) fn print_json(&self, document: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::failed(format!("the document cannot be written: {error}")))?;
        self.screen.print(&format!("{text}\n"))
    }
}

/// Runs the tool to its end.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>, flow: Option<Flow>) -> ExitCode {
    let linked = if flow.is_some() {
        Linked::Flow
    } else {
        Linked::None
    };
    let screen = Arc::new(Screen::of_process());
    let said = match arguments::read(arguments, linked) {
        Ok(Said::Verb(arguments)) => arguments,
        Ok(Said::NotBuiltYet(verb)) => {
            return end(&screen, Err(Failure::wrong(not_built_yet(&verb))));
        }
        Err(error) => return usage(&error),
    };
    let Arguments { global, verb } = *said;
    if let Verb::Worker(worker) = &verb {
        // Its log, its input and its output belong to its host.
        let functions = flow.as_ref().map(|flow| flow.functions().clone());
        return end(&screen, worker.run(functions.unwrap_or_default()));
    }
    let usual = verb.usual_log_level(global.quiet);
    let logs = Recent::default();
    log::start(
        &screen,
        &logs,
        global.log_level.unwrap_or(usual),
        global.log_format,
    );
    let tool = Tool {
        screen: Arc::clone(&screen),
        global,
        flow,
        logs,
    };
    end(&screen, dispatch(&tool, &verb))
}

fn dispatch(tool: &Tool, verb: &Verb) -> Outcome {
    match verb {
        Verb::Demo(demo) => demo.run(tool),
        Verb::Mock(mock) => mock.run(tool),
        Verb::Init(init) => init.run(tool),
        Verb::Check(check) => check.run(tool),
        Verb::Run(run) => run.run(tool),
        Verb::Test(test) => test.run(tool),
        Verb::Graph(graph) => graph.run(tool),
        Verb::Profile(profile) => profile.run(tool),
        Verb::Runs(runs) => runs.run(tool),
        Verb::DeadLetters(dead_letters) => dead_letters.run(tool),
        Verb::Stages(stages) => stages.run(tool),
        Verb::Status(status) => status.run(tool),
        Verb::Stop(stop) => stop.run(tool),
        Verb::Pause(pause) => pause.run(tool),
        Verb::Resume(resume) => resume.run(tool),
        Verb::Trigger(trigger) => trigger.run(tool),
        Verb::Logs(logs) => logs.run(tool),
        Verb::Remotes(remotes) => remotes.run(tool),
        Verb::Node(node) => node.run(tool),
        Verb::Worker(worker) => worker.run(tool.functions()),
    }
}

/// Help, the version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody may be there to read it; the exit code says the same.
    drop(error.print());
    if error.use_stderr() {
        Exit::Wrong
    } else {
        Exit::Done
    }
    .into()
}

fn end(screen: &Screen, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(exit) => exit,
        Err(Failure::Closed) => Exit::Done,
        Err(Failure::Told(exit @ Exit::Parted(_), message)) => {
            let message = message.replace('\n', " ");
            screen.tell(&format!("{}{message}\n", Parting::MARK));
            exit
        }
        Err(Failure::Told(exit, message)) => {
            let word = screen.err().paint.with(Ink::Red, "error:");
            screen.tell(&format!("{word} {}\n", printable_lines(&message, "  ")));
            exit
        }
    }
    .into()
}

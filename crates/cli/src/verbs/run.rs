//! `run`: runs a flow in this process.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::units::parse_duration;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::{Plan, TriggerPlan};
use wiredflow_engine::run::RunOptions;

use crate::deployed;
use crate::engine::EngineArguments;
use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file::Subject;
use crate::service::{self, Look, Served, serve};
use crate::tool::Tool;
use crate::watch::Watch;
use crate::{flow_file, live};

/// How often the live lines are drawn anew.
const REDRAW: Duration = Duration::from_secs(1);

/// Run a flow until ^C, or for a time, or once
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The flow is checked first. ^C (or SIGTERM) ends intake and finishes what is in flight, for
10 seconds at most; a second one ends at once, and what is not finished then comes again at the next start.

Examples:
  wiredflow run flow.yaml                              until ^C
  wiredflow run flow.yaml --once                       each pipeline once, now
  wiredflow run flow.yaml --for 1m --json > run.json   a minute, with the figures at the end
  wiredflow run flow.yaml --pipeline letters --log-level debug
  wiredflow run flow.yaml --watch                      takes each change of it and of its Python
  wiredflow run flow.yaml --engine nats://10.0.0.1:4222    on the nodes that have joined, also after this command

With --engine the flow and its code go to the nodes of a cluster (`wiredflow node`), and the command returns when every pipeline is
open there, or says after 15 seconds which is not. Its `${env:…}` are filled in by the nodes, from their environment. The same command with
a changed file takes the place of the version that runs; `wiredflow stop` ends it.

With --watch a change ends the whole flow in good order and starts it anew; no delivery is lost. A flow that
ends or fails waits for the next change.

Exit codes: 0 done, 1 the flow failed, 2 the file or the arguments are wrong, 130 a second ^C."
)]
pub(crate) struct Run {
    /// The flow file
    file: Option<PathBuf>,

    /// End intake after this time and finish what is in flight: 30s, 5m, 1h
    #[arg(long = "for", value_name = "D", value_parser = parse_duration)]
    limit: Option<Duration>,

    /// Run each scheduled pipeline once, now, after its delay, and end
    #[arg(long)]
    once: bool,

    /// Take the flow file and the files it names anew whenever they change; a change with problems is told and
    /// not taken
    #[arg(long, conflicts_with = "once")]
    watch: bool,

    /// Run only this pipeline; can be given several times
    #[arg(long = "pipeline", value_name = "P")]
    pipelines: Vec<String>,

    /// Print one JSON document with all figures at the end
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArguments,

    /// With --engine: stay and tell what changes; ^C leaves the flow to itself
    #[arg(long, requires = "engine", conflicts_with = "json")]
    attach: bool,

    #[arg(long, value_name = "PLAN", hide = true)]
    shadow: Option<PathBuf>,
}

impl Run {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        for (option, given) in [("--shadow", self.shadow.is_some())] {
            if given {
                return Err(Failure::wrong(not_built_yet(option)));
            }
        }
        let subject = flow_file::check(tool, self.file.as_deref())?;
        let Some(plan) = subject.plan_or_told(tool, self.json)? else {
            return Ok(Exit::Wrong);
        };
        self.fits(plan)?;
        if self.engine.is_given() {
            return self.deploy(tool, &subject, plan);
        }
        let options = RunOptions {
            limit: self.limit,
            once: self.once,
            pipelines: self.pipelines.clone(),
            state: tool.global.state.clone(),
            ..RunOptions::default()
        };
        let mut watch = self.watch(tool)?;
        let served = follow(tool, plan, &options, self.json, watch.as_mut());
        finish(tool, plan, served, self.json)
    }

    /// Brings the flow to the nodes of a cluster.
    fn deploy(&self, tool: &Tool, subject: &Subject, plan: &Plan) -> Outcome {
        for (option, given) in [
            ("--for", self.limit.is_some()),
            ("--once", self.once),
            ("--watch", self.watch),
            ("--pipeline", !self.pipelines.is_empty()),
        ] {
            if given {
                return Err(Failure::wrong(format!(
                    "`{option}` goes with a run on this machine, not with `--engine`"
                )));
            }
        }
        let (_, tree) = flow_file::tree(tool, self.file.as_deref())?;
        let tree = tree.map_err(|problem| Failure::wrong(problem.message))?;
        let deploying = deployed::deploy(
            tool,
            &self.engine,
            (subject, plan, &tree),
            (self.attach, self.json),
        );
        service::runtime()?.block_on(deploying)
    }

    /// What looks at the flow's files from now on.
    fn watch<'a>(&'a self, tool: &'a Tool) -> Result<Option<Watch<'a>>, Failure> {
        if !self.watch {
            return Ok(None);
        }
        let Some(file) = self.file.as_deref() else {
            return Err(Failure::wrong(
                "`--watch` looks at a file: name the flow file",
            ));
        };
        let check = move || {
            let subject = flow_file::check(tool, Some(file));
            let subject = subject.map_err(|failure| failure.message().to_owned())?;
            if let Some(plan) = &subject.checked.plan {
                self.fits(plan)
                    .map_err(|failure| failure.message().to_owned())?;
            }
            Ok(subject)
        };
        Ok(Some(Watch::new(file, check)))
    }

    /// Whether the arguments go with the flow.
    fn fits(&self, plan: &Plan) -> Result<(), Failure> {
        flow_file::check_pipelines(plan, &self.pipelines)?;
        let mut chosen = plan.pipelines.iter().filter(|pipeline| {
            self.pipelines.is_empty() || self.pipelines.iter().any(|name| **name == *pipeline.name)
        });
        if self.once
            && chosen.all(|pipeline| matches!(pipeline.trigger, TriggerPlan::Source { .. }))
        {
            let help =
                "`--once` runs scheduled pipelines, and there is none; use `--for 10s` for streams";
            return Err(Failure::wrong(help));
        }
        Ok(())
    }
}

/// Runs the plan, with live lines where a person looks.
fn follow(
    tool: &Tool,
    plan: &Plan,
    options: &RunOptions,
    json: bool,
    watch: Option<&mut Watch<'_>>,
) -> Result<Served, Failure> {
    let screen = &tool.screen;
    let err = screen.err();
    let is_live = err.is_terminal && !json && !tool.global.quiet;
    let mut before: Option<RunReport> = None;
    let look = &mut |Look { report, .. }: Look| {
        if let Some(columns) = err.columns() {
            screen.show(live::lines(&report, before.as_ref(), columns, err.paint));
        }
        before = Some(report);
        ControlFlow::Continue(())
    };
    let served = serve(
        plan,
        options,
        is_live.then_some(REDRAW),
        look,
        watch,
        Some(&tool.logs),
    );
    screen.show(Vec::new());
    served
}

/// Tells how it was.
fn finish(tool: &Tool, plan: &Plan, served: Result<Served, Failure>, json: bool) -> Outcome {
    let served = match served {
        Ok(served) => served,
        Err(failure) => {
            if let (true, Failure::Told(_, message)) = (json, &failure) {
                tool.print_json(&not_started(plan, message))?;
            }
            return Err(failure);
        }
    };
    let out = tool.screen.out();
    let printed = if json {
        tool.print_json(&served.report)
    } else if tool.global.quiet {
        Ok(())
    } else {
        tool.screen
            .print(&live::summary(&served.report, out.columns(), out.paint))
    };
    match printed {
        // The flow has run; that nobody reads the summary does not change how.
        Ok(()) | Err(Failure::Closed) => Ok(served.exit),
        Err(failure) => Err(failure),
    }
}

/// The document of a run that could not begin.
fn not_started(plan: &Plan, message: &str) -> RunReport {
    RunReport {
        flow: plan.name.to_string(),
        ok: false,
        seconds: 0.0,
        error: Some(message.to_owned()),
        pipelines: std::collections::BTreeMap::new(),
        stages: Vec::new(),
    }
}

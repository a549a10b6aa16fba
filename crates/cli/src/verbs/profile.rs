//! `profile`: runs a flow and says where its time goes and what limits it.

mod view;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::units::parse_duration;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::RunOptions;
use wiredflow_scale::looks::Looks;

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file;
use crate::service::{Look, serve};
use crate::tool::Tool;

/// How often the figures are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Run a flow and show where its time goes, what limits it and why
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Runs the flow as `run` does, until D, until ^C, or until all its `once` pipelines have ended, and
shows a bar for each stage: the time that it computed, waited for something outside, was held by a limit, by the next
stage, or had nothing to do. Then it names the stage that limits the flow, with the cause, the figures that say so,
and what to do about it, the cheapest first; or says that nothing does. On a terminal the last ten seconds are shown
while it runs.

Examples:
  wiredflow profile flow.yaml                          until ^C
  wiredflow profile flow.yaml --for 1m
  wiredflow profile flow.yaml --for 1m --json | jq .bottleneck

Exit codes: 0 done, 1 the flow failed, 2 the file or the arguments are wrong, 130 a second ^C."
)]
pub(crate) struct Profile {
    /// The flow file
    file: Option<PathBuf>,

    /// End intake after this time and finish what is in flight: 30s, 5m, 1h
    #[arg(long = "for", value_name = "D", value_parser = parse_duration)]
    limit: Option<Duration>,

    /// Run only this pipeline; can be given several times
    #[arg(long = "pipeline", value_name = "P")]
    pipelines: Vec<String>,

    /// Print one JSON document: the profile
    #[arg(long)]
    json: bool,

    #[arg(long, value_name = "URL", hide = true)]
    attach: Option<String>,
}

impl Profile {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if self.attach.is_some() {
            return Err(Failure::wrong(not_built_yet("--attach")));
        }
        let subject = flow_file::check(tool, self.file.as_deref())?;
        let Some(plan) = subject.plan_or_told(tool, self.json)? else {
            return Ok(Exit::Wrong);
        };
        flow_file::check_pipelines(plan, &self.pipelines)?;
        let options = RunOptions {
            limit: self.limit,
            pipelines: self.pipelines.clone(),
            state: tool.global.state.clone(),
            ..RunOptions::default()
        };
        self.follow(tool, plan, &options)
    }

    fn follow(&self, tool: &Tool, plan: &Plan, options: &RunOptions) -> Outcome {
        let (screen, err) = (&tool.screen, tool.screen.err());
        let is_live = err.is_terminal && !self.json && !tool.global.quiet;
        let mut looks = Looks::until(self.limit.map(|limit| limit.as_secs_f64()));
        let look = &mut |look: Look| {
            if look.is_stopping {
                looks.intake_is_over();
            }
            if let Some(figures) = look.figures.figures() {
                let so_far = figures.seconds;
                looks.note(figures);
                let newest = is_live.then(|| looks.newest()).flatten();
                if let (Some(columns), Some(newest)) = (err.columns(), newest) {
                    screen.show(view::lines(&newest, so_far, columns, err.paint));
                }
            }
            ControlFlow::Continue(())
        };
        let served = serve(plan, options, Some(LOOK), look, None, Some(&tool.logs));
        screen.show(Vec::new());
        let served = served?;
        served.figures.into_iter().for_each(|last| looks.note(last));
        let Some(profile) = looks.whole() else {
            return Ok(served.exit);
        };
        if let Some(error) = &served.report.error {
            tracing::error!("the flow failed: {error}");
        }
        let out = tool.screen.out();
        let printed = if self.json {
            tool.print_json(&profile)
        } else {
            tool.screen
                .print(&view::text(&profile, out.columns(), out.paint))
        };
        match printed {
            Ok(()) | Err(Failure::Closed) => Ok(served.exit),
            Err(failure) => Err(failure),
        }
    }
}

//! `profile`: runs a flow and says where its time goes and what limits it.

mod attached;
mod past;
mod view;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

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
  wiredflow profile --attach flow.yaml --for 1m        of the flow that runs already
  wiredflow profile --attach https://plant.example:8420 --token-file plant.token

  wiredflow profile flow.yaml --past 1h                what was measured
  wiredflow profile flow.yaml --compare 24h            the last hour, and the same hour yesterday

What a flow does is measured whenever it runs, and kept by the minute for 6 hours and by the hour for 30 days.
With --attach nothing is started: the flow that runs is looked at from now on, for D or until ^C.

Exit codes: 0 done, 1 the flow failed, 2 the file or the arguments are wrong, 130 a second ^C."
)]
pub(crate) struct Profile {
    /// The flow file
    file: Option<PathBuf>,

    /// End intake after this time and finish what is in flight: 30s, 5m, 1h
    #[arg(long = "for", value_name = "D", value_parser = parse_duration)]
    limit: Option<Duration>,

    /// Run only this pipeline, or with --attach look at it alone; can be given several times
    #[arg(long = "pipeline", value_name = "P")]
    pipelines: Vec<String>,

    /// Print one JSON document: the profile
    #[arg(long)]
    json: bool,

    /// Look at a flow that runs, by its file or its URL, instead of running one
    #[arg(long, value_name = "FILE|URL", conflicts_with = "file")]
    attach: Option<String>,

    /// Show what was measured in the last D (1h, 7d), instead of running the flow
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    #[arg(conflicts_with_all = ["limit", "attach", "pipelines"])]
    past: Option<Duration>,

    /// Beside it the same time D earlier (24h, 7d); of the last hour unless --past says another
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    #[arg(conflicts_with_all = ["limit", "attach", "pipelines"])]
    compare: Option<Duration>,
}

impl Profile {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if self.past.is_some() || self.compare.is_some() {
            return self.look_back(tool);
        }
        if let Some(subject) = &self.attach {
            return self.look_at(tool, subject);
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
        let screen = &tool.screen;
        let mut looks = Looks::until(self.limit.map(|limit| limit.as_secs_f64()));
        let look = &mut |look: Look| {
            if look.is_stopping {
                looks.intake_is_over();
            }
            if let Some(figures) = look.figures.figures() {
                let so_far = figures.seconds;
                looks.note(figures);
                self.show(tool, &looks, so_far);
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
        match self.print(tool, &profile) {
            Ok(()) | Err(Failure::Closed) => Ok(served.exit),
            Err(failure) => Err(failure),
        }
    }

    /// The newest seconds, on a terminal.
    fn show(&self, tool: &Tool, looks: &Looks, so_far: f64) {
        let err = tool.screen.err();
        let is_live = err.is_terminal && !self.json && !tool.global.quiet;
        let newest = is_live.then(|| looks.newest()).flatten();
        if let (Some(columns), Some(newest)) = (err.columns(), newest) {
            let lines = view::lines(&newest, so_far, columns, err.paint);
            tool.screen.show(lines);
        }
    }

    fn print(
        &self,
        tool: &Tool,
        profile: &wiredflow_scale::profile::Profile,
    ) -> Result<(), Failure> {
        if self.json {
            return tool.print_json(profile);
        }
        let out = tool.screen.out();
        tool.screen
            .print(&view::text(profile, out.columns(), out.paint))
    }
}

//! `profile --attach`: where the time of a flow goes that runs already.

use std::time::Duration;

use serde_json::Value;
use wiredflow_core::problem::possible;
use wiredflow_engine::clock::Clock;
use wiredflow_scale::figures::FlowFigures;
use wiredflow_scale::looks::Looks;

use super::Profile;
use crate::exit::{Exit, Failure, Outcome};
use crate::reach::{Reached, Subject};
use crate::service::{Signals, runtime};
use crate::tool::Tool;

/// How often the figures are asked for.
const EACH: Duration = Duration::from_secs(1);

impl Profile {
    /// Looks at the flow for as long as was asked, or until ^C.
    pub(super) fn look_at(&self, tool: &Tool, subject: &str) -> Outcome {
        let reached = Subject::of(subject).reach(tool)?;
        let (clock, waiting) = (Clock::real(), runtime()?);
        let mut signals = waiting.block_on(async { Signals::listen() })?;
        let first = figures(&reached)?;
        let known = || first.pipelines.iter().map(|one| one.pipeline.as_str());
        if let Some(unknown) = self
            .pipelines
            .iter()
            .find(|name| known().all(|known| known != **name))
        {
            return Err(Failure::wrong(format!(
                "the flow that runs has no pipeline `{unknown}`: {}",
                possible(unknown, known())
            )));
        }
        let first = self.meant(first);
        let (begin, flow) = (first.seconds, first.flow.clone());
        let end = self.limit.map(|limit| clock.monotonic() + limit);
        let mut looks = Looks::from_now();
        looks.note(first);
        let mut goes_on = true;
        while goes_on {
            let now = clock.monotonic();
            let next = end.map_or(now + EACH, |end| end.min(now + EACH));
            goes_on = waiting.block_on(async {
                tokio::select! {
                    () = signals.next() => false,
                    () = clock.sleep_until(next) => end != Some(next),
                }
            });
            let look = self.meant(figures(&reached)?);
            if look.seconds < begin || look.flow != flow {
                tool.screen.show(Vec::new());
                return Err(Failure::failed(format!(
                    "`{flow}` was started anew meanwhile: what was counted before is gone"
                )));
            }
            let so_far = look.seconds - begin;
            looks.note(look);
            self.show(tool, &looks, so_far);
        }
        tool.screen.show(Vec::new());
        match looks.whole() {
            Some(profile) => self.print(tool, &profile).map(|()| Exit::Done),
            None => Ok(Exit::Done),
        }
    }

    /// The figures of the pipelines that were named; of all where none was.
    fn meant(&self, mut figures: FlowFigures) -> FlowFigures {
        let is_meant = |name: &String| self.pipelines.is_empty() || self.pipelines.contains(name);
        figures.pipelines.retain(|one| is_meant(&one.pipeline));
        figures.stages.retain(|stage| is_meant(&stage.pipeline));
        figures
    }
}

fn figures(reached: &Reached) -> Result<FlowFigures, Failure> {
    let document: Value = reached.get(&["figures"], &[])?;
    serde_json::from_value(document).map_err(|error| {
        Failure::failed(format!(
            "the flow that runs is of another version, whose figures say something else: {error}"
        ))
    })
}

//! The figures of a time as the difference of two looks, and of times that follow each other as their sum.

use crate::figures::{FlowFigures, HostFigures, PipelineFigures, StageFigures};
use crate::profile::Seconds;

/// What grows only; what is only so at a moment is that of the later look.
macro_rules! counts {
    ($later:expr, $earlier:expr, $combine:ident: $($field:ident),*) => {
        $($later.$field = $combine($later.$field, $earlier.$field);)*
    };
}

fn less(later: u64, earlier: u64) -> u64 {
    later.saturating_sub(earlier)
}

fn less_time(later: f64, earlier: f64) -> f64 {
    (later - earlier).max(0.0)
}

fn more(later: u64, earlier: u64) -> u64 {
    later.saturating_add(earlier)
}

fn more_time(later: f64, earlier: f64) -> f64 {
    later + earlier
}

/// Of optional counts: none where the later look has none.
fn each(later: Option<u64>, earlier: Option<u64>, combine: fn(u64, u64) -> u64) -> Option<u64> {
    later.map(|later| combine(later, earlier.unwrap_or_default()))
}

impl FlowFigures {
    /// What came after `earlier`, a look at the same run: as if the flow had begun then.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut figures = self.clone();
        figures.seconds = less_time(self.seconds, earlier.seconds);
        figures.host.since(&earlier.host);
        for stage in &mut figures.stages {
            if let Some(earlier) = of_stage(&earlier.stages, stage) {
                stage.since(earlier);
            }
        }
        for pipeline in &mut figures.pipelines {
            if let Some(earlier) = of_pipeline(&earlier.pipelines, pipeline) {
                pipeline.since(earlier);
            }
        }
        figures
    }

    /// The figures of this time and a later one together. What is only so at a moment is as it was at the end.
    #[must_use]
    pub fn and_then(&self, later: &Self) -> Self {
        let mut figures = later.clone();
        figures.seconds += self.seconds;
        figures.host.after(&self.host);
        for earlier in &self.stages {
            let mut stages = figures.stages.iter_mut();
            match stages
                .find(|stage| stage.stage == earlier.stage && stage.pipeline == earlier.pipeline)
            {
                Some(stage) => stage.after(earlier),
                None => figures.stages.push(earlier.clone()),
            }
        }
        for earlier in &self.pipelines {
            let mut pipelines = figures.pipelines.iter_mut();
            match pipelines.find(|pipeline| pipeline.pipeline == earlier.pipeline) {
                Some(pipeline) => pipeline.after(earlier),
                None => figures.pipelines.push(earlier.clone()),
            }
        }
        figures
    }

    /// Whether nothing was done: no call, no record, no delivery.
    pub fn is_idle(&self) -> bool {
        let stage = |stage: &StageFigures| {
            stage.calls == 0 && stage.records_in == 0 && stage.in_flight == 0
        };
        let pipeline = |one: &PipelineFigures| one.runs == 0 && one.records_in == 0;
        self.stages.iter().all(stage) && self.pipelines.iter().all(pipeline)
    }

    /// Only the `most` stages that were at work longest, in their order. Gives how many are left out.
    pub fn keep_busiest(&mut self, most: usize) -> usize {
        let left_out = self.stages.len().saturating_sub(most);
        if left_out == 0 {
            return 0;
        }
        let idle = |stage: &StageFigures| stage.seconds.starved - stage.seconds.wall;
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        order.sort_by(|a, b| idle(&self.stages[*a]).total_cmp(&idle(&self.stages[*b])));
        order.truncate(most);
        order.sort_unstable();
        let stages = order.iter().map(|place| self.stages[*place].clone());
        self.stages = stages.collect();
        let has_stage = |pipeline: &PipelineFigures| {
            let mut stages = self.stages.iter();
            stages.any(|stage| stage.pipeline == pipeline.pipeline)
        };
        self.pipelines.retain(has_stage);
        left_out
    }
}

fn of_stage<'a>(all: &'a [StageFigures], wanted: &StageFigures) -> Option<&'a StageFigures> {
    let mut all = all.iter();
    all.find(|one| one.stage == wanted.stage && one.pipeline == wanted.pipeline)
}

fn of_pipeline<'a>(
    all: &'a [PipelineFigures],
    wanted: &PipelineFigures,
) -> Option<&'a PipelineFigures> {
    all.iter().find(|one| one.pipeline == wanted.pipeline)
}

impl HostFigures {
    fn since(&mut self, earlier: &Self) {
        counts!(self, earlier, less_time: busy_seconds, own_cpu_seconds, run_delay_seconds);
        counts!(self, earlier, less: major_faults);
    }

    fn after(&mut self, earlier: &Self) {
        counts!(self, earlier, more_time: busy_seconds, own_cpu_seconds, run_delay_seconds);
        counts!(self, earlier, more: major_faults);
    }
}

impl StageFigures {
    fn since(&mut self, earlier: &Self) {
        counts!(self, earlier, less: calls, records_in, records_out, errors, retries, limited, clock_faults);
        counts!(self, earlier, less_time: cpu_seconds, run_delay_seconds, queue_seconds);
        self.bytes_in = each(self.bytes_in, earlier.bytes_in, less);
        self.bytes_out = each(self.bytes_out, earlier.bytes_out, less);
        self.seconds = self.seconds.since(&earlier.seconds);
        self.service = self.service.since(&earlier.service);
        self.batch = self.batch.since(&earlier.batch);
        self.queue_wait = self.queue_wait.since(&earlier.queue_wait);
        self.outbox_growth = self.outbox_growth.saturating_sub(earlier.outbox_growth);
    }

    fn after(&mut self, earlier: &Self) {
        counts!(self, earlier, more: calls, records_in, records_out, errors, retries, limited, clock_faults);
        counts!(self, earlier, more_time: cpu_seconds, run_delay_seconds, queue_seconds);
        self.bytes_in = each(self.bytes_in, earlier.bytes_in, more);
        self.bytes_out = each(self.bytes_out, earlier.bytes_out, more);
        self.seconds = sum(&self.seconds, &earlier.seconds);
        self.service.merge(&earlier.service);
        self.batch.merge(&earlier.batch);
        self.queue_wait.merge(&earlier.queue_wait);
        self.outbox_growth = self.outbox_growth.saturating_add(earlier.outbox_growth);
    }
}

impl PipelineFigures {
    fn since(&mut self, earlier: &Self) {
        counts!(self, earlier, less: runs, ticks_skipped, records_in);
        counts!(self, earlier, less_time: source_blocked_seconds);
        self.run_time = self.run_time.since(&earlier.run_time);
    }

    fn after(&mut self, earlier: &Self) {
        counts!(self, earlier, more: runs, ticks_skipped, records_in);
        counts!(self, earlier, more_time: source_blocked_seconds);
        self.run_time.merge(&earlier.run_time);
    }
}

fn sum(one: &Seconds, other: &Seconds) -> Seconds {
    Seconds {
        wall: one.wall + other.wall,
        compute: one.compute + other.compute,
        external: one.external + other.external,
        blocked: one.blocked + other.blocked,
        starved: one.starved + other.starved,
        throttled: one.throttled + other.throttled,
        overhead: one.overhead + other.overhead,
    }
}

#[cfg(test)]
mod tests;

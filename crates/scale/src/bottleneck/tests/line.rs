//! A line of stages with bounded queues, worked out batch by batch: what the clocks of an engine would show.

use crate::profile::{Host, PipelineProfile, Profile, Seconds, Spread, StageProfile};

/// Batches that can wait before a stage.
pub(super) const ROOM: usize = 2;

/// A line: `service[stage][batch]` and `arrival[batch]`, both in seconds.
pub(super) struct Line {
    pub(super) arrival: Vec<f64>,
    pub(super) service: Vec<Vec<f64>>,
}

impl Line {
    /// What is measured from 0 to `end`; all work counts as waiting outside.
    pub(super) fn profile(&self, end: f64) -> Profile {
        let (stages, batches) = (self.service.len(), self.arrival.len());
        let within = |from: f64, to: f64| (to.min(end) - from.min(end)).max(0.0);
        let mut started = vec![vec![0.0; batches]; stages];
        let mut left = vec![0.0; stages];
        let (mut entered_last, mut source_blocked) = (0.0, 0.0);
        let mut figures = vec![(0.0, 0.0, 0.0, 0); stages];
        for batch in 0..batches {
            let room = |stage: usize, started: &[Vec<f64>]| match batch.checked_sub(ROOM) {
                Some(earlier) => started[stage][earlier],
                None => 0.0,
            };
            let ready = self.arrival[batch].max(entered_last);
            let mut entered: f64 = ready.max(room(0, &started));
            source_blocked += within(ready, entered);
            entered_last = entered;
            for stage in 0..stages {
                let begun = entered.max(left[stage]);
                let done = begun + self.service[stage][batch];
                let gone = match stage + 1 < stages {
                    true => done.max(room(stage + 1, &started)),
                    false => done,
                };
                let (busy, blocked, queue, calls) = &mut figures[stage];
                *busy += within(begun, done);
                *blocked += within(done, gone);
                *queue += within(entered, begun);
                *calls += u64::from(done <= end);
                started[stage][batch] = begun;
                left[stage] = gone;
                entered = gone;
            }
        }
        let stage = |(index, (busy, blocked, queue, calls)): (usize, &(f64, f64, f64, u64))| {
            let mean = self.service[index].iter().sum::<f64>() / batches as f64 * 1e3;
            let seconds = Seconds {
                wall: end,
                external: *busy,
                blocked: *blocked,
                starved: end - busy - blocked,
                ..Seconds::default()
            };
            StageProfile {
                calls: *calls,
                service_ms: Spread {
                    mean,
                    p50: mean,
                    p99: mean,
                },
                queue_before: queue / end,
                ..super::stage(&format!("s{index}"), seconds)
            }
        };
        Profile {
            seconds: end,
            host: super::quiet(),
            stages: figures.iter().enumerate().map(stage).collect(),
            pipelines: vec![PipelineProfile {
                source_blocked: source_blocked / end,
                ..super::stream()
            }],
            ..Profile::default()
        }
    }
}

/// A host with little to do.
pub(super) fn quiet() -> Host {
    Host {
        cores: 2.0,
        cpu_used: 0.6,
        cpu_own: 0.6,
        ..Host::default()
    }
}

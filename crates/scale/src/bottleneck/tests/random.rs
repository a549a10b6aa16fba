//! Lines and figures that chance makes.

use proptest::prelude::*;

use super::line::Line;
use super::{flow, once, stage};
use crate::bottleneck::{Cause, find};
use crate::figures::Trigger;
use crate::profile::{PipelineProfile, Profile, Seconds, StageProfile};

proptest! {
    /// Lines of random stages, one of which is clearly the slowest.
    #[test]
    fn the_slowest_stage_of_an_overloaded_line_is_found_and_a_quiet_line_is_not_accused(
        stages in 1usize..6,
        place in 0usize..6,
        slowest in 0.01f64..0.2,
        others in prop::collection::vec(0.02f64..0.75, 6),
        wobble in prop::collection::vec(0.5f64..1.5, 64),
        load in prop_oneof![0.05f64..0.6, 1.4f64..20.0],
    ) {
        let place = place % stages;
        let end = slowest * 200.0;
        let gap = slowest / load;
        let batches = (end / gap).ceil() as usize;
        let service = (0..stages).map(|stage| {
            let mean = if stage == place { slowest } else { slowest * others[stage] };
            (0..batches).map(|batch| mean * wobble[(batch * 7 + stage * 13) % wobble.len()]).collect()
        });
        let line = Line {
            arrival: (0..batches).map(|batch| batch as f64 * gap).collect(),
            service: service.collect(),
        };
        let found = find(&line.profile(end));
        if load > 1.0 {
            let found = found.expect("overloaded");
            prop_assert_eq!(found.stage, format!("s{place}"));
            prop_assert_eq!(found.cause, Cause::ExternalLatency);
        } else {
            prop_assert_eq!(found, None);
        }
    }

    /// Whatever the figures are: no panic, and a stage that exists.
    #[test]
    fn no_figures_make_it_stumble(
        values in prop::collection::vec(prop_oneof![Just(0.0), Just(f64::NAN), 0.0f64..1e9], 24),
        counts in prop::collection::vec(0u64..1000, 8),
        trigger in 0..3,
    ) {
        let seconds = |at: usize| Seconds {
            wall: values[at], compute: values[at + 1], external: values[at + 2], blocked: values[at + 3],
            starved: values[at + 4], throttled: values[at + 5], overhead: values[at + 6],
        };
        let odd = |name: &str, at: usize| StageProfile {
            calls: counts[at], limited: counts[at + 1], replicas: counts[at + 2] as usize,
            processes: counts[at + 3] as usize, queue_before: values[at], cpu_seconds: values[at + 2],
            oldest_call_seconds: values[at + 3], in_flight: counts[at + 1] as usize,
            ..stage(name, seconds(at))
        };
        let pipeline = PipelineProfile {
            trigger: match trigger {
                0 => Trigger::Once,
                1 => Trigger::Stream,
                _ => Trigger::Schedule { period_seconds: Some(values[20]) },
            },
            runs: counts[0], under_way: counts[1] % 3, source_blocked: values[21], oldest_run_seconds: values[22],
            waiting: counts[3], ..once(values[23])
        };
        let profile = Profile { seconds: values[19], ..flow(pipeline, vec![odd("a", 0), odd("b", 4)]) };
        if let Some(found) = find(&profile) {
            prop_assert!(found.stage == "a" || found.stage == "b");
        }
    }
}

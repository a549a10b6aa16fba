use proptest::prelude::*;

use super::*;
use crate::histogram::Histogram;

/// What happens in a while to one of a few stages.
#[derive(Clone, Debug)]
struct While {
    seconds: f64,
    work: Vec<(usize, u64, [f64; 6])>,
}

fn whiles() -> impl Strategy<Value = Vec<While>> {
    let clocks = prop::array::uniform6(0.0..2.0_f64);
    let work = prop::collection::vec((0..3_usize, 0..5_000_u64, clocks), 0..4);
    let one = (0.1..60.0_f64, work).prop_map(|(seconds, work)| While { seconds, work });
    prop::collection::vec(one, 1..6)
}

/// Goes on from a look to the next. A stage is there from its first work on, as after an edit of the file.
fn go_on(look: &FlowFigures, more: &While) -> FlowFigures {
    let mut next = look.clone();
    next.flow = "f".to_owned();
    next.seconds += more.seconds;
    next.host.busy_seconds += more.seconds / 2.0;
    for (number, time, clocks) in &more.work {
        let (pipeline, stage) = (format!("p{}", number % 2), format!("s{number}"));
        if !next.stages.iter().any(|one| one.stage == stage) {
            let (pipeline, stage) = (pipeline.clone(), stage.clone());
            next.stages.push(StageFigures {
                pipeline,
                stage,
                outbox: Some(0),
                ..StageFigures::default()
            });
        }
        if !next.pipelines.iter().any(|one| one.pipeline == pipeline) {
            next.pipelines.push(PipelineFigures {
                pipeline: pipeline.clone(),
                ..PipelineFigures::default()
            });
        }
        let one = next
            .stages
            .iter_mut()
            .find(|one| one.stage == stage)
            .unwrap();
        one.calls += 1;
        one.records_in += time % 7;
        one.service.note(*time);
        one.outbox_growth += (*time % 5) as i64 - 2;
        let [compute, external, blocked, starved, throttled, overhead] = *clocks;
        let wall = clocks.iter().sum();
        one.seconds = sum(
            &one.seconds,
            &Seconds {
                wall,
                compute,
                external,
                blocked,
                starved,
                throttled,
                overhead,
            },
        );
        let one = next
            .pipelines
            .iter_mut()
            .find(|one| one.pipeline == pipeline)
            .unwrap();
        one.runs += 1;
        one.run_time.note(*time);
    }
    next
}

fn clocks(stage: &StageFigures) -> [f64; 7] {
    let Seconds {
        wall,
        compute,
        external,
        blocked,
        starved,
        throttled,
        overhead,
    } = stage.seconds;
    [
        wall, compute, external, blocked, starved, throttled, overhead,
    ]
}

/// The same but for the rounding of sums.
fn check_same(one: &FlowFigures, other: &FlowFigures) {
    assert!((one.seconds - other.seconds).abs() < 1e-6);
    assert!((one.host.busy_seconds - other.host.busy_seconds).abs() < 1e-6);
    let exact = |figures: &FlowFigures| {
        let mut stages: Vec<_> = figures
            .stages
            .iter()
            .map(|one| {
                (
                    one.stage.clone(),
                    one.calls,
                    one.records_in,
                    one.outbox_growth,
                    one.service.clone(),
                )
            })
            .collect();
        stages.sort_by(|a, b| a.0.cmp(&b.0));
        let mut pipelines: Vec<_> = figures
            .pipelines
            .iter()
            .map(|one| (one.pipeline.clone(), one.runs, one.run_time.clone()))
            .collect();
        pipelines.sort_by(|a, b| a.0.cmp(&b.0));
        (stages, pipelines)
    };
    assert_eq!(exact(one), exact(other));
    for stage in &one.stages {
        let same = of_stage(&other.stages, stage).unwrap();
        for (a, b) in clocks(stage).iter().zip(clocks(same)) {
            assert!((a - b).abs() < 1e-6, "{stage:?} {same:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_parts_of_a_time_are_the_whole_however_they_are_put_together(whiles in whiles(), cut in any::<prop::sample::Index>()) {
        let mut looks = vec![FlowFigures { flow: "f".to_owned(), ..FlowFigures::default() }];
        for more in &whiles {
            looks.push(go_on(looks.last().unwrap(), more));
        }
        let (first, last) = (&looks[0], &looks[looks.len() - 1]);
        check_same(&last.since(first), last);
        let parts: Vec<FlowFigures> = looks.windows(2).map(|pair| pair[1].since(&pair[0])).collect();
        let fold = |parts: &[FlowFigures]| {
            parts.iter().skip(1).fold(parts[0].clone(), |sum, part| sum.and_then(part))
        };
        let whole = fold(&parts);
        check_same(&whole, last);
        // Hours first, or all minutes at once.
        let cut = cut.index(parts.len());
        if cut > 0 {
            check_same(&fold(&parts[..cut]).and_then(&fold(&parts[cut..])), &whole);
        }
        for figures in parts.iter().chain([&whole]) {
            for stage in &figures.stages {
                let [wall, rest @ ..] = clocks(stage);
                prop_assert!((rest.iter().sum::<f64>() - wall).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn the_busiest_stages_stay_in_their_order() {
    let stage = |name: &str, busy: f64| StageFigures {
        pipeline: format!("p_{name}"),
        stage: name.to_owned(),
        seconds: Seconds {
            wall: 10.0,
            compute: busy,
            starved: 10.0 - busy,
            ..Seconds::default()
        },
        service: Histogram::default(),
        ..StageFigures::default()
    };
    let pipeline = |name: &str| PipelineFigures {
        pipeline: format!("p_{name}"),
        ..PipelineFigures::default()
    };
    let mut figures = FlowFigures {
        stages: vec![
            stage("a", 1.0),
            stage("b", 5.0),
            stage("c", 0.5),
            stage("d", 9.0),
        ],
        pipelines: ["a", "b", "c", "d"].map(pipeline).to_vec(),
        ..FlowFigures::default()
    };
    assert_eq!(figures.keep_busiest(4), 0);
    assert_eq!(figures.keep_busiest(2), 2);
    let left: Vec<&str> = figures
        .stages
        .iter()
        .map(|stage| stage.stage.as_str())
        .collect();
    assert_eq!(left, ["b", "d"]);
    assert_eq!(figures.pipelines.len(), 2);
}

//! Many seeds: nodes are killed, cut off and started, answers are lost, the store is wiped, and each call ends as it should.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use wiredflow_core::{Error, ErrorKind};
use wiredflow_engine::pool::Counts;
use wiredflow_testkit::{Chance, Mishaps, tell};

use crate::bench::{Bench, Runs, call, outputs};

/// How many seeds are tried: `SEED` tries one.
const SEEDS: u64 = 300;

/// How many calls a flow makes, of which so many at once.
const CALLS: u64 = 12;
const AT_ONCE: u64 = 4;

/// How long it goes wrong.
const CHAOS: Duration = Duration::from_secs(120);

/// All outputs of a call; again, as the run loop does, where it is a peer's failure and nothing was handed on.
async fn with_retries(bench: &Bench, n: u64) -> Result<Vec<u64>, Error> {
    loop {
        let what = json!({"n": n, "outputs": 1 + n % 3, "each": 700 * (n % 4), "saves": true});
        let called = call(&bench.pool, what).await.map_err(crate::bench::error)?;
        match outputs(called).await {
            Err(error)
                if error.kind() == ErrorKind::Remote
                    && !error.message().contains("in the middle") =>
            {
                sleep(Duration::from_secs(1)).await;
            }
            ended => return ended,
        }
    }
}

async fn one(seed: u64) -> (Counts, usize) {
    let bench = Bench::new(seed).await;
    let mut chance = Chance::of(seed ^ 0xDEAD);
    let mishaps = |chance: &mut Chance| Mishaps {
        delay: Duration::from_millis(chance.below(300) as u64),
        lost_answers: chance.below(8) as u32,
        refused: chance.below(8) as u32,
        twice: chance.below(30) as u32,
    };
    bench.model.mishaps("flow", mishaps(&mut chance));
    let mut nodes: Vec<Runs> = Vec::new();
    let mut started = 0;
    let start = |nodes: &mut Vec<Runs>, chance: &mut Chance, started: &mut u32| {
        let name = format!("n{started}");
        *started += 1;
        bench.model.mishaps(&name, mishaps(chance));
        nodes.push(bench.node(&name));
    };
    for _ in 0..3 {
        start(&mut nodes, &mut chance, &mut started);
    }
    let calls = async {
        let mut ends = Vec::new();
        for round in 0..CALLS / AT_ONCE {
            let (a, b, c, d) = tokio::join!(
                with_retries(&bench, round * AT_ONCE),
                with_retries(&bench, round * AT_ONCE + 1),
                with_retries(&bench, round * AT_ONCE + 2),
                with_retries(&bench, round * AT_ONCE + 3),
            );
            ends.extend([a, b, c, d]);
        }
        ends
    };
    let chaos = async {
        let begun = Instant::now();
        while begun.elapsed() < CHAOS {
            sleep(Duration::from_millis(chance.below(8000) as u64)).await;
            let which = chance.below(nodes.len());
            let name = nodes[which].name.clone();
            match chance.below(8) {
                0 => {
                    nodes.remove(which).kill();
                    bench.model.cut(&name);
                    start(&mut nodes, &mut chance, &mut started);
                }
                1 | 2 => bench.model.cut(&name),
                3 | 4 => bench.model.mend(&name),
                5 => bench.model.expire(),
                6 => bench.model.wipe(),
                _ => {
                    bench.model.cut("flow");
                    sleep(Duration::from_millis(chance.below(15_000) as u64)).await;
                    bench.model.mend("flow");
                }
            }
        }
        // Then all is well again.
        for name in (0..started).map(|number| format!("n{number}")) {
            bench.model.mishaps(&name, Mishaps::default());
        }
        for node in &nodes {
            bench.model.mend(&node.name);
        }
        bench.model.mishaps("flow", Mishaps::default());
    };
    let limit = CHAOS + Duration::from_secs(600);
    let ends = tokio::time::timeout(limit, async { tokio::join!(calls, chaos).0 }).await;
    let ends = ends.unwrap_or_else(|_| panic!("SEED={seed}: a call has no end"));
    for (n, end) in (0..).zip(&ends) {
        let whole: Vec<u64> = (0..1 + n % 3).collect();
        match end {
            Ok(made) => assert_eq!(made, &whole, "SEED={seed}, call {n}"),
            // What was given something of and lost its worker then has failed, and is not made again.
            Err(error) => assert!(
                error.message().contains("in the middle")
                    || error.message().contains("has ended 5 workers"),
                "SEED={seed}, call {n}: {error}"
            ),
        }
        let ledger = bench.ledger();
        let saves = ledger.saved.iter().filter(|row| row["n"] == n).count();
        let begun = ledger.begun.get(&n).map_or(0, Vec::len);
        assert!(
            saves <= begun,
            "SEED={seed}, call {n}: {saves} saves in {begun} attempts"
        );
        if end.is_ok() {
            assert!(saves >= 1, "SEED={seed}, call {n}: its save is lost");
        }
    }
    assert!(
        ends.iter().filter(|end| end.is_ok()).count() >= 4,
        "SEED={seed}: {ends:?}"
    );
    let good = ends.iter().filter(|end| end.is_ok()).count();
    (bench.pool.counts(), good)
}

#[test]
fn whatever_breaks_each_call_ends_once_and_in_order() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    };
    let (mut sum, mut good) = (Counts::default(), 0);
    let count = seeds.len();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (counts, ended_well) = runtime.block_on(one(seed));
        good += ended_well;
        sum.begun += counts.begun;
        sum.lost += counts.lost;
        sum.unwanted += counts.unwanted;
        sum.again += counts.again;
    }
    tell(&format!("{count} seeds: {good} calls ended well; {sum:?}"));
    // Else nothing was tried.
    assert!(count == 1 || sum.lost > 100 && sum.unwanted > 100 && sum.again > 100);
}

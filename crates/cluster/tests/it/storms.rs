//! G1, G6, G15, G16 and more at a time: whatever happens to nodes and to their ways to the engine, no part runs twice at a
//! time, and when it is over all of them run.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use wiredflow_engine::clock::Clock;

use wiredflow_testkit::{Mishaps, seed, soaking};

use crate::stage::{Node, Play, flow};

const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn storm(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let play = Play::of(seed);
        let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
        let mut instances = 0;
        for name in NODES {
            nodes.insert(name, play.node(name, instances));
            play.model.mishaps(
                name,
                Mishaps {
                    delay: Duration::from_millis(200),
                    lost_answers: 3,
                    refused: 3,
                    twice: 0,
                },
            );
        }
        let mut parts = 6;
        play.client().deploy("f", &flow("v0", parts)).await.unwrap();
        for turn in 0..40 {
            let name = NODES[play.below(NODES.len())];
            match play.below(9) {
                0 => drop(nodes.remove(name)),
                1 | 2 => {
                    instances += 1;
                    nodes
                        .entry(name)
                        .or_insert_with(|| play.node(name, instances));
                }
                3 => play.model.cut(name),
                4 | 5 => play.model.mend(name),
                6 => {
                    parts = 1 + play.below(9);
                    let mut deployed = flow(&format!("v{turn}"), parts);
                    deployed.changed = Timestamp::from_second(turn).unwrap();
                    play.client().deploy("f", &deployed).await.unwrap();
                }
                7 => {
                    // Not with each turn: what nobody has heard of yet nobody can put back.
                    if play.below(4) == 0 {
                        play.model.mend("a");
                        instances += 1;
                        nodes
                            .entry("a")
                            .or_insert_with(|| play.node("a", instances));
                        Clock::real().sleep(Duration::from_secs(60)).await;
                        play.model.wipe();
                    }
                }
                _ => {
                    if let Some(node) = nodes.remove(name) {
                        node.stop.cancel();
                        let end = tokio::spawn(node.end());
                        drop(end);
                    }
                }
            }
            let wait = play.below(9_000) as u64;
            Clock::real().sleep(Duration::from_millis(wait)).await;
            let world = play.world();
            assert!(
                world.wrong.is_empty(),
                "SEED={seed}: turn {turn}: {:#?}",
                world.wrong
            );
        }
        for name in NODES {
            play.model.mend(name);
            play.model.mishaps(name, Mishaps::default());
            instances += 1;
            nodes
                .entry(name)
                .or_insert_with(|| play.node(name, instances));
        }
        let is_calm = async || play.running().len() == parts;
        play.until(60, "as many parts run as there are", is_calm)
            .await;
        play.open(60, "f").await;
    });
}

#[test]
fn no_part_runs_twice_at_a_time_whatever_happens() {
    let (first, cases) = (seed(), if soaking() { 10_000 } else { 200 });
    for case in 0..cases {
        storm(first.wrapping_add(case));
    }
}

//! One thing at a time: joining, moving, failing, stopping.

use std::time::Duration;

use jiff::Timestamp;
use wiredflow_cluster::{AgentEnd, PartSpec, Phase, Wanted};
use wiredflow_engine::clock::Clock;

use crate::stage::{Play, flow};

async fn pass(seconds: u64) {
    Clock::real().sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_spread_over_the_nodes_and_ends_when_it_is_told() {
    let play = Play::of(1);
    let nodes = [play.node("a", 1), play.node("b", 1), play.node("c", 1)];
    play.client().deploy("f", &flow("v1", 9)).await.unwrap();
    let passed = play.open(20, "f").await;
    assert!(passed < Duration::from_secs(13), "{passed:?}");
    let mut loads: Vec<usize> = nodes
        .iter()
        .map(|node| {
            play.running()
                .values()
                .filter(|on| **on == [node.name.clone()])
                .count()
        })
        .collect();
    loads.sort_unstable();
    assert_eq!(loads, [3, 3, 3]);
    assert!(play.client().stop("f", Timestamp::now()).await.unwrap());
    play.until(15, "nothing runs", async || {
        play.client().status().await.unwrap().is_gone("f")
    })
    .await;
    assert!(play.running().is_empty());
    play.client().forget("f").await.unwrap();
    assert!(play.client().status().await.unwrap().flows.is_empty());
    assert!(!play.client().stop("f", Timestamp::now()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn g16_the_parts_of_a_node_that_is_killed_run_elsewhere_within_15_seconds_though_it_led() {
    let play = Play::of(2);
    let mut nodes = vec![play.node("a", 1)];
    pass(2).await;
    nodes.push(play.node("b", 1));
    nodes.push(play.node("c", 1));
    play.client().deploy("f", &flow("v1", 6)).await.unwrap();
    play.open(20, "f").await;
    // The first to come leads.
    drop(nodes.remove(0));
    let gone = async || {
        let running = play.running();
        running.len() == 6 && running.values().all(|on| on.len() == 1 && on[0] != "a")
    };
    let passed = play.until(30, "all of it runs elsewhere", gone).await;
    assert!(passed <= Duration::from_secs(15), "{passed:?}");
    play.open(20, "f").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_told_to_end_hands_over_first() {
    let play = Play::of(3);
    let (a, b) = (play.node("a", 1), play.node("b", 1));
    play.client().deploy("f", &flow("v1", 4)).await.unwrap();
    play.open(20, "f").await;
    assert_eq!(a.end().await, AgentEnd::Clean);
    play.open(20, "f").await;
    assert!(play.running().values().all(|on| *on == ["b"]));
    // Nobody else could take them.
    assert_eq!(b.end().await, AgentEnd::InHaste);
    assert!(play.running().is_empty());
    let _again = play.node("b", 2);
    play.open(20, "f").await;
}

#[tokio::test(start_paused = true)]
async fn a_part_whose_files_are_on_a_node_waits_for_that_node() {
    let play = Play::of(4);
    let (a, b) = (play.node("a", 1), play.node("b", 1));
    let mut deployed = flow("v1", 4);
    for part in &mut deployed.parts[..2] {
        part.pinned_by = vec!["storage `kept` is a file".to_owned()];
    }
    play.client().deploy("f", &deployed).await.unwrap();
    play.open(20, "f").await;
    let before = play.running();
    drop(a);
    pass(40).await;
    let status = play.client().status().await.unwrap();
    for part in ["p0", "p1", "p2", "p3"] {
        let on = before[&format!("f/{part}")][0].as_str();
        let is_pinned = part < "p2";
        let now = play.running().get(&format!("f/{part}")).cloned();
        match (on, is_pinned) {
            ("a", true) => {
                assert_eq!(now, None, "{part}");
                let part = &status.parts[&("f".to_owned(), part.to_owned())];
                assert_eq!(part.home.as_deref(), Some("a"));
            }
            _ => assert_eq!(now.unwrap(), ["b"], "{part}"),
        }
    }
    let _a = play.node("a", 2);
    play.open(20, "f").await;
    // Also after the flow was stopped and deployed anew.
    play.client().stop("f", Timestamp::now()).await.unwrap();
    play.until(15, "nothing runs", async || play.running().is_empty())
        .await;
    drop(b);
    let _b = play.node("b", 2);
    play.client().deploy("f", &deployed).await.unwrap();
    play.open(30, "f").await;
    for part in ["f/p0", "f/p1"] {
        assert_eq!(play.running()[part], before[part]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_version_takes_the_place_of_the_old_one_where_it_is() {
    let play = Play::of(5);
    let _nodes = [play.node("a", 1), play.node("b", 1)];
    play.client().deploy("f", &flow("v1", 4)).await.unwrap();
    play.open(20, "f").await;
    let before = play.running();
    let mut next = flow("v2", 5);
    next.parts.remove(0);
    play.client().deploy("f", &next).await.unwrap();
    play.open(20, "f").await;
    let is_gone = async || !play.running().contains_key("f/p0");
    play.until(15, "the part that is no more has ended", is_gone)
        .await;
    for part in ["f/p1", "f/p2", "f/p3"] {
        assert_eq!(play.running()[part], before[part]);
    }
    assert!(play.running().contains_key("f/p4"));
    assert_eq!(play.world().starts[&("f".to_owned(), "p1".to_owned())], 2);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_run_stops_its_flow_and_says_why() {
    let play = Play::of(6);
    let _nodes = [play.node("a", 1), play.node("b", 1)];
    play.world().broken.insert("p1".to_owned());
    play.client().deploy("f", &flow("v1", 3)).await.unwrap();
    play.client().deploy("other", &flow("v1", 1)).await.unwrap();
    let failed = async || {
        let status = play.client().status().await.unwrap();
        status.flows["f"].failure.is_some() && status.is_gone("f")
    };
    play.until(20, "it is stopped", failed).await;
    let status = play.client().status().await.unwrap();
    let deployed = &status.flows["f"];
    assert_eq!(deployed.wanted, Wanted::Stopped);
    let why = deployed.failure.as_deref().unwrap();
    assert!(
        why.starts_with("`p1` on node `") && why.ends_with("it is broken"),
        "{why}"
    );
    play.open(10, "other").await;
    // It is mended, and deployed again.
    play.world().broken.clear();
    play.client().deploy("f", &flow("v2", 3)).await.unwrap();
    play.open(20, "f").await;
}

#[tokio::test(start_paused = true)]
async fn a_part_goes_only_where_its_labels_are() {
    let play = Play::of(7);
    let _plain = play.node("a", 1);
    let mut deployed = flow("v1", 2);
    let PartSpec { labels, .. } = &mut deployed.parts[1];
    labels.insert("gpu".to_owned());
    play.client().deploy("f", &deployed).await.unwrap();
    pass(20).await;
    let status = play.client().status().await.unwrap();
    let phase = |part: &str| {
        status.parts[&("f".to_owned(), part.to_owned())]
            .phase
            .clone()
    };
    assert_eq!((phase("p0"), phase("p1")), (Some(Phase::Open), None));
    let _gpu = play.node_with("b", 1, &["gpu", "big"]);
    play.open(20, "f").await;
    assert_eq!(play.running()["f/p1"], ["b"]);
}

#[tokio::test(start_paused = true)]
async fn g6_a_node_that_is_cut_off_ends_its_parts_before_others_begin_them() {
    let play = Play::of(8);
    let _nodes = [play.node("a", 1), play.node("b", 1), play.node("c", 1)];
    play.client().deploy("f", &flow("v1", 6)).await.unwrap();
    play.open(20, "f").await;
    play.model.cut("b");
    let elsewhere = async || {
        let running = play.running();
        running.len() == 6 && running.values().all(|on| on.len() == 1 && on[0] != "b")
    };
    let passed = play.until(30, "it runs elsewhere", elsewhere).await;
    assert!(passed <= Duration::from_secs(15), "{passed:?}");
    play.model.mend("b");
    pass(30).await;
    play.open(20, "f").await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_one_name_are_not_there_at_a_time() {
    let play = Play::of(9);
    let first = play.node("a", 1);
    play.client().deploy("f", &flow("v1", 2)).await.unwrap();
    play.open(20, "f").await;
    let _second = play.node("a", 2);
    pass(60).await;
    assert_eq!(play.world().starts.values().sum::<usize>(), 2);
    drop(first);
    let again = async || play.world().starts.values().sum::<usize>() == 4;
    play.until(20, "the second has its place", again).await;
    play.open(20, "f").await;
}

#[tokio::test(start_paused = true)]
async fn g5_a_store_that_is_lost_costs_time_and_no_flow() {
    let play = Play::of(10);
    let nodes = [play.node("a", 1), play.node("b", 1)];
    let mut deployed = flow("v1", 4);
    deployed.parts[0].pinned_by = vec!["storage `kept` is a file".to_owned()];
    play.client().deploy("f", &deployed).await.unwrap();
    play.client()
        .deploy("forgotten", &flow("v1", 1))
        .await
        .unwrap();
    play.open(20, "f").await;
    play.client()
        .stop("forgotten", Timestamp::now())
        .await
        .unwrap();
    play.until(15, "it is gone", async || {
        play.client().status().await.unwrap().is_gone("forgotten")
    })
    .await;
    play.client().forget("forgotten").await.unwrap();
    pass(2).await;
    let before = play.running();
    play.model.wipe();
    play.open(30, "f").await;
    assert_eq!(play.running()["f/p0"], before["f/p0"]);
    assert!(
        !play
            .client()
            .status()
            .await
            .unwrap()
            .flows
            .contains_key("forgotten")
    );
    // Also when all nodes are away meanwhile.
    drop(nodes);
    play.model.wipe();
    let _nodes = [play.node("a", 2), play.node("b", 2)];
    play.open(30, "f").await;
    assert_eq!(play.running()["f/p0"], before["f/p0"]);
}

//! Clusters of three.

use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::engine::{Engine, Shelf};
use wiredflow_testkit::{EngineSuite, NatsCluster, NatsVersion};

use crate::faults::check_nothing_is_lost;
use crate::servers::{access, connected, done, name, program};

async fn cluster(version: NatsVersion) -> (NatsCluster, [Arc<dyn Engine>; 3]) {
    let cluster = NatsCluster::start(&program(version));
    let [one, two, three] = cluster
        .servers
        .each_ref()
        .map(|server| access([server.url()]));
    let engines = [
        connected(&one).await,
        connected(&two).await,
        connected(&three).await,
    ];
    for engine in &engines {
        assert_eq!(engine.about().replicas, 3);
        // What all share is made beforehand: servers that have just begun take their time to agree on it.
        let entry = name("first");
        done(async || engine.holder(&entry).await).await;
        done(async || engine.get(Shelf::Presence, &entry).await).await;
    }
    (cluster, engines)
}

/// At different servers, as different processes are.
async fn suite([one, two, _]: [Arc<dyn Engine>; 3]) -> EngineSuite {
    let mut engines = [one, two].into_iter();
    let next = std::sync::Mutex::new(&mut engines);
    EngineSuite::new(async || next.lock().unwrap().next().unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_the_oldest_servers_keeps_its_promises() {
    let (_cluster, engines) = cluster(NatsVersion::Debian).await;
    let suite = suite(engines).await;
    tokio::join!(suite.check_leases(), suite.check_shelves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_new_servers_keeps_its_promises() {
    let (_cluster, engines) = cluster(NatsVersion::Newest).await;
    let suite = suite(engines).await;
    tokio::join!(
        suite.check_leases(),
        suite.check_spent(),
        suite.check_questions()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_when_the_leader_of_a_queue_is_killed() {
    let mut cluster = NatsCluster::start(&program(NatsVersion::Newest));
    let all = access(cluster.urls());
    let (publisher, taker) = (connected(&all).await, connected(&all).await);
    let entry = name("entry");
    let lease = publisher.acquire(&entry, "me").await.unwrap().unwrap();
    let watching = Arc::clone(&taker);
    check_nothing_is_lost(publisher, taker, async || {
        let leader = cluster.leader_of("wf_test=q=work");
        cluster.servers[leader].kill9();
        // Another has the lease when it is not renewed, and only then.
        let taken = done(async || watching.acquire(&entry, "you").await).await;
        assert!(taken.is_none_or(|taken| taken.fence > lease.fence));
        cluster.servers[leader].start_again();
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .await;
}

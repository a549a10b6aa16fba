//! What every engine promises, kept by each version of the server.

use wiredflow_testkit::{EngineSuite, Nats, NatsVersion};

use crate::servers::{engine, program};

async fn suite(version: NatsVersion) -> (Nats, EngineSuite) {
    let server = Nats::start(&program(version));
    let suite = EngineSuite::new(async || engine(server.url()).await).await;
    (server, suite)
}

mod on_the_oldest_server {
    use super::*;

    const VERSION: NatsVersion = NatsVersion::Debian;

    #[tokio::test]
    async fn queues_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_queues().await;
    }

    #[tokio::test]
    async fn what_is_given_too_often_is_found() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_spent().await;
    }

    #[tokio::test]
    async fn shelves_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_shelves().await;
    }

    #[tokio::test]
    async fn leases_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_leases().await;
    }

    #[tokio::test]
    async fn blobs_and_questions_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        tokio::join!(suite.check_blobs(), suite.check_questions());
    }
}

mod on_a_new_server {
    use super::*;

    const VERSION: NatsVersion = NatsVersion::Newest;

    #[tokio::test]
    async fn queues_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_queues().await;
    }

    #[tokio::test]
    async fn what_is_given_too_often_is_found() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_spent().await;
    }

    #[tokio::test]
    async fn shelves_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_shelves().await;
    }

    #[tokio::test]
    async fn leases_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        suite.check_leases().await;
    }

    #[tokio::test]
    async fn blobs_and_questions_keep_their_promises() {
        let (_server, suite) = suite(VERSION).await;
        tokio::join!(suite.check_blobs(), suite.check_questions());
    }
}

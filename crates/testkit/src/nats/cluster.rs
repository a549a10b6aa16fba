//! Three servers that keep everything three times.

use std::path::Path;

use super::{ATTEMPTS, Nats, NatsOptions, USUAL};
use crate::wait::{free_port, holds_within};

/// A cluster of three servers. Dropping it ends them.
#[derive(Debug)]
pub struct NatsCluster {
    /// The servers.
    pub servers: [Nats; 3],
}

impl NatsCluster {
    /// Starts one; returns when all three have found each other.
    #[track_caller]
    pub fn start(program: &Path) -> Self {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let routes = [free_port(), free_port(), free_port()];
            let servers = [0, 1, 2].map(|number| {
                let mut server = Nats::new(program, NatsOptions::default());
                server.ports = [free_port(), free_port()];
                server.more = configuration(number, routes);
                server.spawn();
                server
            });
            let mut cluster = Self { servers };
            if cluster.servers.iter_mut().all(Nats::is_ready) && cluster.has_leader() {
                return cluster;
            }
            reason = cluster.servers.each_ref().map(Nats::log).join("\n");
        }
        panic!("no cluster of nats-server came to be: {reason}");
    }

    /// The addresses of all.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Nats::url).collect()
    }

    /// Which server leads a stream.
    #[track_caller]
    pub fn leader_of(&self, stream: &str) -> usize {
        let mut found = None;
        let leads = |server: &Nats| {
            let said = server.monitor("/jsz?streams=1");
            let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
            let accounts = said["account_details"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let streams = accounts
                .iter()
                .filter_map(|account| account["stream_detail"].as_array());
            let cluster = streams
                .flatten()
                .find(|detail| detail["name"] == stream)
                .map(|detail| &detail["cluster"]);
            // Only the leader of a stream knows the two others as its replicas.
            cluster.is_some_and(|cluster| cluster["leader"] == name_of(server))
        };
        let is_led = holds_within(USUAL, || {
            found = self
                .servers
                .iter()
                .position(|server| server.server.is_some() && leads(server));
            found.is_some()
        });
        assert!(is_led, "nobody leads `{stream}`");
        found.unwrap()
    }

    fn has_leader(&self) -> bool {
        holds_within(USUAL, || {
            self.servers.iter().all(|server| {
                let said = server.monitor("/jsz");
                let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
                let cluster = &said["meta_cluster"];
                cluster["leader"]
                    .as_str()
                    .is_some_and(|leader| !leader.is_empty())
                    && cluster["cluster_size"] == 3
            })
        })
    }
}

fn name_of(server: &Nats) -> String {
    let (_, rest) = server.more.split_once("server_name: ").unwrap();
    rest.lines().next().unwrap().to_owned()
}

fn configuration(number: usize, routes: [u16; 3]) -> String {
    let listen = routes[number];
    let login = "route:right";
    let others = routes
        .map(|port| format!("nats://{login}@127.0.0.1:{port}"))
        .join(", ");
    format!(
        "server_name: n{number}\ncluster {{ name: testkit, listen: 127.0.0.1:{listen}, no_advertise: true, \
         authorization {{ user: route, password: right, timeout: 5 }}, routes: [ {others} ] }}"
    )
}

//! Each storage with each mapping.

use wiredflow::{Component, Flow, csv, json};

pub fn flow() -> Flow {
    let labelled = |storage: Component| storage.mapping("update").preprocess("add_datetime");
    let storages = [
        ("json_extend", json("data")),
        ("json_update", labelled(json("data"))),
        ("json_overwrite", json("data").mapping("overwrite")),
        ("csv_extend", csv("data")),
        ("csv_update", labelled(csv("data"))),
        ("csv_overwrite", csv("data").mapping("overwrite")),
    ];
    let flow = Flow::new("storages");
    storages.into_iter().fold(flow, |flow, (name, storage)| {
        flow.pipeline(name, |p| {
            p.every("2s").http("http://localhost:8027").store(storage)
        })
    })
}

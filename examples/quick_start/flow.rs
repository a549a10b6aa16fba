//! Polls a number each 5 seconds, labels it with the time, and keeps it in a JSON file.

use wiredflow::{Flow, json};

pub fn flow() -> Flow {
    Flow::new("quick_start").pipeline("numbers", |pipeline| {
        pipeline
            .every("5s")
            .http("http://localhost:8027")
            .store(json("data").preprocess("add_datetime"))
    })
}

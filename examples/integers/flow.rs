//! Polls an integer each 10 seconds, with headers.

use wiredflow::{Flow, http, json};

pub fn flow() -> Flow {
    let integers = http("http://localhost:8027")
        .header("accept", "application/json")
        .header("apikey", "${env:API_KEY:-custom_key_1234}");
    Flow::new("integers").pipeline("numbers", |p| {
        p.every("10s").http(integers).store(json("data"))
    })
}

//! Polls a greeting each minute and stores it with the time.

use wiredflow::{Flow, http, json};

pub fn flow() -> Flow {
    let hello = http("http://localhost:8025")
        .header("accept", "application/json")
        .header("apikey", "custom_key_1234");
    Flow::new("hello_world").pipeline("hello_world", |p| {
        p.every("1m")
            .http(hello)
            .store(json("data").preprocess("add_datetime"))
    })
}

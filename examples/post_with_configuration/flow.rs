//! Asks by POST, with a query that a function makes: five rows while nothing is stored, then one at a time.

use wiredflow::{Call, Flow, Result, Value, http, json};

fn query(call: Call) -> Result<Value> {
    let nothing = call.load("numbers")?.is_empty();
    let limit = if nothing { 5 } else { 1 };
    Ok(json!({"data": format!("select * from demo_table limit {limit}")}))
}

pub fn flow() -> Flow {
    Flow::new("post_with_configuration").pipeline("numbers", |p| {
        p.every("10s")
            .configuration(query)
            .http(http("http://localhost:8027").set("method", "POST"))
            .store(json("data").preprocess("add_datetime"))
    })
}

//! A core logic that yields: each batch is worked on by the stages after it as soon as it is there.

use wiredflow::{Call, Flow, Give, Result, Value, json, mqtt};

fn in_batches(call: Call, give: Give<'_>) -> Result<()> {
    let number = |row: &Value| row["Generated random number"].as_i64();
    for (index, rows) in call.load("numbers")?.chunks(2).enumerate() {
        let sum: i64 = rows.iter().filter_map(number).sum();
        give(json!({"from": 2 * index, "to": 2 * index + rows.len(), "sum": sum}))?;
    }
    Ok(())
}

pub fn flow() -> Flow {
    Flow::new("batches")
        .pipeline("numbers", |p| {
            p.every("10s").http("http://localhost:8027").store("json")
        })
        .pipeline("sums", |p| {
            p.every("15s")
                .core_logic(in_batches)
                .store("csv")
                .send(mqtt("localhost:1883", "demo/sums").field("sum"))
        })
}

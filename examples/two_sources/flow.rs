//! Integers by HTTP and by MQTT; logic over both storages, whose results go to two topics.

use wiredflow::{Call, Flow, Result, Value, json, mqtt};

fn sort_and_subtract(call: Call) -> Result<Value> {
    let polled = numbers(&call, "http_numbers", "Generated random number")?;
    let streamed = numbers(&call, "mqtt_numbers", "Generated number")?;
    let difference = polled.iter().sum::<i64>() - streamed.iter().sum::<i64>();
    let mut sorted = [polled, streamed].concat();
    sorted.sort_unstable();
    Ok(json!({"sorted list": sorted, "difference": difference}))
}

fn numbers(call: &Call, storage: &str, field: &str) -> Result<Vec<i64>> {
    let rows = call.load(storage)?.into_iter();
    let texts = rows.map(|row| row[field].to_string().replace('"', ""));
    Ok(texts.filter_map(|text| text.parse().ok()).collect())
}

pub fn flow() -> Flow {
    let broker = "localhost:1883";
    Flow::new("two_sources")
        .pipeline("http_numbers", |p| {
            p.every("10s").http("http://localhost:8027").store("json")
        })
        .pipeline("mqtt_numbers", |p| {
            p.source(mqtt(broker, "/demo/integers")).store("json")
        })
        .pipeline("logic", |p| {
            p.every("15s")
                .core_logic(sort_and_subtract)
                .send(mqtt(broker, "demo/sorted").field("sorted list"))
                .send(mqtt(broker, "demo/subtraction").field("difference"))
        })
}

//! Functions of one's own as configuration, as source, as storage and as sender.

use wiredflow::{Call, Error, Flow, Result, Value, json};

fn measure(call: Call) -> Result<Value> {
    let sensors = call.param("sensors").as_u64().unwrap_or(1);
    let reading = |n| json!({"sensor": n, "value": 0.5});
    Ok((0..sensors).map(reading).collect())
}

fn write(file: &'static str) -> impl Fn(Call) -> Result<Value> {
    move |call| {
        let written = std::fs::write(file, call.data.to_string());
        let written = written.map_err(|error| Error::data(error.to_string()));
        written.map(|()| Value::Null)
    }
}

pub fn flow() -> Flow {
    Flow::new("custom_functions").pipeline("readings", |p| {
        p.every("10s")
            .configuration(|_: Call| Ok(json!({"sensors": 3})))
            .core_logic(measure)
            .store_with(write("stored.json"))
            .send_with(write("sent.json"))
    })
}

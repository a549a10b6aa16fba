//! A source of one's own: a `core_logic` that stands first, and need not let other pipelines go ahead.

use wiredflow::{Call, Flow, json};

pub fn flow() -> Flow {
    let measure = |_: Call| Ok(json!({"sensor": 1, "value": 0.5}));
    Flow::new("custom_source").pipeline("readings", |p| {
        p.every("10s")
            .set("delay", "0s")
            .core_logic(measure)
            .store(json("data"))
    })
}

//! All examples as Rust, in one program: `EXAMPLE=hello_world cargo run --example rust -- run`, with `wiredflow mock`
//! in another terminal.
//!
//! Each example is a function that gives a flow. A program of your own has the same lines, and around the flow
//! `fn main() -> ExitCode { wiredflow::main(…) }`, as here at the end.

#![expect(
    clippy::needless_pass_by_value,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a function owns the call that it gets; the examples are modules here and programs elsewhere; this one has a face"
)]

use std::process::ExitCode;

use wiredflow::{Flow, Value};

#[path = "batches/flow.rs"]
mod batches;
#[path = "complex_service/flow.rs"]
mod complex_service;
#[path = "custom_functions/flow.rs"]
mod custom_functions;
#[path = "custom_source/flow.rs"]
mod custom_source;
#[path = "hello_world/flow.rs"]
mod hello_world;
#[path = "integers/flow.rs"]
mod integers;
#[path = "mqtt_integers/flow.rs"]
mod mqtt_integers;
#[path = "post_for_each_limit/flow.rs"]
mod post_for_each_limit;
#[path = "post_with_configuration/flow.rs"]
mod post_with_configuration;
#[path = "quick_start/flow.rs"]
mod quick_start;
#[path = "storages/flow.rs"]
mod storages;
#[path = "two_sources/flow.rs"]
mod two_sources;

/// An example's name, and what makes its flow.
type Example = (&'static str, fn() -> Flow);

const EXAMPLES: [Example; 12] = [
    ("batches", batches::flow),
    ("complex_service", complex_service::flow),
    ("custom_functions", custom_functions::flow),
    ("custom_source", custom_source::flow),
    ("hello_world", hello_world::flow),
    ("integers", integers::flow),
    ("mqtt_integers", mqtt_integers::flow),
    ("post_for_each_limit", post_for_each_limit::flow),
    ("post_with_configuration", post_with_configuration::flow),
    ("quick_start", quick_start::flow),
    ("storages", storages::flow),
    ("two_sources", two_sources::flow),
];

fn main() -> ExitCode {
    let name = std::env::var("EXAMPLE").unwrap_or_default();
    let Some((_, flow)) = EXAMPLES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        eprintln!("set EXAMPLE to one of {}", names.join(", "));
        return ExitCode::from(2);
    };
    wiredflow::main(with_other_words(flow()))
}

/// The flow with other addresses and periods, where the environment says `INSTEAD='{"localhost:8027": "…"}'`: tests do.
fn with_other_words(flow: Flow) -> Flow {
    let words = std::env::var("INSTEAD").unwrap_or_default();
    let Ok(Value::Object(words)) = serde_json::from_str(&words) else {
        return flow;
    };
    let pipelines = flow.node().entry("pipelines");
    let mut text = pipelines
        .map_or(Value::Null, |entry| entry.value.to_value())
        .to_string();
    for (usual, other) in &words {
        text = text.replace(usual, other.as_str().unwrap_or(usual));
    }
    let pipelines: Value = serde_json::from_str(&text).unwrap_or_default();
    flow.set("pipelines", pipelines)
}

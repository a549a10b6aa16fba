//! The complex service, built in Rust, with its logic in Rust too.

use std::io::Write as _;

use wiredflow::{Call, Error, Flow, Result, Value, http, http_put, json, mqtt, sqlite};

pub fn flow() -> Flow {
    let numbers = setting("NUMBERS_URL", "http://localhost:8027");
    let letters = setting("LETTERS_URL", "http://localhost:8026");
    let broker = setting("BROKER", "localhost:1883");
    Flow::new("complex_service")
        .pipeline("http_numbers", |pipeline| {
            pipeline
                .every("10s")
                .http(http(&numbers).header("apikey", "demo"))
                .store(json("data").preprocess("add_datetime"))
        })
        .pipeline("http_letters", |pipeline| {
            pipeline
                .every("10s")
                .http(http(&letters))
                .store(json("data").mapping("overwrite"))
        })
        .pipeline("mqtt_numbers", |pipeline| {
            pipeline
                .source(mqtt(&broker, "/demo/integers"))
                .store(sqlite())
        })
        .pipeline("logic", |pipeline| {
            pipeline
                .every("15s")
                .core_logic(order_and_calculate)
                .send(mqtt(&broker, "demo/uppercase").field("uppercase"))
                .send(mqtt(&broker, "demo/lowercase").field("lowercase"))
                .send(http_put(&numbers).field("calculated value"))
                .send_with(write_report)
        })
}

fn setting(name: &str, default: &str) -> String {
    format!("${{env:{name}:-{default}}}")
}

/// Sorts all numbers; adds the two sources for an uppercase letter, subtracts them for a lowercase one.
fn order_and_calculate(call: Call) -> Result<Value> {
    let polled: Vec<i64> = numbers(&call.load("http_numbers")?, "Generated random number");
    let streamed: Vec<i64> = numbers(&call.load("mqtt_numbers")?, "Generated number");
    let letters = call.load("http_letters")?;
    let Some(letter) = letters
        .last()
        .and_then(|row| row["Generated random letter"].as_str())
    else {
        return Ok(Value::Null);
    };
    let (polled_sum, streamed_sum) = (polled.iter().sum::<i64>(), streamed.iter().sum::<i64>());
    let upper = letter.chars().all(char::is_uppercase);
    let calculated = if upper {
        polled_sum + streamed_sum
    } else {
        polled_sum - streamed_sum
    };
    let mut sorted: Vec<i64> = polled.into_iter().chain(streamed).collect();
    sorted.sort_unstable();
    let field = if upper { "uppercase" } else { "lowercase" };
    Ok(json!({
        "sorted list": sorted,
        "calculated value": calculated,
        field: format!("Calculated value is {calculated}"),
    }))
}

/// The numbers of a field: as they are, or as text.
fn numbers(rows: &[Value], field: &str) -> Vec<i64> {
    let number = |row: &Value| {
        row[field]
            .as_i64()
            .or_else(|| row[field].as_str()?.parse().ok())
    };
    rows.iter().filter_map(number).collect()
}

/// A sender of one's own: one line for each result.
fn write_report(call: Call) -> Result<Value> {
    let count = call.data["sorted list"].as_array().map_or(0, Vec::len);
    let line = format!(
        "{count} numbers, calculated value {}\n",
        call.data["calculated value"]
    );
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open("data/report.txt");
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| Error::data(format!("cannot write the report: {error}")))?;
    Ok(Value::Null)
}

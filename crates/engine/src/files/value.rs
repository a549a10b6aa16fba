//! Values as text.

use wiredflow_core::{Result, Value};

/// How deep a value may be nested: what is deeper could be written, but not read again.
const DEPTH: usize = 127;

/// Adds the JSON text of a value.
///
/// # Errors
/// What is wrong with it, when it is nested too deeply to be read again.
pub(crate) fn write_json(value: &Value, buffer: &mut Vec<u8>) -> Result<(), String> {
    if is_deeper(value, DEPTH) {
        return Err(format!("it is nested deeper than {DEPTH}"));
    }
    serde_json::to_writer(buffer, value).map_err(|error| error.to_string())
}

fn is_deeper(value: &Value, most: usize) -> bool {
    match value {
        Value::Array(items) => most == 0 || items.iter().any(|item| is_deeper(item, most - 1)),
        Value::Object(map) => most == 0 || map.values().any(|item| is_deeper(item, most - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn e1_what_is_written_can_be_read_and_what_is_deeper_is_refused() {
        let nested = |depth: usize| (0..depth).fold(json!(1), |value, _| Value::Array(vec![value]));
        let mut text = Vec::new();
        write_json(&nested(DEPTH), &mut text).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&text).unwrap(),
            nested(DEPTH)
        );
        let refused = write_json(&nested(DEPTH + 1), &mut text).unwrap_err();
        assert!(refused.contains("nested"), "{refused}");
        let far_too_deep = nested(100_000);
        write_json(&far_too_deep, &mut text).unwrap_err();
        // Dropping it would overflow the stack, which is no storage's business.
        std::mem::forget(far_too_deep);
    }
}

//! Reading JSON from outside: bounded, never executed, never panicking.

use crate::record::Value;

/// The largest payload of a source, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Reads one JSON document.
///
/// Refused, with the reason: no bytes, more than `most` bytes, no JSON, NaN and Infinity, nesting over
/// 128, text that is not UTF-8, anything after the document. Of repeated keys the last one counts, as
/// in Python.
pub fn parse(bytes: &[u8], most: usize) -> Result<Value, String> {
    if bytes.len() > most {
        return Err(format!(
            "{} bytes are more than the limit of {most}",
            bytes.len()
        ));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("it is empty".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(bytes: &[u8], part: &str) {
        let message = parse(bytes, MAX_PAYLOAD).unwrap_err();
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_reason() {
        refused(b"", "empty");
        refused(b" \n", "empty");
        refused(b"NaN", "not JSON");
        refused(b"[Infinity]", "not JSON");
        refused(b"\"\xff\"", "not JSON");
        refused(b"{} {}", "trailing");
        refused("[".repeat(10_000).as_bytes(), "recursion limit");
        refused(&vec![b' '; MAX_PAYLOAD + 1], "more than the limit");
        refused(b"__import__('os').system('touch /tmp/pwn')", "not JSON");
    }

    #[test]
    fn e2_the_last_of_repeated_keys_counts() {
        assert_eq!(
            parse(br#"{"a":1,"a":2}"#, 100).unwrap(),
            serde_json::json!({"a": 2})
        );
    }
}

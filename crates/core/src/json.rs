//! Reading JSON from outside: bounded, never executed, never panicking.

use std::borrow::Cow;

use crate::record::Value;

/// The largest payload of a source, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Reads one JSON document.
///
/// Refused, with the reason: no bytes, more than `most` bytes, no JSON, NaN and Infinity, nesting over
/// 128, text that is not UTF-8, anything after the document, integers beyond 64 bits ([`exact`]) and
/// numbers that no float can hold (`1e400`). Other numbers with a point or an exponent are the nearest
/// float, as in Python; `-0` is the float -0.0. Of repeated keys the last one counts, as in Python.
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
    let value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    exact(bytes)?;
    Ok(value)
}

/// Refuses JSON with an integer below -2^63 or from 2^64, which its reader would silently turn into a float.
///
/// # Errors
/// The integer and what to do, in words. Bytes that are no JSON are not looked into further.
pub fn exact(bytes: &[u8]) -> Result<(), String> {
    match inexact_integer(bytes) {
        None => Ok(()),
        Some(integer) => {
            let short: String = integer.chars().take(40).collect();
            let dots = if short.len() < integer.len() {
                "…"
            } else {
                ""
            };
            Err(format!(
                "the integer `{short}{dots}` does not fit into 64 bits; give it as text"
            ))
        }
    }
}

/// The first integer that the JSON reader would silently turn into a float.
///
/// Such an integer has 19 digits at least, so that looking at every 19th byte finds it; only where there is
/// a digit is more looked at. In ordinary data this costs next to nothing.
fn inexact_integer(body: &[u8]) -> Option<Cow<'_, str>> {
    const STRIDE: usize = 19;
    let digit = |at: usize| body.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = STRIDE - 1;
    let mut suspicious = false;
    while at < body.len() && !suspicious {
        if digit(at) {
            let before = (0..at).rev().take_while(|&index| digit(index)).count();
            let after = (at..body.len()).take_while(|&index| digit(index)).count();
            suspicious = before + after >= STRIDE;
            at += after.max(1);
        }
        at += STRIDE;
    }
    suspicious.then(|| find_inexact_integer(body)).flatten()
}

/// The slow and exact way: passes over strings and looks at every number.
fn find_inexact_integer(body: &[u8]) -> Option<Cow<'_, str>> {
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'"' => {
                at += 1;
                while at < body.len() && body[at] != b'"' {
                    at += if body[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let length = body[at..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte))
                    .count();
                let text = String::from_utf8_lossy(&body[at..at + length]);
                let whole = !text.contains(['.', 'e', 'E']);
                if whole && text.parse::<i64>().is_err() && text.parse::<u64>().is_err() {
                    return Some(text);
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    None
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
    fn e3_a_number_is_the_one_that_was_written_or_an_error() {
        let text = |bytes: &[u8]| parse(bytes, MAX_PAYLOAD).unwrap().to_string();
        for exact in [
            "18446744073709551615",
            "-9223372036854775808",
            "9223372036854775808",
            "0.30000000000000004",
            "5e-324",
            "-0.0",
            "[1.7976931348623157e+308,1234567890123456789]",
            "{\"18446744073709551616\":\"99999999999999999999 \\\" 99999999999999999999\"}",
        ] {
            assert_eq!(text(exact.as_bytes()), exact);
        }
        // The nearest float.
        assert_eq!(text(b"0.1000000000000000000000000000001"), "0.1");
        assert_eq!(text(b"-0"), "-0.0");
        assert_eq!(text(b"18446744073709551616.0"), "1.8446744073709552e+19");
        assert_eq!(text(b"1e-400"), "0.0");
        refused(
            b"18446744073709551616",
            "`18446744073709551616` does not fit",
        );
        refused(b"[1, {\"a\": -9223372036854775809}]", "give it as text");
        refused(b"1e400", "out of range");
        refused("9".repeat(400).as_bytes(), "out of range");
        refused("9".repeat(300).as_bytes(), "9…` does not fit");
        refused(b"-Infinity", "not JSON");
    }

    #[test]
    fn e2_the_last_of_repeated_keys_counts() {
        assert_eq!(
            parse(br#"{"a":1,"a":2}"#, 100).unwrap(),
            serde_json::json!({"a": 2})
        );
    }
}

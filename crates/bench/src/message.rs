//! The messages: small JSON objects, as a sensor sends them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where they are published.
pub(crate) const TOPIC: &str = "bench/numbers";

/// What tells a message's number and time in a line of the file.
const SEQUENCE: &str = r#"{"sequence":"#;
const SENT: &str = r#""sent":"#;

/// Message number `sequence`, sent now. About 85 bytes, in the form in which `serde_json` writes it.
pub(crate) fn payload(sequence: u64, sent: u64) -> String {
    let (line, celsius) = (sequence % 7, 10.0 + (sequence % 1000) as f64 / 64.0);
    format!(
        r#"{SEQUENCE}{sequence},"sensor":"line-{line}","celsius":{celsius:?},"valid":true,{SENT}{sent}}}"#
    )
}

/// Microseconds since 1970: the parts are processes, so they need a common clock.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// When the message of a stored line was sent. `None` for what is no such line.
pub(crate) fn sent(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(SENT)?;
    let digits = rest
        .trim_start()
        .split(|c: char| !c.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_by_serde_json_as_it_came() {
        for sequence in [0, 1, 63, 64, 999, 1_000_000] {
            let text = payload(sequence, now());
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["sequence"], sequence);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert!((60..=110).contains(&text.len()), "{} bytes", text.len());
        }
    }

    #[test]
    fn the_time_of_a_stored_line_is_found() {
        assert_eq!(sent(&payload(5, 1234)), Some(1234));
        assert_eq!(sent(r#"{"sequence":5}"#), None);
    }
}

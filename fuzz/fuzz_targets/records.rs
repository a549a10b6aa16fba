//! A payload: what is read as JSON is within its limits, and reads as the same when it is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wiredflow_core::json;

fuzz_target!(|bytes: &[u8]| {
    match json::parse(bytes, json::MAX_PAYLOAD) {
        Err(reason) => assert!(!reason.is_empty()),
        Ok(value) => {
            let written = value.to_string();
            assert_eq!(json::parse(written.as_bytes(), json::MAX_PAYLOAD).as_ref(), Ok(&value), "{written}");
        }
    }
});

//! What a worker sends: frames of any length and content, one behind the other.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wiredflow_core::frame;

fuzz_target!(|bytes: &[u8]| {
    let mut framed = BytesMut::from(&(bytes.len() as u32).to_be_bytes()[..]);
    framed.extend_from_slice(bytes);
    for mut stream in [framed, BytesMut::from(bytes)] {
        while let Ok(Some(_)) = frame::decode(&mut stream, 1 << 20) {}
    }
});

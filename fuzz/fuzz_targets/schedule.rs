//! Times, durations, sizes and cron expressions; the next tick is later than the last.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wiredflow_core::schedule::{Schedule, parse_time};
use wiredflow_core::units::{parse_duration, parse_size};

fuzz_target!(|text: &str| {
    let start = parse_time("2026-03-28T23:30:00Z").expect("a time");
    let said = [parse_duration(text).err(), parse_size(text).err(), parse_time(text).err()];
    assert!(said.iter().flatten().all(|reason| !reason.is_empty()));
    for schedule in [Schedule::cron(text, "Europe/Berlin"), Schedule::cron("0 2 * * *", text)] {
        let Ok(schedule) = schedule else { continue };
        let mut last = start;
        for _ in 0..3 {
            let Some(next) = schedule.next_after(start, last) else { break };
            assert!(next > last, "{text:?}: {next} is not after {last}");
            last = next;
        }
    }
});

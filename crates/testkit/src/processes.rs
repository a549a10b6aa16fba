//! Processes of this machine, found by what stands in their environment.

use std::fs;

/// The numbers of all processes.
pub(crate) fn numbers() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The numbers of the processes that have the mark, `NAME=value`, in their environment, and this text in their arguments.
pub(crate) fn marked(mark: &str, text: &str) -> Vec<u32> {
    let has = |number: &u32| {
        let file = |name: &str| fs::read(format!("/proc/{number}/{name}")).unwrap_or_default();
        let has = |bytes: Vec<u8>, text: &str| {
            bytes
                .split(|byte| *byte == 0)
                .any(|part| String::from_utf8_lossy(part).contains(text))
        };
        has(file("environ"), mark) && has(file("cmdline"), text)
    };
    numbers().filter(has).collect()
}

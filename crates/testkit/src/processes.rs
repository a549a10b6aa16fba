//! Processes of this machine, found by what stands in their environment, or by who has started them.

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

/// A process that has not ended.
pub(crate) struct Process {
    pub(crate) number: u32,
    parent: u32,
    pub(crate) name: String,
}

/// The processes below this one: its children, theirs, and so on.
pub(crate) fn below(root: u32) -> Vec<Process> {
    let mut others: Vec<_> = numbers().filter_map(look_at).collect();
    let mut below: Vec<Process> = Vec::new();
    loop {
        let is_below = |process: &Process| {
            process.parent == root || below.iter().any(|above| above.number == process.parent)
        };
        let (found, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(is_below);
        if found.is_empty() {
            return below;
        }
        below.extend(found);
        others = rest;
    }
}

/// Reads `NUMBER (NAME) STATE PARENT …`; `None` for one that has ended, also where nobody has asked for its end yet.
fn look_at(number: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (start, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?;
    Some(Process {
        number,
        parent: words.next()?.parse().ok()?,
        name: start.split_once('(')?.1.to_owned(),
    })
    .filter(|_| !["Z", "X"].contains(&state))
}

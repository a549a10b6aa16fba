//! What a process may use: cores, by its affinity, and memory, by looking.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::thread::CpuSet;
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::Clock;

/// How often the memory is looked at: a process that takes a gigabyte a second is ended a hundred megabytes too late.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The limits of this process and all that it starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The most memory, in bytes.
    pub memory: Option<u64>,
    /// The most cores.
    pub cores: Option<usize>,
}

impl Limits {
    /// Keeps this process, and what it starts from now on, to so many of the cores that it may use now.
    ///
    /// To be called before there are other threads: each has a set of its own.
    ///
    /// # Errors
    /// `Remote`, where the system does not allow it.
    pub fn keep_to_cores(&self) -> Result<()> {
        let Some(cores) = self.cores else {
            return Ok(());
        };
        let failed = |error| Error::remote(format!("cannot keep to {cores} cores: {error}"));
        let all = rustix::thread::sched_getaffinity(None).map_err(failed)?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|core| all.is_set(*core))
            .collect();
        // Different processes keep to different cores.
        let number = rustix::process::getpid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs() as usize;
        let mut own = CpuSet::new();
        for core in allowed
            .iter()
            .cycle()
            .skip(number % allowed.len().max(1))
            .take(cores)
        {
            own.set(*core);
        }
        rustix::thread::sched_setaffinity(None, &own).map_err(failed)
    }

    /// Comes back when this process and what it has started use too much memory together, with words for that.
    pub async fn exceeded(&self, clock: &Clock) -> String {
        let Some(most) = self.memory else {
            return std::future::pending().await;
        };
        loop {
            clock.sleep(LOOK_EVERY).await;
            let used = memory_of_family(std::process::id());
            if used > most {
                let mib = |bytes: u64| bytes >> 20;
                return format!(
                    "used {} MiB, and its `memory` is {} MiB",
                    mib(used),
                    mib(most)
                );
            }
        }
    }
}

/// The resident bytes of a process and all below it.
fn memory_of_family(root: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut pages = BTreeMap::new();
    for entry in entries.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        let Some(number) = number else { continue };
        // It may have ended meanwhile.
        let Some((parent, resident)) = stat_of(number) else {
            continue;
        };
        children.entry(parent).or_default().push(number);
        pages.insert(number, resident);
    }
    let mut sum = 0;
    let mut family = vec![root];
    while let Some(number) = family.pop() {
        sum += pages.get(&number).copied().unwrap_or(0);
        family.extend(children.remove(&number).unwrap_or_default());
    }
    sum * rustix::param::page_size() as u64
}

/// The parent of a process, and its resident pages: fields 4 and 24 of `/proc/PID/stat`.
fn stat_of(number: u32) -> Option<(u32, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name before it may hold anything, parentheses too.
    let after = stat.rsplit_once(')')?.1;
    let mut fields = after.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let resident = fields.nth(19)?.parse().ok()?;
    Some((parent, resident))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_at_least_what_it_holds() {
        let before = memory_of_family(std::process::id());
        let held = vec![1_u8; 64 << 20];
        let with = memory_of_family(std::process::id());
        assert!(held.iter().step_by(4096).all(|byte| *byte == 1));
        assert!(
            before > 1 << 20 && with > before + (32 << 20),
            "{before} {with}"
        );
        assert_eq!(memory_of_family(u32::MAX), 0);
    }
}

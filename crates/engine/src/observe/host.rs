//! What the machine says of this process and its children: the only place that reads `/proc` for figures.
//!
//! Read when somebody asks for figures, never beside the work. What a system does not tell is 0.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use wiredflow_scale::figures::HostFigures;

/// The figures of the machine since the start; keeps what it must, so that threads that have ended still count.
#[derive(Debug)]
pub(super) struct HostMeter {
    /// The machine's ticks at the start.
    before: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The run delay of each thread when it was last looked at, in nanoseconds.
    threads: HashMap<u32, u64>,
    /// The run delay of all of them, those included that have ended.
    run_delay: u64,
}

impl HostMeter {
    /// From now on.
    pub(super) fn start() -> Self {
        Self {
            before: busy_ticks(),
            seen: Mutex::default(),
        }
    }

    /// The figures now. Run delay is counted from the first look on.
    pub(super) fn figures(&self) -> HostFigures {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        let family = family(std::process::id());
        let mut figures = HostFigures {
            cores: std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
            busy_seconds: busy_ticks().saturating_sub(self.before) as f64 / ticks,
            memory_used: memory_used(),
            ..HostFigures::default()
        };
        let mut delays = HashMap::new();
        for process in &family {
            let folder = format!("/proc/{process}");
            let Some(stat) = Stat::read(&folder) else {
                continue;
            };
            figures.own_cpu_seconds += stat.cpu_ticks as f64 / ticks;
            figures.major_faults += stat.major_faults;
            figures.memory_bytes += stat.resident_pages * page;
            delays.extend(thread_delays(&folder));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (thread, delay) in &delays {
            let before = seen.threads.get(thread).copied().unwrap_or(0);
            // A number that was given again to a new thread begins anew.
            seen.run_delay += delay.checked_sub(before).unwrap_or(*delay);
        }
        seen.threads = delays;
        figures.run_delay_seconds = seen.run_delay as f64 / 1e9;
        figures
    }
}

/// Bytes that a process has resident now; 0 when there is no such process.
pub(super) fn memory_of(process: u32) -> u64 {
    let stat = Stat::read(&format!("/proc/{process}"));
    stat.map_or(0, |stat| {
        stat.resident_pages * rustix::param::page_size() as u64
    })
}

/// What `/proc/PID/stat` says of a process and of its children that have ended.
struct Stat {
    cpu_ticks: u64,
    major_faults: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(folder: &str) -> Option<Self> {
        let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
        // The name stands in brackets, and may have any character in it.
        let (_, after) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = after.split(' ').collect();
        // Numbered from 1 in proc(5), and the first here is the third there.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)? + field(16)? + field(17)?,
            major_faults: field(12)? + field(13)?,
            resident_pages: field(24)?,
        })
    }
}

/// A process and all below it.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut looked_at = 0;
    while let Some(process) = family.get(looked_at).copied() {
        looked_at += 1;
        for thread in threads(&format!("/proc/{process}")) {
            let children = format!("/proc/{process}/task/{thread}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            let children = children.split_whitespace();
            family.extend(children.filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    family
}

fn threads(folder: &str) -> Vec<u32> {
    let tasks = fs::read_dir(Path::new(folder).join("task"));
    let names = tasks.into_iter().flatten().filter_map(Result::ok);
    names
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect()
}

/// How long each thread was ready and had no core, in nanoseconds: the second field of its `schedstat`.
fn thread_delays(folder: &str) -> Vec<(u32, u64)> {
    let delay = |thread: u32| {
        let stat = fs::read_to_string(format!("{folder}/task/{thread}/schedstat")).ok()?;
        let delay = stat.split_whitespace().nth(1)?.parse().ok()?;
        Some((thread, delay))
    };
    threads(folder).into_iter().filter_map(delay).collect()
}

/// Ticks in which any core worked.
fn busy_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|number| number.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
    let worked = numbers.iter().take(8).enumerate();
    worked
        .filter(|(place, _)| *place != 3 && *place != 4)
        .map(|(_, ticks)| ticks)
        .sum()
}

/// The share of memory that is in use: of the machine, or of the control group where that has less left.
fn memory_used() -> f64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let machine = match (of("MemTotal:"), of("MemAvailable:")) {
        (Some(total), Some(available)) if total > 0.0 => 1.0 - available / total,
        _ => 0.0,
    };
    machine.max(group_memory_used().unwrap_or(0.0))
}

/// The share that the control group uses of what it may.
fn group_memory_used() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = format!("/sys/fs/cgroup{own}");
    let number = |name: &str| -> Option<f64> {
        let text = fs::read_to_string(format!("{folder}/{name}")).ok()?;
        text.trim().parse().ok()
    };
    // Without a limit it says `max`.
    Some(number("memory.current")? / number("memory.max")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_what_this_process_uses_and_it_only_grows() {
        let meter = HostMeter::start();
        let before = meter.figures();
        assert!(
            before.cores >= 1.0 && before.memory_bytes > 1 << 20,
            "{before:?}"
        );
        assert!(before.memory_used > 0.0 && before.memory_used < 1.0);
        let child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
            .status();
        assert!(child.unwrap().success());
        let after = meter.figures();
        assert!(
            after.own_cpu_seconds > before.own_cpu_seconds,
            "of a child that has ended"
        );
        assert!(after.busy_seconds > before.busy_seconds);
        assert!(after.run_delay_seconds >= before.run_delay_seconds);
    }
}

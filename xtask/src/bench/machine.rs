//! What the figures were taken on.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;

/// How many times the disk is asked.
const SYNCS: usize = 200;

/// The median time of an fdatasync after an append of 4 KiB.
pub(super) fn sync_time(folder: &Path) -> Result<Duration> {
    let path = folder.join("sync-time");
    let measure = || -> std::io::Result<Duration> {
        std::fs::create_dir_all(folder)?;
        let mut file = File::create(&path)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            file.write_all(&[b'.'; 4096])?;
            let start = Instant::now();
            file.sync_data()?;
            times.push(start.elapsed());
        }
        std::fs::remove_file(&path)?;
        times.sort_unstable();
        Ok(times[SYNCS / 2])
    };
    measure().map_err(|error| format!("cannot measure the disk at `{}`: {error}", path.display()))
}

/// The load average of the last minute.
pub(super) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// The day, and what the machine and the programs are, in one line.
pub(super) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<f64>().ok());
    let gib = kib.unwrap_or(0.0) / f64::from(1 << 20);
    let kernel = first_line("uname", &["-r"]);
    let day = first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let commit = first_line("git", &["rev-parse", "--short", "HEAD"]);
    let (rust, broker) = (
        first_line("rustc", &["--version"]),
        first_line("mosquitto", &["-h"]),
    );
    format!(
        "Measured {day} at commit {commit}, on {cores} cores of {model}, {gib:.0} GiB, Linux {kernel}; {rust}, {broker}."
    )
}

/// The first line that a program says.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(crate::tree::root())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let line = text.lines().next().unwrap_or(program);
    line.trim().to_owned()
}

//! Processes that are measured: started, read from /proc, ended.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// How the kernel counts in /proc/PID/stat: hundredths of a second on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a process may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(15);

/// A process of ours. Dropping it kills it.
pub(super) struct Process {
    name: String,
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program whose output goes to the file `log`, except the standard output where it is `read`.
    pub(super) fn start(command: &mut Command, log: &Path, read: bool) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |error| format!("cannot start `{name}`: {error}");
        let log = std::fs::File::create(log).map_err(failed)?;
        let stdout = if read {
            Stdio::piped()
        } else {
            log.try_clone().map_err(failed)?.into()
        };
        let mut child = command
            .stdin(if read { Stdio::piped() } else { Stdio::null() })
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let lines = child.stdout.take().map(BufReader::new);
        Ok(Self { name, child, lines })
    }

    /// The next line of its standard output, which begins with `word`; gives the rest.
    pub(super) fn line(&mut self, word: &str) -> Result<String> {
        let mut line = String::new();
        if let Some(lines) = &mut self.lines {
            let read = lines.read_line(&mut line);
            read.map_err(|error| format!("cannot read from `{}`: {error}", self.name))?;
        }
        match line.trim_end().strip_prefix(word) {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => Err(format!(
                "`{}` said `{}`, not `{word}`",
                self.name,
                line.trim_end()
            )),
        }
    }

    /// Lets it go on that waits for a line.
    pub(super) fn go(&mut self) -> Result {
        let stdin = self.child.stdin.as_mut();
        let said = stdin.map_or(Ok(()), |stdin| stdin.write_all(b"\n"));
        said.map_err(|error| format!("cannot speak to `{}`: {error}", self.name))
    }

    /// An error when it has ended already.
    pub(super) fn still_runs(&mut self) -> Result {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("`{}` ended by itself: {status}", self.name)),
            Err(error) => Err(format!("cannot ask after `{}`: {error}", self.name)),
        }
    }

    /// User and system time so far in seconds, its children and theirs included. Also of one that has
    /// ended and was not waited for.
    pub(super) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// A figure in KiB of /proc/PID/status: `VmHWM`, the most that was resident, or `VmRSS`.
    pub(super) fn memory_kib(&self, key: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let digits = |line: &str| {
            line.split_whitespace()
                .nth(1)
                .and_then(|word| word.parse().ok())
        };
        line.and_then(digits).unwrap_or(0)
    }

    /// Nanoseconds on a core so far, by the scheduler's own count; threads that have ended are left out.
    pub(super) fn on_core(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let counts = tasks.into_iter().flatten().flatten().filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(counts.sum())
    }

    /// Waits until it has ended by itself, and well.
    pub(super) fn wait(&mut self) -> Result {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{}` failed: {status}", self.name)),
            Err(error) => Err(format!("cannot wait for `{}`: {error}", self.name)),
        }
    }

    /// Ends it as an administrator would, and waits for it.
    pub(super) fn end(mut self) -> Result {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let asked = kill_process(pid, Signal::TERM);
            asked.map_err(|error| format!("cannot end `{}`: {error}", self.name))?;
        }
        let until = Instant::now() + END_WITHIN;
        while self.still_runs().is_ok() {
            if Instant::now() > until {
                return Err(format!("`{}` does not end on SIGTERM", self.name));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either it has ended already, or there is nothing more that could be done.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let children = tasks.into_iter().flatten().flatten().flat_map(|task| {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = text.split_whitespace().map(str::to_owned);
        pids.filter_map(|pid| pid.parse().ok())
            .collect::<Vec<u32>>()
    });
    children.map(cpu_seconds).sum::<f64>() + of_stat(&stat)
}

/// utime, stime, cutime and cstime of a line of /proc/PID/stat, in seconds.
fn of_stat(stat: &str) -> f64 {
    // The name stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let fields = fields.split_whitespace().skip(11).take(4);
    let ticks: f64 = fields.filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_stat_line_are_found_behind_any_name() {
        let line = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 25 20 5 20 0 4 0";
        assert_eq!(of_stat(line), 2.0);
        assert_eq!(of_stat(""), 0.0);
    }

    #[test]
    fn a_process_that_works_is_seen_working() {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("xtask-process-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo ready 7; read x",
        ]);
        let mut process = Process::start(&mut command, &log, true).unwrap();
        assert_eq!(process.line("ready").unwrap(), "7");
        assert!(process.cpu_seconds() > 0.0, "no CPU time was seen");
        assert!(process.memory_kib("VmHWM") > 100);
        process.go().unwrap();
        process.wait().unwrap();
        std::fs::remove_file(log).unwrap();
    }
}

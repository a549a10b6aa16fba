//! What a thread uses for a call: its time, its CPU, and the time in which it was ready and had no core.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wiredflow_core::charge::{Probe, Used};

/// The kernel's count of run delay is read around calls that take longer: it costs some microseconds.
const LONG: u64 = 1_000_000;

/// Measures the calls of the thread that it belongs to, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    schedstat: Option<File>,
    /// Whether the last call was long, as the next one will be then.
    was_long: bool,
    /// The run delay at the begin of the call, or at the end of the last that was long.
    delay: u64,
    begin: Moment,
    /// What does not count.
    left_out: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    wall: u64,
    cpu: u64,
}

impl Moment {
    fn now() -> Self {
        Self {
            wall: nanoseconds(ClockId::Monotonic),
            cpu: nanoseconds(ClockId::ThreadCPUTime),
        }
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Both count from a start, up.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

impl Stopwatch {
    /// The number of this thread.
    pub(crate) fn number() -> u32 {
        rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .cast_unsigned()
    }

    /// A call begins on this thread.
    pub(crate) fn begin(&mut self) {
        if self.schedstat.is_none() {
            self.schedstat = File::open("/proc/thread-self/schedstat").ok();
            self.delay = self.run_delay();
        } else if self.was_long {
            self.delay = self.run_delay();
        }
        self.left_out = Duration::ZERO;
        self.begin = Moment::now();
    }

    /// Does something that is no part of the call: waits until its output is taken.
    pub(crate) fn leave_out<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let before = nanoseconds(ClockId::Monotonic);
        let done = wait();
        let time = nanoseconds(ClockId::Monotonic).saturating_sub(before);
        self.left_out += Duration::from_nanos(time);
        done
    }

    /// The call has ended.
    pub(crate) fn end(&mut self) -> Used {
        let now = Moment::now();
        let wall = now.wall.saturating_sub(self.begin.wall);
        self.was_long = wall > LONG;
        let mut delay = 0;
        if self.was_long {
            let now = self.run_delay();
            delay = now.saturating_sub(self.delay);
            self.delay = now;
        }
        let left_out = u64::try_from(self.left_out.as_nanos()).unwrap_or(u64::MAX);
        Used {
            wall: wall.saturating_sub(left_out),
            cpu: now.cpu.saturating_sub(self.begin.cpu),
            delay,
        }
    }

    /// The second number of the thread's `schedstat`; 0 where the system does not tell.
    fn run_delay(&self) -> u64 {
        let mut text = [0; 96];
        let Some(Ok(length)) = self
            .schedstat
            .as_ref()
            .map(|file| file.read_at(&mut text, 0))
        else {
            return 0;
        };
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        let delay = text.split_whitespace().nth(1);
        delay
            .and_then(|delay| delay.parse().ok())
            .unwrap_or_default()
    }
}

/// What the thread of a call has used since it began, by its number; once that is known.
pub(crate) fn probe_of_thread(thread: Arc<AtomicU32>) -> Probe {
    Arc::new(move || match thread.load(Ordering::Relaxed) {
        0 => None,
        thread => used_since_ever(&format!("/proc/self/task/{thread}")),
    })
}

/// What the first thread of a process has used since it began: the one that runs what the process is for.
pub(crate) fn probe_of_process(process: u32) -> Probe {
    Arc::new(move || used_since_ever(&format!("/proc/{process}")))
}

/// The first two numbers of a `schedstat`.
fn used_since_ever(folder: &str) -> Option<Used> {
    let schedstat = std::fs::read_to_string(format!("{folder}/schedstat")).ok()?;
    let mut numbers = schedstat.split_whitespace();
    let mut number = || numbers.next()?.parse::<u64>().ok();
    Some(Used {
        wall: 0,
        cpu: number()?,
        delay: number()?,
    })
}

/// What a process that has ended, and was not reaped yet, has used in this time, with those of its children that it
/// has waited for.
pub(crate) fn used_by_process(process: u32, wall: Duration) -> Used {
    let folder = format!("/proc/{process}");
    let Used { cpu, delay, .. } = used_since_ever(&folder).unwrap_or_default();
    let stat = std::fs::read_to_string(format!("{folder}/stat")).unwrap_or_default();
    // The name stands in brackets, and may have any character in it; see proc(5) for the fields 14 to 17.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let ticks = after.split(' ').skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Used {
        wall: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        cpu: cpu.max(ticks * tick),
        delay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread sleeps: that is what is measured.
    fn sleep(millis: i64) {
        let time = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: millis * 1_000_000,
        };
        drop(rustix::thread::nanosleep(&time));
    }

    fn burn(nanoseconds_of_cpu: u64) {
        let begin = nanoseconds(ClockId::ThreadCPUTime);
        while nanoseconds(ClockId::ThreadCPUTime) - begin < nanoseconds_of_cpu {}
    }

    #[test]
    fn work_is_cpu_and_sleep_is_not_and_what_is_left_out_is_nothing() {
        let mut watch = Stopwatch::default();
        for _ in 0..2 {
            watch.begin();
            burn(20_000_000);
            sleep(30);
            watch.leave_out(|| sleep(50));
            let used = watch.end();
            // The thread's own clock says so, however busy the machine is.
            assert!((20_000_000..30_000_000).contains(&used.cpu), "{used:?}");
            assert!(used.wall >= 50_000_000, "{used:?}");
            assert!(used.cpu + used.delay <= used.wall, "{used:?}");
        }
    }

    #[test]
    fn a_process_tells_what_it_has_used_until_it_is_reaped() {
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .spawn()
            .unwrap();
        let zombie = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.contains(") Z ")
        };
        while !zombie() {
            sleep(5);
        }
        let used = used_by_process(child.id(), Duration::from_secs(1));
        assert!(used.cpu > 10_000_000, "{used:?}");
        child.wait().unwrap();
    }
}

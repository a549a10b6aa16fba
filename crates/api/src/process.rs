//! What the system knows of this process.

use std::fs;

/// The kernel's clock ticks in a second, the same on every Linux since 2.4.
const TICKS: f64 = 100.0;

/// Figures of this process; what cannot be read is left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    /// CPU seconds, without children.
    pub(crate) cpu_seconds: Option<f64>,
    /// Bytes in memory.
    pub(crate) resident_bytes: Option<f64>,
    /// Open files and sockets.
    pub(crate) open_files: Option<usize>,
    /// Threads.
    pub(crate) threads: Option<f64>,
}

impl Process {
    /// Reads them now.
    pub(crate) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        Self {
            cpu_seconds: fs::read_to_string("/proc/self/stat")
                .ok()
                .and_then(|stat| cpu_seconds(&stat)),
            resident_bytes: of("VmRSS:").map(|kibibytes| kibibytes * 1024.0),
            open_files: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            threads: of("Threads:"),
        }
    }
}

/// The 14th and 15th field; the second is a name in brackets that may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_whatever_its_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 9";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        let own = Process::read();
        assert!(
            own.cpu_seconds.is_some() && own.resident_bytes.unwrap() > 1e5,
            "{own:?}"
        );
        assert!(own.open_files.unwrap() > 0 && own.threads.unwrap() >= 1.0);
    }
}

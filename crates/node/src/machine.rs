//! What a node says of its machine.

use std::time::Duration;

use sha2::{Digest, Sha256};
use wiredflow_engine::clock::Clock;

/// How long the speed is measured.
const MEASURED: Duration = Duration::from_millis(50);

/// What a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// The cores that this process may use.
    pub cores: usize,
    /// Its memory in bytes; zero where the system does not say.
    pub memory: u64,
    /// How quick one core is: MiB of SHA-256 in a second.
    pub speed: f64,
}

impl Machine {
    /// The name of this machine, as a part of a name at an engine.
    pub fn host_name() -> String {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let usual = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
        let first = name.trim().split('.').next().unwrap_or_default();
        let name: String = first.chars().filter(usual).take(40).collect();
        match name.is_empty() {
            true => "node".to_owned(),
            false => name,
        }
    }

    /// This one. It takes a twentieth of a second, for the speed.
    pub fn own(clock: &Clock) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cores,
            memory: total_of(&memory),
            speed: speed(clock),
        }
    }
}

fn total_of(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn speed(clock: &Clock) -> f64 {
    let block = vec![7_u8; 1 << 18];
    let begun = clock.monotonic();
    let mut hash = Sha256::new();
    let mut blocks = 0_u32;
    loop {
        hash.update(&block);
        blocks += 1;
        let taken = clock.monotonic() - begun;
        // A paused clock does not go on by itself.
        if taken >= MEASURED || blocks == 4096 {
            let seconds = taken.as_secs_f64().max(1e-6);
            return f64::from(blocks) / 4.0 / seconds;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_knows_itself() {
        let own = Machine::own(&Clock::real());
        assert!(
            own.cores >= 1 && own.memory > 1 << 20 && own.speed > 1.0,
            "{own:?}"
        );
        assert_eq!(total_of("MemTotal:  2048 kB\nMemFree: 1 kB"), 2 << 20);
        assert_eq!(total_of("odd"), 0);
    }
}

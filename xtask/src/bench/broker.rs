//! A real mosquitto on a free port, in a folder of its own.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::Process;
use crate::Result;

/// How long it may take to start, and a subscriber to come.
const WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Broker {
    pub(super) process: Process,
    /// `127.0.0.1:PORT`.
    pub(super) address: String,
    log: PathBuf,
}

impl Broker {
    /// Starts one that keeps any number of messages for a slow subscriber, so that it never drops
    /// any, and has its defaults otherwise.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, "max_queued_messages 0\n")
    }

    /// Starts one with its defaults and these lines.
    pub(super) fn start_with(folder: &Path, lines: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener
            .local_addr()
            .map_err(|error| error.to_string())?
            .port();
        drop(listener);
        let (file, log) = (folder.join("mosquitto.conf"), folder.join("mosquitto.log"));
        let lines = format!(
            "user root\nallow_anonymous true\nlistener {port} 127.0.0.1\n{lines}\
             log_type subscribe\nlog_dest file {}\n",
            log.display()
        );
        std::fs::write(&file, lines).map_err(|error| error.to_string())?;
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&file);
        let process = Process::start(&mut command, &folder.join("mosquitto.out"), false)
            .map_err(|error| format!("{error} (apt-get install mosquitto)"))?;
        let mut broker = Self {
            process,
            address: format!("127.0.0.1:{port}"),
            log,
        };
        let address = broker.address.clone();
        broker.wait("mosquitto does not answer", || {
            TcpStream::connect(&address).is_ok()
        })?;
        Ok(broker)
    }

    /// Waits until somebody has subscribed.
    pub(super) fn wait_for_subscriber(&mut self, subscriber: &mut Process) -> Result {
        let log = self.log.clone();
        self.wait("nobody subscribes", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            subscriber.still_runs().is_err() || text.contains("bench/numbers")
        })?;
        subscriber.still_runs()
    }

    fn wait(&mut self, otherwise: &str, mut condition: impl FnMut() -> bool) -> Result {
        let until = Instant::now() + WITHIN;
        while !condition() {
            self.process.still_runs()?;
            if Instant::now() > until {
                return Err(otherwise.to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

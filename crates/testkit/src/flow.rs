//! The real binary, run on files in a folder of the test's own.

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Signal,
    owned::{Owned, exit_code},
    wait::holds_within,
};

/// How long a run may take that says nothing else.
const USUAL: Duration = Duration::from_secs(60);
/// How long the last output may take to arrive when the binary has ended but something it started holds its pipes.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// A folder with a user's files, and the binary to run in it.
#[derive(Debug)]
pub struct FlowTest {
    binary: PathBuf,
    folder: TempDir,
    environment: Vec<(String, String)>,
}

/// A run that goes on. Dropping it kills it and everything that it has started.
#[derive(Debug)]
pub struct Running {
    owned: Owned,
    stdout: Output,
    stderr: Output,
    begun: Instant,
}

/// A run that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// What went to standard output.
    pub stdout: String,
    /// What went to standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// What has come out of a pipe until now, and the thread that reads it to its end.
#[derive(Debug)]
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: thread::JoinHandle<()>,
}

impl FlowTest {
    /// A new, empty folder. In the tests of the cli crate the binary is `env!("CARGO_BIN_EXE_wiredflow")`.
    pub fn new(binary: impl AsRef<Path>) -> Self {
        Self {
            binary: binary.as_ref().to_owned(),
            folder: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        }
    }

    /// The folder in which everything runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, making its folders, over what is there; returns its path.
    #[track_caller]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Reads a file of the folder.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name))
            .unwrap_or_else(|error| panic!("`{name}` cannot be read: {error}"))
    }

    /// Reads a file of the folder as JSON.
    #[track_caller]
    pub fn read_json(&self, name: &str) -> Value {
        let text = self.read(name);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("`{name}` is not JSON: {error}\n{text}"))
    }

    /// Sets a variable for the runs to come.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the binary to its end; panics when that takes longer than a minute.
    #[track_caller]
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        self.spawn(args).wait(USUAL)
    }

    /// Starts the binary, in the folder, with nothing on its standard input.
    #[track_caller]
    pub fn spawn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
        self.spawn_under(&[], args)
    }

    /// As `spawn`, by another program: its words stand before the binary.
    #[track_caller]
    pub fn spawn_under(
        &self,
        prefix: &[String],
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Running {
        let mut command = match prefix {
            [] => Command::new(&self.binary),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(&self.binary);
                command
            }
        };
        command.args(args).current_dir(self.folder());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase()); // the peers are on this machine
        }
        command
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut owned = Owned::start(&mut command)
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", self.binary.display()));
        let stdout = Output::gather(
            owned
                .child
                .stdout
                .take()
                .expect("standard output is a pipe"),
        );
        let stderr = Output::gather(owned.child.stderr.take().expect("standard error is a pipe"));
        Running {
            owned,
            stdout,
            stderr,
            begun: Instant::now(),
        }
    }
}

impl Running {
    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.owned.child.id()
    }

    /// Sends a signal to the binary alone, as `kill` does.
    pub fn signal(&self, signal: Signal) {
        self.owned.signal(signal);
    }

    /// Sends a signal to the binary and everything that it has started, as ^C in a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        self.owned.signal_group(signal);
    }

    /// What has gone to standard output until now.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What has gone to standard error until now.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until standard error holds the text; panics, showing all of it, when it does not within the deadline.
    #[track_caller]
    pub fn stderr_contains(&self, text: &str, deadline: Duration) {
        let found = holds_within(deadline, || self.stderr().contains(text));
        assert!(
            found,
            "no {text:?} on stderr within {deadline:?}:\n{}",
            self.stderr()
        );
    }

    /// As `stderr_contains`, of standard output.
    #[track_caller]
    pub fn stdout_contains(&self, text: &str, deadline: Duration) {
        let found = holds_within(deadline, || self.stdout().contains(text));
        assert!(
            found,
            "no {text:?} on stdout within {deadline:?}:\n{}\nstderr:\n{}",
            self.stdout(),
            self.stderr()
        );
    }

    /// Waits until the condition holds; panics at the deadline and, before it, when the binary has ended: what it has
    /// not done until then it will not do.
    #[track_caller]
    pub fn wait_until(&mut self, deadline: Duration, mut condition: impl FnMut() -> bool) {
        let mut ended = false;
        let held = holds_within(deadline, || {
            let over = self.has_ended(); // asked first: what it did before its end counts
            let held = condition();
            ended = over && !held;
            held || over
        });
        let how = if ended {
            "before it ended"
        } else {
            "before the deadline"
        };
        assert!(
            held && !ended,
            "the condition did not come true {how}; stderr:\n{}",
            self.stderr()
        );
    }

    /// Whether the binary has ended.
    pub fn has_ended(&mut self) -> bool {
        self.owned.wait(Duration::ZERO).is_some()
    }

    /// Waits for its end; panics, showing its output, when it still runs at the deadline.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Finished {
        let status = self.owned.wait(deadline);
        let took = self.begun.elapsed();
        let Some(status) = status else {
            panic!(
                "still running after {deadline:?}; stdout:\n{}\nstderr:\n{}",
                self.stdout(),
                self.stderr()
            );
        };
        let closed = || self.stdout.reader.is_finished() && self.stderr.reader.is_finished();
        assert!(
            holds_within(LAST_OUTPUT, closed),
            "it has ended, but something that it started still holds its output; stderr:\n{}",
            self.stderr()
        );
        Finished {
            code: exit_code(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took,
        }
    }
}

impl Finished {
    /// Panics, showing all output, when the exit code is another.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        let Self {
            code: found,
            stdout,
            stderr,
            ..
        } = self;
        assert!(
            *found == code,
            "exit code {found}, not {code}; stdout:\n{stdout}\nstderr:\n{stderr}"
        );
        self
    }

    /// Standard output as the one JSON document that it must be.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "standard output is not one JSON document: {error}\nstdout:\n{}\nstderr:\n{}",
                self.stdout, self.stderr
            )
        })
    }
}

impl Output {
    fn gather(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let text = Arc::clone(&text);
            move || {
                let mut piece = [0; 8192];
                while let Ok(length @ 1..) = pipe.read(&mut piece) {
                    text.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(&piece[..length]);
                }
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }
}

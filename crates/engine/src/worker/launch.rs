//! What to start: a Python with the embedded worker, or any program that speaks the protocol.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use crate::observe::Workers;
use tokio::process::Command;
use wiredflow_core::{Error, Result};

/// The Python worker, and before it the module that it needs.
const PYTHON_SOURCES: [&str; 2] = [
    include_str!("../../../../python/wiredflow_machine.py"),
    include_str!("../../../../python/wiredflow_worker.py"),
];

/// Reads the worker's source from the first bytes of its input and runs it: so nothing needs to be installed or
/// written to a file, and the process list stays readable. The flow's folder is not searched for Python's own modules.
const PYTHON_LOADER: &str = r"
import os, sys
if sys.version_info < (3, 8):
    sys.exit('python 3.8 or newer is needed, this is ' + sys.version.split()[0])
del sys.path[0]
def read(count):
    data = b''
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            os._exit(0)
        data += part
    return data
def source(name):
    return compile(read(int.from_bytes(read(4), 'big')), name, 'exec')
machine = sys.modules['wiredflow_machine'] = type(sys)('wiredflow_machine')
exec(source('<wiredflow machine>'), machine.__dict__)
exec(source('<wiredflow worker>'))
";

/// A command that starts a worker.
#[derive(Clone, Debug)]
pub struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    preamble: Vec<u8>,
    noun: String,
    advice: &'static str,
    workers: Workers,
    /// Whether it is this program again, which says by its exit status who must act.
    is_own: bool,
    /// How long what works behind it may go on when it is lost itself.
    lingers: Duration,
    /// How often it gives a sign of life.
    beat: Option<Duration>,
    /// Variables beside those that it inherits.
    env: Vec<(String, String)>,
}

/// How a process that is this program again says why it ends: the last line on its standard error has the words.
///
/// The numbers are those of `sysexits.h` with the nearest meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The place cannot be reached now (`EX_UNAVAILABLE`).
    Away = 69,
    /// What worked at the place has gone (`EX_SOFTWARE`).
    Gone = 70,
    /// The user must change something (`EX_CONFIG`).
    Wrong = 78,
}

impl Parting {
    /// What stands before those words: the line is no line for the log.
    pub const MARK: &'static str = "wiredflow ends: ";

    /// What an exit status says, where it says one of these.
    pub fn of(status: i32) -> Option<Self> {
        [Self::Away, Self::Gone, Self::Wrong]
            .into_iter()
            .find(|parting| *parting as i32 == status)
    }
}

impl Launch {
    /// A Python worker. `interpreter` is a command or a path, `label` what the process list shows.
    pub fn python(interpreter: &str, label: &str) -> Self {
        let mut preamble = Vec::new();
        for source in PYTHON_SOURCES {
            let length = u32::try_from(source.len()).unwrap_or(u32::MAX);
            preamble.extend(length.to_be_bytes());
            preamble.extend_from_slice(source.as_bytes());
        }
        Self {
            program: interpreter.into(),
            arguments: ["-u", "-c", PYTHON_LOADER, label]
                .map(OsString::from)
                .into(),
            preamble,
            noun: "the Python process".to_owned(),
            advice: "install Python 3.8 or newer, or name another interpreter",
            workers: Workers::default(),
            is_own: false,
            lingers: Duration::ZERO,
            beat: None,
            env: Vec::new(),
        }
    }

    /// A program that speaks the worker protocol on its standard input and output.
    pub fn program(command: &[String]) -> Result<Self> {
        let [program, arguments @ ..] = command else {
            return Err(Error::config("`program` needs a command"));
        };
        Ok(Self {
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            preamble: Vec::new(),
            noun: format!("`{program}`"),
            advice: "install it, or write its full path",
            workers: Workers::default(),
            is_own: false,
            lingers: Duration::ZERO,
            beat: None,
            env: Vec::new(),
        })
    }

    /// This program again, with these arguments. `preamble` is written to it before the first frame, `noun` is what
    /// messages call it.
    ///
    /// # Errors
    /// `Remote` where the system does not tell which file this program is.
    pub fn own_program(arguments: &[String], preamble: Vec<u8>, noun: String) -> Result<Self> {
        let program = std::env::current_exe()
            .map_err(|error| Error::remote(format!("cannot find this program's file: {error}")))?;
        Ok(Self {
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            preamble,
            noun,
            advice: "the program that runs has been moved; start the flow again",
            workers: Workers::default(),
            is_own: true,
            lingers: Duration::ZERO,
            beat: None,
            env: Vec::new(),
        })
    }

    /// What works behind it may go on for so long when it is lost itself: until then no call is made again.
    #[must_use]
    pub fn lingering(self, lingers: Duration) -> Self {
        Self { lingers, ..self }
    }

    /// It gives a sign of life so often; after a silence of three times as long it is ended.
    #[must_use]
    pub fn beating(self, beat: Duration) -> Self {
        Self {
            beat: Some(beat),
            ..self
        }
    }

    /// It has these variables beside those that it inherits.
    #[must_use]
    pub fn with_env(self, env: Vec<(String, String)>) -> Self {
        Self { env, ..self }
    }

    /// How often it gives a sign of life, in milliseconds.
    pub(crate) fn heartbeat(&self) -> Option<u64> {
        self.beat
            .map(|beat| u64::try_from(beat.as_millis()).unwrap_or(u64::MAX))
    }

    /// How long what works behind it may go on when it is lost itself.
    pub(super) fn lingers(&self) -> Duration {
        self.lingers
    }

    /// Whether it says by its exit status who must act.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Its processes are counted here.
    #[must_use]
    pub fn counted(self, workers: Workers) -> Self {
        Self { workers, ..self }
    }

    /// What counts its processes.
    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// How messages name the process.
    pub(super) fn noun(&self) -> &str {
        &self.noun
    }

    /// What is written before the first frame.
    pub(super) fn preamble(&self) -> Vec<u8> {
        self.preamble.clone()
    }

    /// The command: its own process group, the three streams to us, the environment inherited.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // One of our own ends by itself, and in order, when its input does.
            .kill_on_drop(!self.is_own);
        command
    }

    /// The command could not be started at all.
    pub(super) fn failed(&self, error: &std::io::Error) -> Error {
        let program = self.program.to_string_lossy();
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::config(format!("`{program}` was not found: {}", self.advice))
            }
            std::io::ErrorKind::PermissionDenied => {
                Error::config(format!("`{program}` may not be run: {error}"))
            }
            _ => Error::remote(format!("`{program}` cannot be started: {error}")),
        }
    }
}

//! A program that is started for each call: records in as JSON lines, records out as JSON lines, and its end says
//! whether the call has ended well.
//!
//! No shell is involved. It leads a process group of its own, which is killed as a whole when nobody waits for
//! the call any more, and when the program has ended: what it leaves running goes with it.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;
use wiredflow_core::charge::FunctionTime;
use wiredflow_core::{Error, Result, Value, json};

use super::WorkerHost;
use super::group::{Group, described};
use super::stderr::Stderr;
use crate::clock::{Clock, probe_of_process, used_by_process};

/// The longest line that a program may write, in bytes.
const LINE: usize = 1 << 20;

/// The most that one call may write, in bytes.
const ALL: usize = 16 << 20;

/// The longest value of an environment variable that the system takes, in bytes, with the name.
const VARIABLE: usize = 128 << 10;

/// How long what a program has written last may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// A program, ready to be started.
pub(crate) struct Program {
    command: Vec<String>,
    folder: PathBuf,
    host: Arc<dyn WorkerHost>,
    clock: Clock,
}

/// One call.
#[derive(Debug)]
pub(crate) struct ProgramCall {
    /// What goes to its standard input.
    pub(crate) input: Vec<u8>,
    /// What it finds in its environment beside ours.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// Whether its output are records. Else its lines are logged.
    pub(crate) gives: bool,
}

impl Program {
    /// The command and its arguments; a command with a slash is relative to `folder`, in which it runs.
    pub(crate) fn new(
        command: Vec<String>,
        folder: PathBuf,
        host: Arc<dyn WorkerHost>,
        clock: Clock,
    ) -> Self {
        Self {
            command,
            folder,
            host,
            clock,
        }
    }

    /// Starts it, hands it the input, and waits for its end. Dropping the future kills its process group.
    ///
    /// # Errors
    /// `Config` where there is no such program. `Data`, with the last lines of standard error, where it ends with
    /// another exit status than 0; where a line of its output is not JSON, or the output is over its limits.
    pub(crate) async fn run(&self, call: ProgramCall, time: &FunctionTime) -> Result<Vec<Value>> {
        let begun = self.clock.monotonic();
        let name = self.command.first().map_or("", String::as_str);
        let mut child = self
            .command(&call)?
            .spawn()
            .map_err(|error| self.failed(&error))?;
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let group = Group::of(child, self.clock.clone());
        let (Some(input), Some(output), Some(errors)) = (input, output, errors) else {
            return Err(Error::bug("a child without its streams"));
        };
        if let Some(process) = group.id() {
            time.watch(probe_of_process(process));
        }
        let said = Stderr::new(Arc::clone(&self.host));
        let mut records = Lines::default();
        let streams = async {
            let read = async {
                if call.gives {
                    records.read(output).await;
                    if records.too_much.is_some() {
                        group.signal(Signal::KILL);
                    }
                } else {
                    Stderr::new(Arc::clone(&self.host)).read(output).await;
                }
            };
            tokio::join!(write(input, &call.input), read, said.read(errors));
        };
        // What outlives the program and its group may keep the streams open for ever.
        let too_long = async {
            group.exited().await;
            group.signal(Signal::KILL);
            self.clock.sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            () = streams => {}
            () = too_long => {}
        }
        // It may have closed its streams and go on.
        group.exited().await;
        if let Some(process) = group.id() {
            time.ended(&used_by_process(process, self.clock.monotonic() - begun));
        }
        let status = group.end(Duration::ZERO).await;
        let failure = match (records.too_much.take(), status) {
            (Some(reason), _) => Some(format!("`{name}` {reason} and was stopped")),
            (None, Some(status)) if status.success() => None,
            (None, Some(status)) => Some(format!("`{name}` {}", described(status))),
            (None, None) => Some(format!("`{name}` ended, nobody knows how")),
        };
        if let Some(failure) = failure {
            let lines = said.last_lines();
            let last = lines.as_deref().and_then(|lines| lines.lines().last());
            let error = Error::data(match last {
                Some(last) => format!("{failure}: {last}"),
                None => failure,
            });
            return Err(match lines {
                Some(lines) => error.with_trace(lines),
                None => error,
            });
        }
        records.values.map_err(|(number, reason)| {
            Error::data(format!("line {number} of what `{name}` wrote is {reason}"))
        })
    }

    fn command(&self, call: &ProgramCall) -> Result<Command> {
        let [program, arguments @ ..] = &self.command[..] else {
            return Err(Error::config("`program` needs a command"));
        };
        for (name, value) in &call.variables {
            if name.len() + value.len() + 2 > VARIABLE {
                return Err(Error::data(format!(
                    "the params are {} bytes as JSON, and a program gets at most 128 KiB in `{name}`: let them be records",
                    value.len()
                )));
            }
        }
        let mut command = match program.contains('/') {
            true => Command::new(self.folder.join(program)),
            false => Command::new(program),
        };
        command
            .args(arguments)
            .current_dir(&self.folder)
            .envs(call.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    /// It could not be started at all.
    fn failed(&self, error: &std::io::Error) -> Error {
        let name = self.command.first().map_or("", String::as_str);
        match error.kind() {
            std::io::ErrorKind::NotFound => Error::config(format!(
                "`{name}` was not found: install it or write its path; the first line of a script names a program too"
            )),
            std::io::ErrorKind::PermissionDenied => {
                Error::config(format!("`{name}` may not be run: `chmod +x` it"))
            }
            _ => Error::remote(format!("`{name}` cannot be started: {error}")),
        }
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "program {:?}", self.command)
    }
}

/// Looks for a program as starting it would, without starting it: a path in the folder, else on the PATH. Says
/// what is wrong and what may help.
pub(crate) fn look_for(
    command: &[String],
    folder: &Path,
) -> std::result::Result<(), (String, String)> {
    use rustix::fs::{Access, access};
    let name = match command.first() {
        Some(name) if !name.is_empty() => name,
        _ => {
            return Err((
                "`program` needs a command".to_owned(),
                "write `program: [CMD, ARG, …]`".to_owned(),
            ));
        }
    };
    if command.iter().any(|word| word.contains('\0')) {
        return Err((
            "a zero byte cannot be in a command".to_owned(),
            "take it out".to_owned(),
        ));
    }
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let path = folder.join(name);
        return match (path.is_file(), runs(&path)) {
            (_, true) => Ok(()),
            (true, false) => Err((
                format!("`{name}` may not be run"),
                format!("`chmod +x {name}`"),
            )),
            (false, false) => Err((
                format!("there is no program `{name}`"),
                "a command with a slash is relative to the flow's folder".to_owned(),
            )),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|place| runs(&place.join(name))) {
        return Ok(());
    }
    let help = if command.len() == 1 && name.contains(char::is_whitespace) {
        let words: Vec<&str> = name.split_whitespace().collect();
        format!("no shell takes it apart: write `[{}]`", words.join(", "))
    } else if folder.join(name).is_file() {
        format!("for the file in the flow's folder write `./{name}`")
    } else {
        "install it, or write its path".to_owned()
    };
    Err((format!("`{name}` is not on the PATH"), help))
}

/// Writes the input and closes it. A program that does not want all of it is no error.
async fn write(mut stream: impl AsyncWrite + Unpin, input: &[u8]) {
    drop(stream.write_all(input).await);
    drop(stream.shutdown().await);
}

/// Lines that come in, each a JSON document.
#[derive(Debug)]
struct Lines {
    /// The documents, or the number of the first line that is none and why.
    values: std::result::Result<Vec<Value>, (usize, String)>,
    /// Why nothing more is read.
    too_much: Option<String>,
    line: Vec<u8>,
    number: usize,
    bytes: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            values: Ok(Vec::new()),
            too_much: None,
            line: Vec::new(),
            number: 0,
            bytes: 0,
        }
    }
}

impl Lines {
    async fn read(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            let mut rest = &chunk[..count];
            while !rest.is_empty() {
                let before = rest;
                let length = rest.skip_until(b'\n').unwrap_or(before.len());
                self.line.extend_from_slice(&before[..length]);
                if before[..length].ends_with(b"\n") {
                    self.end_line();
                }
            }
            self.bytes += count;
            if self.line.len() > LINE {
                self.too_much = Some(format!("wrote a line of more than {} MiB", LINE >> 20));
                return;
            }
            if self.bytes > ALL {
                self.too_much = Some(format!("wrote more than {} MiB", ALL >> 20));
                return;
            }
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        self.number += 1;
        let line = self.line.trim_ascii();
        if !line.is_empty()
            && let Ok(values) = &mut self.values
        {
            match json::parse(line, LINE) {
                Ok(value) => values.push(value),
                Err(reason) => {
                    let start = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
                    let more = if line.len() > 80 { "…" } else { "" };
                    self.values = Err((self.number, format!("{reason}: `{start}{more}`")));
                }
            }
        }
        self.line.clear();
    }
}

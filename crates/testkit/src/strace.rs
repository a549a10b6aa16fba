//! The system calls of a process: counted, failed, or answered by a kill, by strace.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{owned::Owned, wait::holds_within};

/// How long strace may take to begin or to end.
const USUAL: Duration = Duration::from_secs(20);

/// What strace is to do with the calls on some paths.
///
/// It counts by thread: where the N-th call is to be met, the calls on these paths belong to one thread.
#[derive(Debug)]
pub struct Strace {
    paths: Vec<PathBuf>,
    log: PathBuf,
    inject: Option<String>,
}

/// A strace that has a running process in hand. Dropping it lets the process go.
#[derive(Debug)]
pub struct Attached(Owned);

impl Strace {
    /// The calls with which data becomes safe, or goes.
    pub const CALLS: [&'static str; 9] = [
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "rename",
        "renameat2",
        "ftruncate",
        "unlink",
        "unlinkat",
    ];

    /// Looks at the calls on these paths, which need not exist, and writes them to a log.
    pub fn on(paths: impl IntoIterator<Item = PathBuf>, log: PathBuf) -> Self {
        Self {
            paths: paths.into_iter().collect(),
            log,
            inject: None,
        }
    }

    /// At the call of this number, counted from 1, does what strace calls it: `signal=SIGKILL`, `error=EIO`.
    #[must_use]
    pub fn inject(mut self, call: &str, fault: &str, number: usize) -> Self {
        self.inject = Some(format!("{call}:{fault}:when={number}"));
        self
    }

    /// Why strace may not trace here; `None` when it may.
    pub fn refusal() -> Option<String> {
        let tried = Command::new("strace")
            .args(["-qq", "-e", "inject=close:error=EIO:when=100", "true"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(format!("strace cannot be run: {error}")),
        }
    }

    /// What stands before a command that is traced from its start. The command keeps its place as our child.
    pub fn prefix(&self) -> Vec<String> {
        let mut words = vec!["strace".to_owned(), "-D".to_owned(), "-q".to_owned()];
        words.extend(self.words());
        words
    }

    /// Takes a running process in hand, with all its threads.
    #[track_caller]
    pub fn attach(&self, process: u32) -> Attached {
        let mut command = Command::new("strace");
        command
            .args(self.words())
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut owned = Owned::start(&mut command).expect("strace can be run");
        let stderr = owned.child.stderr.take().expect("standard error is a pipe");
        let mut lines = BufReader::new(stderr);
        let mut line = String::new();
        while !line.contains("attached") {
            line.clear();
            let length = lines.read_line(&mut line).unwrap_or(0);
            assert!(length > 0, "strace did not attach to {process}");
        }
        std::thread::spawn(move || {
            while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                line.clear();
            }
        });
        Attached(owned)
    }

    /// Waits until the log tells the end of the process, and says whether what was to be injected has happened.
    #[track_caller]
    pub fn happened(&self, process: u32) -> bool {
        let end = format!("{process} ");
        let over = |line: &str| line.starts_with(&end) && line.contains(" +++ ");
        let told = holds_within(USUAL, || self.text().lines().any(over));
        let text = self.text();
        assert!(told, "strace told no end of {process}:\n{text}");
        text.contains("(INJECTED)") || text.contains("+++ killed by SIGKILL")
    }

    /// How often each call was made, by the thread that made most of them.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut by_thread: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
        for line in self.text().lines() {
            let Some((thread, rest)) = line.split_once(char::is_whitespace) else {
                continue;
            };
            let Some((name, _)) = rest.trim_start().split_once('(') else {
                continue;
            };
            if let Some(call) = Self::CALLS.iter().find(|call| **call == name) {
                *by_thread.entry((call, thread.to_owned())).or_default() += 1;
            }
        }
        let mut counts = BTreeMap::new();
        for ((call, _), count) in by_thread {
            let most: &mut usize = counts.entry(call).or_default();
            *most = count.max(*most);
        }
        counts
    }

    /// The log.
    pub fn text(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![
            "-f".to_owned(),
            "-o".to_owned(),
            self.log.display().to_string(),
            "-e".to_owned(),
            format!("trace={}", Self::CALLS.join(",")),
        ];
        for path in &self.paths {
            words.extend(["-P".to_owned(), path.display().to_string()]);
        }
        if let Some(inject) = &self.inject {
            words.extend(["-e".to_owned(), format!("inject={inject}")]);
        }
        words
    }
}

impl Attached {
    /// Waits until strace has ended, as it does with the process.
    #[track_caller]
    pub fn wait(mut self) {
        self.0.wait(USUAL).expect("strace ends with the process");
    }
}

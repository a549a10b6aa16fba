//! A child process in a group of its own that cannot outlive the test.

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{self, Pid};

use crate::wait::holds_within;

/// A child process and the group that it leads. Dropping it kills the group.
///
/// A guardian, a shell that waits for the end of a pipe which this process holds, kills the group as well when this
/// process is killed and has no chance to drop anything.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) child: Child,
    guardian: Child,
}

/// A signal that a test sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end in good order.
    Term,
    /// SIGINT: what ^C sends.
    Int,
    /// SIGHUP: the terminal is gone.
    Hup,
    /// SIGKILL: end at once, without a chance to clean up.
    Kill,
    /// SIGSTOP: freeze. The process looks alive and answers nothing.
    Stop,
    /// SIGCONT: go on after `Stop`.
    Continue,
}

impl Owned {
    /// Starts the command as the leader of a new process group.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let guardian = Command::new("sh")
            .args([
                "-c",
                "read -r _; kill -s KILL -- \"-$0\"",
                &child.id().to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match guardian {
            Ok(guardian) => Ok(Self { child, guardian }),
            Err(error) => {
                let mut child = child;
                drop(child.kill());
                drop(child.wait());
                Err(error)
            }
        }
    }

    /// Sends a signal to the child alone; nothing happens when it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        process::kill_process(pid(&self.child), signal.number()).ok();
    }

    /// Sends a signal to the child and everything that it has started.
    pub(crate) fn signal_group(&self, signal: Signal) {
        process::kill_process_group(pid(&self.child), signal.number()).ok(); // it may be gone
    }

    /// Waits for the end of the child; None when it still runs at the deadline.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let mut status = None;
        holds_within(deadline, || {
            status = self
                .child
                .try_wait()
                .expect("the child is ours to wait for");
            status.is_some()
        });
        status
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // The guardian first: it must not see the end of its pipe when the group's number may be another's already.
        drop(self.guardian.kill());
        drop(self.guardian.wait());
        self.signal_group(Signal::Kill);
        drop(self.child.wait());
    }
}

impl Signal {
    fn number(self) -> process::Signal {
        match self {
            Self::Term => process::Signal::TERM,
            Self::Int => process::Signal::INT,
            Self::Hup => process::Signal::HUP,
            Self::Kill => process::Signal::KILL,
            Self::Stop => process::Signal::STOP,
            Self::Continue => process::Signal::CONT,
        }
    }
}

/// The exit code as a shell tells it: that of the process, or 128 and the number of the signal that ended it.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sends a signal to any process; nothing happens when it has ended.
pub(crate) fn signal(number: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) {
        process::kill_process(pid, signal.number()).ok();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

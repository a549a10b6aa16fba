//! A child process with all that it has started.

use std::fmt;
use std::future::Future;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
#[cfg(target_os = "linux")]
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;

use crate::clock::Clock;

/// How long a process may take to end after SIGTERM, before SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// How often a process is looked at where its end cannot be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A child process and the process group that it leads. Dropping it kills the group at once, unless it was told
/// otherwise; the runtime reaps.
pub(super) struct Group {
    child: Child,
    pid: Option<Pid>,
    clock: Clock,
    /// What it is told when it is dropped.
    last: Signal,
}

impl Group {
    pub(super) fn of(child: Child, clock: Clock) -> Self {
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Self {
            child,
            pid,
            clock,
            last: Signal::KILL,
        }
    }

    /// The same, told this when it is dropped.
    pub(super) fn dropped_with(mut self, last: Signal) -> Self {
        self.last = last;
        self
    }

    /// The child's number, until it has been reaped.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Comes true when the child has ended. It is not reaped by this, so that its number stays its own.
    pub(super) fn exited(&self) -> impl Future<Output = ()> + Send + 'static {
        let (pid, clock) = (self.pid, self.clock.clone());
        async move {
            let Some(pid) = pid else { return };
            #[cfg(target_os = "linux")]
            if let Ok(descriptor) =
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                && let Ok(watched) = Receiver::from_owned_fd_unchecked(descriptor)
            {
                // It is no pipe and nothing is read from it: a process's descriptor is readable when it has ended.
                drop(watched.readable().await);
                return;
            }
            while !has_ended(pid) {
                clock.sleep(LOOK_EVERY).await;
            }
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.pid.is_none_or(has_ended)
    }

    pub(super) async fn exits_within(&self, patience: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.exited() => true,
            () = self.clock.sleep(patience) => false,
        }
    }

    /// Ends the group: patience, SIGTERM, two seconds, SIGKILL. The child is reaped last: until then nobody else can
    /// get its number, and so the group's.
    pub(super) async fn end(mut self, patience: Duration) -> Option<ExitStatus> {
        if !self.exits_within(patience).await {
            self.signal(Signal::TERM);
            self.exits_within(GRACE).await;
        }
        self.signal(Signal::KILL);
        self.child.wait().await.ok()
    }

    /// Says something to the whole group, as long as the child has not been reaped.
    pub(super) fn signal(&self, signal: Signal) {
        if let (Some(pid), Some(_)) = (self.pid, self.child.id()) {
            // It fails when nobody is left to hear it.
            rustix::process::kill_process_group(pid, signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(self.last);
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({:?})", self.child.id())
    }
}

/// Looks without reaping.
fn has_ended(pid: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(pid), look), Ok(None))
}

/// How a process has ended, in words.
pub(super) fn described(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            format!("ended with exit status {code}")
        }
        (None, Some(9)) => {
            "was killed by signal 9; if nobody did it, the machine had no memory left".to_owned()
        }
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

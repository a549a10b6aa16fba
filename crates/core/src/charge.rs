//! What a stage spends its time on: six exclusive clocks.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a stage is doing at a moment. Its time is charged to exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Activity {
    /// Working on data.
    Compute,
    /// Waiting for something outside: a peer, a disk.
    External,
    /// Waiting for the next stage to take what is done.
    Blocked,
    /// Waiting for input.
    Starved,
    /// Waiting for a rate limit or a back-off.
    Throttled,
    /// Serialising, transfer, the engine itself.
    Overhead,
}

impl Activity {
    /// All of them, in the order of the profile.
    pub const ALL: [Self; 6] = [
        Self::Compute,
        Self::External,
        Self::Blocked,
        Self::Starved,
        Self::Throttled,
        Self::Overhead,
    ];

    /// The word used in the profile.
    pub fn word(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::External => "external",
            Self::Blocked => "blocked",
            Self::Starved => "starved",
            Self::Throttled => "throttled",
            Self::Overhead => "overhead",
        }
    }
}

/// Is told at each change of state what a stage does from now on. Called once or a few times a batch,
/// never for each record; must not block.
pub trait Charge: Send + Sync {
    /// From now on the time goes to `activity`; returns what it went to until now.
    fn enter(&self, activity: Activity) -> Activity;

    /// A function of the user's begins; until [`Charge::function_used`] its time is compute.
    fn function_begins(&self) {}

    /// What tells how much the thread or process of the function that runs has used until now, since whenever: the
    /// difference of two looks is what it has used between them.
    fn function_watched(&self, probe: Probe) {
        drop(probe);
    }

    /// The function has ended, or is not waited for any more.
    fn function_is_over(&self) {}

    /// What the function has used, as it was measured where it ran: its time as compute since
    /// [`Charge::function_begins`] is parted by that.
    fn function_used(&self, used: &Used) {
        let _ = used;
    }
}

/// What a function used, in nanoseconds, measured where it ran: by the thread or process itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// From its begin to its end, without the time in which its output was not taken.
    pub wall: u64,
    /// CPU time, of all its threads.
    pub cpu: u64,
    /// Time in which it was ready and had no core, as the kernel counts it.
    pub delay: u64,
}

/// Tells how much CPU and run delay a thread or process has used since whenever; none where that is not known.
pub type Probe = Arc<dyn Fn() -> Option<Used> + Send + Sync>;

/// The time of one call of a user's function. Dropping it ends the function, and what was charged before is charged
/// again.
pub struct FunctionTime {
    charge: Arc<dyn Charge>,
    before: Activity,
}

impl FunctionTime {
    /// The function begins.
    pub fn begin(charge: &Arc<dyn Charge>) -> Self {
        let before = charge.enter(Activity::Compute);
        charge.function_begins();
        Self {
            charge: Arc::clone(charge),
            before,
        }
    }

    /// While it runs, this tells what it uses.
    pub fn watch(&self, probe: Probe) {
        self.charge.function_watched(probe);
    }

    /// It has ended, and has used this.
    pub fn ended(&self, used: &Used) {
        self.charge.function_used(used);
    }
}

impl Drop for FunctionTime {
    fn drop(&mut self) {
        self.charge.enter(self.before);
        self.charge.function_is_over();
    }
}

impl fmt::Debug for FunctionTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FunctionTime({:?})", self.before)
    }
}

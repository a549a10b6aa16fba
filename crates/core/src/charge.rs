//! What a stage spends its time on: six exclusive clocks.

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
}

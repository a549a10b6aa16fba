//! How many worker processes a stage has, and their memory. Read when somebody asks for figures, never beside a call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::host::memory_of;

/// The worker processes of one stage. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Workers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Those that run, by their numbers.
    running: Vec<u32>,
    /// The most that ran at once.
    most: usize,
    /// Where the last call has run, when that was not here.
    place: Option<Arc<str>>,
}

impl Workers {
    /// A process is ready for calls. It is counted until the guard is dropped.
    pub fn works(&self, process: u32) -> Worker {
        let mut state = self.lock();
        state.running.push(process);
        state.most = state.most.max(state.running.len());
        Worker(self.clone(), process)
    }

    /// Calls run at this place from now on; none is here.
    pub(crate) fn run_at(&self, place: Option<&Arc<str>>) {
        let mut state = self.lock();
        if state.place.as_ref() != place {
            state.place = place.cloned();
        }
    }

    /// Where the last call has run: `local` is here.
    pub(super) fn place(&self) -> String {
        let state = self.lock();
        let place = state.place.as_deref();
        place.unwrap_or(wiredflow_core::config::LOCAL).to_owned()
    }

    /// How many there are, or were at most, and the bytes that they have resident now.
    pub(super) fn figures(&self) -> (usize, u64) {
        let state = self.lock();
        let memory = state.running.iter().map(|process| memory_of(*process));
        (state.most, memory.sum())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker process that is counted.
#[derive(Debug)]
pub struct Worker(Workers, u32);

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running.retain(|known| *known != self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_ran_at_once_are_told_and_the_memory_of_those_that_run() {
        let workers = Workers::default();
        assert_eq!(workers.figures(), (0, 0));
        let own = workers.works(std::process::id());
        let gone = workers.works(u32::MAX);
        drop(gone);
        let (most, memory) = workers.figures();
        assert!(most == 2 && memory > 1 << 20, "{most} {memory}");
        drop(own);
        assert_eq!(workers.figures(), (2, 0));
    }
}

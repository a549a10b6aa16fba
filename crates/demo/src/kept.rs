//! The last things that arrived at a peer, for those who look now and then.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// How many are kept; the oldest go first.
const MOST: usize = 1000;

/// A cheap clone of one list.
#[derive(Debug)]
pub(crate) struct Kept<T>(Arc<Mutex<List<T>>>);

#[derive(Debug)]
struct List<T> {
    items: VecDeque<T>,
    total: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(List {
            items: VecDeque::new(),
            total: 0,
        })))
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Kept<T> {
    pub(crate) fn push(&self, item: T) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.items.len() == MOST {
            list.items.pop_front();
        }
        list.items.push_back(item);
        list.total += 1;
    }

    /// All but the first `seen`, oldest first, as far as they are kept; and how many there were in all.
    pub(crate) fn since(&self, seen: u64) -> (Vec<T>, u64) {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = list.total - list.items.len() as u64;
        let skip = usize::try_from(seen.saturating_sub(gone)).unwrap_or(usize::MAX);
        let items = list.items.iter().skip(skip).cloned().collect();
        (items, list.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_now_and_then_sees_each_item_once() {
        let kept = Kept::default();
        let mut seen = Vec::new();
        let mut count = 0;
        for item in 0..2500 {
            kept.push(item);
            if item % 7 == 0 {
                let (new, total) = kept.since(count);
                seen.extend(new);
                count = total;
            }
        }
        let all: Vec<i32> = (0..=seen[seen.len() - 1]).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn what_was_too_much_to_keep_is_passed_over() {
        let kept = Kept::default();
        (0..MOST + 5).for_each(|item| kept.push(item));
        let (items, total) = kept.since(2);
        assert_eq!((items[0], items.len(), total), (5, MOST, MOST as u64 + 5));
    }
}

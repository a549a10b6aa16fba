//! What was sent and may be needed again: the end of a byte stream whose beginning the other side has.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// The last bytes of a stream, by their offsets from its start.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    chunks: VecDeque<Bytes>,
    /// The offset of the first byte that is kept.
    start: u64,
    /// The offset behind the last byte.
    end: u64,
}

impl Ledger {
    /// How many bytes are kept.
    pub(crate) fn kept(&self) -> u64 {
        self.end - self.start
    }

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.end += bytes.len() as u64;
            self.chunks.push_back(bytes);
        }
    }

    /// The other side has all bytes before this offset. False where that cannot be: it has more than there is, or had
    /// more once.
    pub(crate) fn forget_before(&mut self, offset: u64) -> bool {
        if offset > self.end || offset < self.start {
            return false;
        }
        while let Some(first) = self.chunks.front_mut()
            && self.start < offset
        {
            let length = first.len() as u64;
            let surplus = (offset - self.start).min(length);
            self.start += surplus;
            if surplus == length {
                self.chunks.pop_front();
            } else {
                // Less than the chunk's length, which is a `usize`.
                first.advance(usize::try_from(surplus).unwrap_or(usize::MAX));
            }
        }
        true
    }

    /// Bytes from an offset on, as many as lie together; none at the end. The offset is one that is kept.
    pub(crate) fn from(&self, offset: u64) -> Bytes {
        let mut start = self.start;
        for chunk in &self.chunks {
            let end = start + chunk.len() as u64;
            if offset < end {
                let skipped = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
                return chunk.slice(skipped..);
            }
            start = end;
        }
        Bytes::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the whole stream: what is kept is its end, and any of it can be had again.
        #[test]
        fn what_is_kept_is_the_end_of_the_stream(
            steps in proptest::collection::vec((0_u8..3, 0_usize..40), 1..60)
        ) {
            let mut ledger = Ledger::default();
            let (mut stream, mut known) = (Vec::<u8>::new(), 0_usize);
            for (step, size) in steps {
                match step {
                    0 => {
                        let bytes: Vec<u8> = (0..size).map(|index| (stream.len() + index) as u8).collect();
                        stream.extend(&bytes);
                        ledger.push(bytes.into());
                    }
                    1 => {
                        let offset = (known + size).min(stream.len());
                        prop_assert!(ledger.forget_before(offset as u64));
                        known = offset;
                    }
                    _ => {
                        let mut offset = known + size.min(stream.len() - known);
                        let expected = &stream[offset..];
                        let mut got = Vec::new();
                        loop {
                            let bytes = ledger.from(offset as u64);
                            if bytes.is_empty() { break }
                            offset += bytes.len();
                            got.extend(bytes);
                        }
                        prop_assert_eq!(&got, expected);
                    }
                }
                prop_assert_eq!(ledger.kept(), (stream.len() - known) as u64);
            }
            prop_assert!(!ledger.forget_before(stream.len() as u64 + 1));
            prop_assert!(known == 0 || !ledger.forget_before(known as u64 - 1));
        }
    }
}

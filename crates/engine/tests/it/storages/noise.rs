//! Files with random damage anywhere: an error or a storage that works, and never a panic.

use std::fs;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};
use wiredflow_core::storage::Query;

use super::{FILES, KINDS, Place, commit, load, records, try_commit};

/// How often each kind is damaged.
const ROUNDS: usize = 20;

/// Changes bytes at a random place: turned over, left out, doubled, or noise in their stead.
pub(crate) fn damage(bytes: &mut Vec<u8>, dice: &mut StdRng) {
    for _ in 0..dice.random_range(1..4) {
        let at = dice.random_range(0..=bytes.len());
        let end = bytes.len().min(at + dice.random_range(0..200));
        match dice.random_range(0..5) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x55),
            2 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            3 => {
                let words = [
                    &b"\n"[..],
                    b"]",
                    b"[",
                    b"\"",
                    b",",
                    b"{\"a\":1}",
                    b"\0\0",
                    b"\xff",
                    b"\r\n]",
                ];
                bytes.splice(
                    at..at,
                    words[dice.random_range(0..words.len())].iter().copied(),
                );
            }
            _ => dice.fill_bytes(&mut bytes[at..end]),
        }
    }
}

#[test]
fn a_file_damaged_anywhere_is_an_error_or_a_storage_that_works() {
    let mut dice = StdRng::seed_from_u64(wiredflow_testkit::seed());
    let mut worked = 0;
    for kind in KINDS {
        for round in 0..ROUNDS {
            let folder = tempfile::tempdir().unwrap();
            let place = Place::new(folder.path(), kind);
            let mut storage = place.open();
            for number in 0..3 {
                commit(storage.as_mut(), &records(2 * number..2 * number + 2));
            }
            drop(storage);
            let mut bytes = fs::read(place.file()).unwrap();
            damage(&mut bytes, &mut dice);
            fs::write(place.file(), &bytes).unwrap();
            let shown = || {
                format!(
                    "{kind} round {round}: {:?}",
                    String::from_utf8_lossy(&bytes)
                )
            };

            let Ok(mut storage) = place.try_open() else {
                continue;
            };
            let Ok(before) = storage.load(&Query::default()) else {
                continue;
            };
            if try_commit(storage.as_mut(), &[json!({"number": 99})]).is_err()
                || !FILES.contains(&kind)
            {
                continue;
            }
            drop(storage);
            let after = load(place.open().as_mut());
            let rows = |document: &Value| document.as_array().map_or(0, Vec::len);
            assert_eq!(
                rows(&after),
                rows(&before.into_document()) + 1,
                "{}",
                shown()
            );
            worked += 1;
        }
    }
    assert!(worked > 0);
}

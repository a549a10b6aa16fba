//! Versions of the server: which will do, and what is better on newer ones.

use wiredflow_core::{Error, Result};

/// The oldest that will do.
const OLDEST: Version = Version(2, 9, 10);
/// The first that does not lose streams when its process is killed. Its clusters also hold a condition on one subject
/// against what is put at the same time, which older ones do not (issue 4320 of nats-server).
const SOUND: Version = Version(2, 10, 23);

/// A version of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u64, u64, u64);

impl Version {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim_start_matches('v');
        let numbers = text.split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self(next()?, next()?, next()?))
    }
}

/// What a version cannot do or does worse than newer ones.
///
/// # Errors
/// `Config`, where it is too old.
pub(crate) fn weaknesses(text: &str) -> Result<Vec<String>> {
    let Some(version) = Version::read(text) else {
        let shown = text.escape_debug();
        return Err(Error::config(format!(
            "its version `{shown}` cannot be read: nats-server 2.9.10 or newer is wanted"
        )));
    };
    if version < OLDEST {
        return Err(Error::config(format!(
            "nats-server {text} is too old: 2.9.10 or newer is wanted, and 2.12 recommended"
        )));
    }
    let mut weaknesses = Vec::new();
    if version < SOUND {
        weaknesses.push(format!(
            "nats-server {text} can lose what it keeps when its process is killed: upgrade it to 2.10.23 or newer"
        ));
    }
    Ok(weaknesses)
}

/// Whether a cluster of this version looks at a condition only before it asks its others, so that two may find that it holds.
pub(crate) fn is_hasty(text: &str) -> bool {
    Version::read(text).is_none_or(|version| version < SOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused_and_newer_ones_have_fewer_weaknesses() {
        for old in ["1.4.1", "2.2.6", "2.9.9", "0.0.0", "", "x"] {
            assert!(weaknesses(old).is_err(), "{old}");
        }
        for weak in ["2.9.10", "2.10.22", "2.10.22-RC.1"] {
            assert_eq!(weaknesses(weak).unwrap().len(), 1, "{weak}");
        }
        for sound in ["2.10.23", "2.15.1", "2.12.0-preview.2+dirty", "3.0.0"] {
            assert!(weaknesses(sound).unwrap().is_empty(), "{sound}");
        }
    }
}

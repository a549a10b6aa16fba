//! Who may do what: a token for each role, in files that only this user can read.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::OFlags;
use serde::Serialize;
use sha2::{Digest, Sha256};
use wiredflow_core::{Error, Result};

/// What a token allows; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees states and figures, and neither data nor words that may quote data.
    Viewer,
    /// Also pauses, resumes, triggers, replays, and reads dead letters and logs.
    Operator,
    /// Also drops dead letters.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The longest text of a token that is read.
const LONGEST: u64 = 4096;

/// The fewest characters of a token that somebody has written by hand.
const FEWEST: usize = 32;

/// The digests of the three tokens: the tokens themselves are in their files alone.
#[derive(Clone)]
pub struct Keys([(Role, [u8; 32]); 3]);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Reads the tokens of a state folder, and makes those that are not there. Blocks on the disk.
    ///
    /// # Errors
    /// `Config` when others than this user may read a file, or it holds no token.
    pub fn open(state: &Path) -> Result<Self> {
        let key = |role| Ok::<_, Error>((role, digest(take(&token_file(state, role))?.as_bytes())));
        let [viewer, operator, admin] = Role::ALL;
        let keys = [key(viewer)?, key(operator)?, key(admin)?];
        for (index, (role, one)) in keys.iter().enumerate() {
            if let Some((other, _)) = keys[..index].iter().find(|(_, other)| other == one) {
                return Err(Error::config(format!(
                    "`{}` and `{}` hold the same token: remove one of them, a new one is made",
                    token_file(state, *other).display(),
                    token_file(state, *role).display()
                )));
            }
        }
        Ok(Self(keys))
    }

    /// The role of a token. Takes as long for any text of its length.
    pub(crate) fn role_of(&self, shown: &[u8]) -> Option<Role> {
        let shown = digest(shown);
        let mut role = None;
        for (of, key) in &self.0 {
            let differences = key.iter().zip(shown);
            let different = differences.fold(0, |sum, (one, other)| sum | (one ^ other));
            if different == 0 {
                role = Some(*of);
            }
        }
        role
    }
}

/// Where the token of a role is: `token` is the admin's.
pub fn token_file(state: &Path, role: Role) -> PathBuf {
    state.join(match role {
        Role::Admin => "token".to_owned(),
        role => format!("token.{}", role.word()),
    })
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Reads a token, or makes it.
fn take(path: &Path) -> Result<String> {
    match read(path)? {
        Some(token) => Ok(token),
        None => {
            make(path).map_err(|error| {
                Error::config(format!("cannot write `{}`: {error}", path.display()))
            })?;
            read(path)?
                .ok_or_else(|| Error::config(format!("`{}` was removed just now", path.display())))
        }
    }
}

/// Reads a token file; none where there is none. What is read is what was looked at: no other file can take its place
/// in between, and no link is followed.
///
/// # Errors
/// `Config` when others may read it, or it holds no token.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let name = path.display();
    let told = |error: io::Error| Error::config(format!("cannot read `{name}`: {error}"));
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    let metadata = file.metadata().map_err(told)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::config(format!(
            "others may read the token in `{name}` (its mode is {mode:03o}): remove it, and a new one is made at the next start"
        )));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(told)?;
    let token = text.trim();
    if token.len() < FEWEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::config(format!(
            "`{name}` holds no token of at least {FEWEST} characters: remove it, and a new one is made at the next start"
        )));
    }
    Ok(Some(token.to_owned()))
}

/// Makes a token of 256 random bits. The file is there whole or not at all, and never readable by others.
fn make(path: &Path) -> io::Result<()> {
    let mut random = [0_u8; 32];
    OsRng
        .try_fill_bytes(&mut random)
        .map_err(io::Error::other)?;
    let mut text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    write_private(path, text.as_bytes())
}

/// Writes a file for this user alone; who reads it sees the old one or the new one.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn h2_a_token_has_256_bits_and_each_role_its_own_which_stays() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path()).unwrap();
        let mut tokens = Vec::new();
        for role in Role::ALL {
            let token = read(&token_file(folder.path(), role)).unwrap().unwrap();
            assert_eq!(token.len(), 64, "{token}");
            assert_eq!(keys.role_of(token.as_bytes()), Some(role));
            tokens.push(token);
        }
        tokens.dedup();
        assert_eq!(tokens.len(), 3);
        let again = Keys::open(folder.path()).unwrap();
        assert_eq!(again.role_of(tokens[2].as_bytes()), Some(Role::Admin));
        for wrong in ["", "x", &tokens[2][..63]] {
            assert_eq!(again.role_of(wrong.as_bytes()), None);
        }
    }

    #[test]
    fn h16_a_token_file_is_made_private_and_refused_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        Keys::open(folder.path()).unwrap();
        for role in Role::ALL {
            let file = token_file(folder.path(), role);
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
            for mode in [0o640, 0o604, 0o660] {
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
                let error = Keys::open(folder.path()).unwrap_err();
                assert!(error.message().contains("others may read"), "{error}");
            }
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = token_file(folder.path(), Role::Viewer);
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(token_file(folder.path(), Role::Admin), &file).unwrap();
        Keys::open(folder.path()).unwrap_err();
        fs::remove_file(&file).unwrap();
        fs::copy(token_file(folder.path(), Role::Admin), &file).unwrap();
        let error = Keys::open(folder.path()).unwrap_err();
        assert!(error.message().contains("the same token"), "{error}");
        write_private(&file, b"short\n").unwrap();
        Keys::open(folder.path()).unwrap_err();
    }
}

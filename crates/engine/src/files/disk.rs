//! Folders that outlive a power cut, and what a file system refuses, told as who must act.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};
use wiredflow_core::Error;

/// Refuses what cannot be opened: most of it is for the user to change.
pub(crate) fn cannot_open(path: &Path, error: &io::Error) -> Error {
    let shown = path.display();
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return Error::config(format!(
            "`{shown}` is a symbolic link, which is not followed: put the file itself there, or set \
             another folder"
        ));
    }
    match error.kind() {
        io::ErrorKind::WouldBlock => Error::config(format!(
            "`{shown}` is in use by another storage or process: each file has one writer"
        )),
        io::ErrorKind::PermissionDenied => Error::config(format!(
            "cannot open `{shown}`: {error}; let this user read and write it, or set another folder"
        )),
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => Error::config(format!(
            "cannot open `{shown}`: {error}; set another folder"
        )),
        _ => failed(path, "open", error),
    }
}

/// A file system's refusal, told as who must act.
pub(crate) fn failed(path: &Path, action: &str, error: &io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::remote(format!(
            "no space left on the disk of `{path}`; free some, what waits is kept"
        )),
        io::ErrorKind::InvalidData => Error::data(format!("`{path}`: {error}")),
        _ => Error::remote(format!("cannot {action} `{path}`: {error}")),
    }
}

/// Makes the folders of a file that is to be made, and looks whether it can be made there.
pub(crate) fn prepare_folder(path: &Path) -> Result<(), Error> {
    let prepared = create_folders(path).and_then(|()| {
        let writable = Access::WRITE_OK | Access::EXEC_OK;
        Ok(access(folder_of(path), writable)?)
    });
    prepared.map_err(|error| cannot_open(path, &error))
}

/// Makes the folders of a file that is to be made, so that they outlive a power cut.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    else {
        return Ok(());
    };
    if folder.is_dir() {
        return Ok(());
    }
    create_folders(folder)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !folder.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        other => other?,
    }
    sync_folder(folder)
}

/// Makes the name of a file as durable as its bytes.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

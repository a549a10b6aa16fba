//! Data files of storages: opened without following links, written at their end, replaced whole, and
//! brought back to what was committed after a failure.

pub(crate) mod disk;
pub(crate) mod layout;
mod ledger;
pub(crate) mod records;
mod tail;
pub(crate) mod value;

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use wiredflow_core::node::Node;
use wiredflow_core::storage::Cursor;
use wiredflow_core::{Error, Result};

use crate::catalogue::CheckCx;
use crate::state::FileLineOnItsWay;
use crate::storages::StoragePlace;
use disk::{cannot_open, create_folders, failed, prepare_folder, sync_folder};
use ledger::Ledger;

/// Buffers of whole-file work.
const CHUNK: usize = 1 << 17;

/// One file that one storage writes. It need not exist: the first write makes it. Its folders are made when
/// it is opened.
///
/// Its length is what was committed. When another program has changed, replaced or removed the file in
/// the meantime, reading and writing it are `Remote` errors: opened again, it is taken as it is then.
#[derive(Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    open: Option<Open>,
    /// What the flow's state remembers of it; none where it remembers nothing.
    ledger: Option<Ledger>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    length: u64,
}

impl DataFile {
    /// Opens the file if there is one, locks it against a second writer, and takes back what a crash has left of
    /// a commit.
    ///
    /// # Errors
    /// `Config` when it is a symbolic link or no file, when another storage or process has it open, or
    /// when this user may not; `Remote` for what the disk refuses.
    pub(crate) fn open(path: PathBuf, place: &StoragePlace) -> Result<Self> {
        // NONBLOCK: a FIFO in the file's place must be refused, not waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path);
        let open = match opened {
            Ok(file) => {
                let open = Open::of(file, &path)?;
                // A crash may have come between the making of the file and that of its name.
                sync_folder(&path).map_err(|error| failed(&path, "open", &error))?;
                Some(open)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                prepare_folder(&path)?;
                None
            }
            Err(error) => return Err(cannot_open(&path, &error)),
        };
        let ledger = Ledger::of(place, &path);
        let mut file = Self {
            path,
            open,
            ledger: None,
        };
        if let Some(mut ledger) = ledger {
            ledger.recover(&mut file, place.left)?;
            file.ledger = Some(ledger);
        }
        Ok(file)
    }

    /// Says where sources stand with the next write, which makes it safe.
    pub(crate) fn set_cursors(&mut self, cursors: &[Cursor]) {
        if let Some(ledger) = &mut self.ledger {
            ledger.set_next(cursors);
        }
    }

    /// Where a source stood with the last write.
    pub(crate) fn cursor(&self, source: &str) -> Option<String> {
        self.ledger.as_ref()?.cursor(source)
    }

    /// What was written counts: it is on the disk, and so is what is remembered of it.
    fn counts(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.counts();
        }
    }

    fn inode(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.inode)
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes are committed.
    pub(crate) fn length(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.length)
    }

    /// Reads the committed bytes from a position on.
    pub(crate) fn reader(&self, from: u64) -> FileReader<'_> {
        FileReader {
            file: self.open.as_ref().map(|open| &open.file),
            at: from,
            end: self.length(),
        }
    }

    /// Reads the committed bytes of a range that lies within the file.
    pub(crate) fn read_range(&self, from: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self.reader(from).read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    /// Writes `bytes` over `old_end`, which are the file's last bytes, and makes them safe: one write and
    /// one sync, however long the file is. After a failure the file ends with `old_end` again, or if even
    /// that fails, with something that the next opening cuts off.
    pub(crate) fn write_end(&mut self, bytes: &[u8], old_end: &[u8]) -> Result<()> {
        self.check_unchanged()?;
        let at = self.length() - old_end.len() as u64;
        let Some(open) = &mut self.open else {
            // Made whole: nobody sees a file that is empty or half written.
            return self.replace(|_, new| new.write_all(bytes));
        };
        let line = self.ledger.as_mut();
        let line = line.map(|ledger| ledger.begin_write(at, bytes, old_end));
        let written = open
            .file
            .write_all_at(bytes, at)
            .and_then(|()| open.file.sync_data())
            .map_err(|error| failed(&self.path, "write", &error));
        let remembered = line.map_or(Ok(()), FileLineOnItsWay::wait);
        if let Err(error) = written.and(remembered) {
            // First cut, then mend: what a crash between the two leaves is a file whose end is missing.
            let mended = open
                .file
                .set_len(at)
                .and_then(|()| open.file.write_all_at(old_end, at));
            drop(mended);
            return Err(error);
        }
        open.length = at + bytes.len() as u64;
        self.counts();
        Ok(())
    }

    /// Replaces the file as a whole: readers and crashes see all of the old one or all of the new one.
    /// `fill` gets the old bytes to read and writes the new ones.
    pub(crate) fn replace(
        &mut self,
        fill: impl FnOnce(FileReader<'_>, &mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<()> {
        self.check_unchanged()?;
        create_folders(&self.path).map_err(|error| cannot_open(&self.path, &error))?;
        let beside = beside(&self.path, ".new");
        let replaced = self.fill_and_rename(&beside, fill);
        if replaced.is_err() {
            drop(fs::remove_file(&beside));
        }
        let new = replaced.map_err(|error| match (&self.open, error.kind()) {
            (None, io::ErrorKind::PermissionDenied) => cannot_open(&self.path, &error),
            _ => self.failed("write", &error),
        })?;
        let first = self.open.replace(new).is_none();
        sync_folder(&self.path).map_err(|error| {
            if first {
                // Its rows do not count as stored: they must not be seen.
                self.open = None;
                drop(fs::remove_file(&self.path));
            }
            self.failed("write", &error)
        })?;
        self.counts();
        Ok(())
    }

    fn fill_and_rename(
        &mut self,
        beside: &Path,
        fill: impl FnOnce(FileReader<'_>, &mut BufWriter<&File>) -> io::Result<()>,
    ) -> io::Result<Open> {
        match fs::remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = new_file(beside)?;
        if let Some(old) = &self.open {
            file.set_permissions(old.file.metadata()?.permissions())?;
        }
        let mut writer = BufWriter::with_capacity(CHUNK, &file);
        fill(self.reader(0), &mut writer)?;
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        lock(&file)?;
        let open = Open::new(&file.metadata()?, file);
        let length_before = self.length();
        if let Some(ledger) = &mut self.ledger {
            let line = ledger.begin_replace(open.inode, open.length, length_before);
            line.wait().map_err(io::Error::other)?;
        }
        match &self.open {
            Some(_) => fs::rename(beside, &self.path)?,
            None => rename_new(beside, &self.path)?,
        }
        Ok(open)
    }

    /// Cuts the file at a position and puts `end` there. With `keep`, what is cut off is first copied to
    /// a file beside it, whose path is returned.
    pub(crate) fn cut(&mut self, at: u64, end: &[u8], keep: bool) -> Result<Option<PathBuf>> {
        self.cut_open(at, end, keep)
            .map_err(|error| self.failed("repair", &error))
    }

    fn cut_open(&mut self, at: u64, end: &[u8], keep: bool) -> io::Result<Option<PathBuf>> {
        let kept = if keep {
            Some(self.keep_aside(at)?)
        } else {
            None
        };
        if let Some(open) = &mut self.open {
            open.file.set_len(at)?;
            open.file.write_all_at(end, at)?;
            open.file.sync_data()?;
            open.length = at + end.len() as u64;
        }
        Ok(kept)
    }

    /// Copies everything from a position on to a new file beside this one, named after the time at which
    /// this one was last written.
    fn keep_aside(&self, from: u64) -> io::Result<PathBuf> {
        let metadata = fs::symlink_metadata(&self.path)?;
        let time = jiff::Timestamp::from_second(metadata.mtime()).unwrap_or_default();
        let name = format!(".corrupt-{}", time.strftime("%Y%m%dT%H%M%SZ"));
        let mut number = 1;
        let (path, file) = loop {
            let path = match number {
                1 => beside(&self.path, &name),
                _ => beside(&self.path, &format!("{name}-{number}")),
            };
            match new_file(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        io::copy(&mut self.reader(from), &mut &file)?;
        file.sync_all()?;
        sync_folder(&path)?;
        Ok(path)
    }

    /// Refuses to go on when the file is not the one that was opened, as it was left.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let now = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.failed("look at", &error)),
        };
        let what = match (&self.open, now) {
            (None, None) => return Ok(()),
            (Some(open), Some(now)) if !open.is(&now) => "replaced",
            (Some(open), Some(now)) if open.length != now.len() => "changed",
            (Some(_), Some(_)) => return Ok(()),
            (Some(_), None) => "removed",
            (None, Some(_)) => "made",
        };
        Err(Error::remote(format!(
            "`{}` was {what} by another program; it is opened again",
            self.path.display()
        )))
    }

    /// What a failed call on this file is told as.
    pub(crate) fn failed(&self, action: &str, error: &io::Error) -> Error {
        failed(&self.path, action, error)
    }
}

impl Open {
    fn of(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| cannot_open(path, &error))?;
        if !metadata.is_file() {
            return Err(Error::config(format!(
                "`{}` is not a file: move it away, or use another folder",
                path.display()
            )));
        }
        lock(&file).map_err(|error| cannot_open(path, &error))?;
        Ok(Self::new(&metadata, file))
    }

    fn new(metadata: &Metadata, file: File) -> Self {
        Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
        }
    }

    fn is(&self, other: &Metadata) -> bool {
        (self.device, self.inode) == (other.dev(), other.ino())
    }
}

impl Drop for Open {
    /// Said aloud, because a child process that is just being started may still hold the file too.
    fn drop(&mut self) {
        drop(self.file.unlock());
    }
}

/// Reads a file's committed bytes by position, so that readers do not disturb each other.
#[derive(Debug)]
pub(crate) struct FileReader<'a> {
    file: Option<&'a File>,
    at: u64,
    end: u64,
}

impl FileReader<'_> {
    /// With a buffer, for reading a whole file.
    pub(crate) fn buffered(self) -> io::BufReader<Self> {
        io::BufReader::with_capacity(CHUNK, self)
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let Some(file) = self.file.filter(|_| most > 0) else {
            return Ok(0);
        };
        let read = file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reports what a storage in files cannot do.
pub(crate) fn check(folder: &str, place: &StoragePlace, node: &Node, cx: &mut CheckCx<'_>) {
    if place.key.is_some() {
        let message = "`key` needs a storage that can find a row".to_owned();
        cx.reading
            .error_with_help(node.span, message, "possible: `sqlite`");
    }
    if folder.contains('\0') {
        cx.reading
            .error(node.span, "a folder's name has no zero byte");
    }
}

/// Gives a file its name, unless somebody has made one of that name meanwhile.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Makes a file that was not there: neither a link nor another's file is written through.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
}

/// One writer for each file; where the file system knows no locks, nothing is known of others.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// The path of a file with more letters at its end.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

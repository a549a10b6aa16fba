//! How far the data files of storages are committed.
//!
//! A line tells of two commits of a file: the last that is known to be on the disk, and the one that is on its way
//! there at the same time as the line. After a crash the file itself says which of the two it is: its bytes have the
//! digest of the later one, or they have not.

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;
use wiredflow_core::Result;
use wiredflow_core::storage::Cursor;

use super::failure::Failure;
use super::{StateHandle, of_count, to_count};

/// One commit of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileCommit {
    /// Where the bytes that it wrote begin.
    pub from: u64,
    /// The file's length after it.
    pub length: u64,
    /// Where the bytes end that its digest is of: what closes the file behind them is written over by the next.
    pub digested: u64,
    /// The digest of the bytes from `from` to `digested`.
    pub digest: Vec<u8>,
    /// The bytes that stood from `from` on before.
    pub old_end: Vec<u8>,
    /// The file that it put in the old one's place; none where it wrote into the old one.
    pub inode: Option<u64>,
    /// Where sources stood. In a line that is to be kept, those are enough that it moves, and that the line before it has
    /// moved.
    pub cursors: Vec<Cursor>,
}

/// What is known of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLine {
    /// The commit that is on its way to the disk.
    pub now: FileCommit,
    /// The length of the file before it.
    pub length_before: u64,
    /// Where sources stood before it.
    pub cursors_before: Vec<Cursor>,
}

/// A line on its way to the disk.
#[derive(Debug)]
#[must_use = "nothing is safe before it is waited for"]
pub struct FileLineOnItsWay {
    answer: oneshot::Receiver<Result<(), Failure>>,
    handle: StateHandle,
}

impl StateHandle {
    /// What is known of the file of that name. Blocks until the disk has answered; not for tasks of the runtime.
    pub fn file_line(&self, name: &str) -> Result<Option<FileLine>> {
        let key = name.to_owned();
        let answer = self
            .writer
            .call_blocking(move |connection| read(connection, &key));
        self.writer.answered_blocking(answer)
    }

    /// Begins to keep a line; does not wait for the disk. Not for tasks of the runtime.
    pub fn keep_file_line(&self, name: &str, line: FileLine) -> FileLineOnItsWay {
        let key = name.to_owned();
        FileLineOnItsWay {
            answer: self
                .writer
                .call_blocking(move |connection| write(connection, &key, &line)),
            handle: self.clone(),
        }
    }
}

impl FileLineOnItsWay {
    /// Waits until the disk has it.
    ///
    /// # Errors
    /// As every call of the state.
    pub fn wait(self) -> Result<()> {
        self.handle.writer.answered_blocking(self.answer)
    }
}

fn read(connection: &Connection, name: &str) -> Result<Option<FileLine>, Failure> {
    let line = connection
        .prepare_cached(
            "SELECT from_byte, length, digested, digest, old_end, inode, length_before FROM files
             WHERE name = ?1",
        )?
        .query_row([name], |row| {
            Ok(FileLine {
                now: FileCommit {
                    from: to_count(row.get(0)?),
                    length: to_count(row.get(1)?),
                    digested: to_count(row.get(2)?),
                    digest: row.get(3)?,
                    old_end: row.get(4)?,
                    inode: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
                    cursors: Vec::new(),
                },
                length_before: to_count(row.get(6)?),
                cursors_before: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut line) = line else {
        return Ok(None);
    };
    let mut statement = connection.prepare_cached(
        "SELECT source, position, position_before FROM file_cursors WHERE name = ?1 ORDER BY source",
    )?;
    let mut rows = statement.query([name])?;
    while let Some(row) = rows.next()? {
        let source: String = row.get(0)?;
        let cursor = |position: Option<String>| {
            let source = source.clone();
            position.map(|position| Cursor { source, position })
        };
        line.now.cursors.extend(cursor(row.get(1)?));
        line.cursors_before.extend(cursor(row.get(2)?));
    }
    Ok(Some(line))
}

fn write(connection: &Connection, name: &str, line: &FileLine) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO files
                 (name, from_byte, length, digested, digest, old_end, inode, length_before)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET from_byte = excluded.from_byte, length = excluded.length,
                 digested = excluded.digested, digest = excluded.digest, old_end = excluded.old_end,
                 inode = excluded.inode, length_before = excluded.length_before",
        )?
        .execute((
            name,
            of_count(line.now.from),
            of_count(line.now.length),
            of_count(line.now.digested),
            &line.now.digest,
            &line.now.old_end,
            line.now.inode.map(u64::cast_signed),
            of_count(line.length_before),
        ))?;
    // What only a commit has said that did not count, and this line does not say.
    connection
        .prepare_cached("DELETE FROM file_cursors WHERE name = ?1 AND position_before IS NULL")?
        .execute([name])?;
    let mut keep = connection.prepare_cached(
        "INSERT INTO file_cursors (name, source, position, position_before) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET position = excluded.position,
             position_before = excluded.position_before
         WHERE position IS NOT excluded.position OR position_before IS NOT excluded.position_before",
    )?;
    for cursor in &line.now.cursors {
        let before = line.cursors_before.iter();
        let before = before
            .filter(|before| before.source == cursor.source)
            .map(|before| before.position.as_str())
            .next();
        keep.execute((name, &cursor.source, &cursor.position, before))?;
    }
    Ok(())
}

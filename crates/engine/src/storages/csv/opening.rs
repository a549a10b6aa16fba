//! Bringing a table back to its last whole row, and reading its header.

use std::io::Read;

use ::csv::{ByteRecord, ReaderBuilder, StringRecord, Terminator};
use wiredflow_core::{Error, Result};

use super::columns::Columns;
use crate::files::DataFile;
use crate::storages::Left;

/// How much of a file's end is looked at first.
const WINDOW: usize = 1 << 16;

/// So many whole rows that do not fit the header are a table of another making, not a torn end.
const STRANGE_ROWS: usize = 100;

/// What the first line says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) columns: Columns,
    pub(super) terminator: Terminator,
}

impl Header {
    /// That of a file without one.
    pub(super) fn none(guarded: bool) -> Self {
        Self {
            columns: Columns::none(guarded),
            terminator: Terminator::CRLF,
        }
    }
}

/// Cuts off what a crash has torn and keeps it in a file beside this one; gives the header, `None` when
/// there is none. A last line that is whole but for its end is given one, where no crash can have torn it.
///
/// A line end may stand in quotes, so that all quotes of the file are counted: once at each opening, at
/// the speed of reading.
///
/// # Errors
/// `Config`, naming the line, when it is a table of another making: it is left as it is.
pub(super) fn recover(file: &mut DataFile, left: Left, guarded: bool) -> Result<Option<Header>> {
    let mut scan = scan(file)?;
    if scan.header_end.is_none() && scan.begun && left == Left::InOrder && scan.is_paired() {
        file.write_end(b"\r\n", b"")?;
        scan.header_end = Some(file.length() - 1);
    }
    let Some(end) = scan.header_end else {
        if file.length() > 0 {
            cut(file, 0)?;
        }
        return Ok(None);
    };
    let (header, columns) = read_header(file, end, guarded)?;
    let last = match scan.is_paired() {
        true => last_line(file, end, columns)?,
        false => LastLine::Torn,
    };
    match last {
        LastLine::Whole => {}
        LastLine::WithoutEnd if left == Left::InOrder => {
            let line_end: &[u8] = match header.terminator {
                Terminator::CRLF => b"\r\n",
                _ => b"\n",
            };
            file.write_end(line_end, b"")?;
        }
        LastLine::WithoutEnd | LastLine::Torn => {
            let end = last_row(file, end, columns)?;
            if end < file.length() {
                cut(file, end)?;
            }
        }
    }
    Ok(Some(header))
}

/// What a file ends with.
enum LastLine {
    /// A whole row, or its header.
    Whole,
    /// What would be a whole row if its line ended.
    WithoutEnd,
    Torn,
}

struct Scan {
    quotes: usize,
    /// Whether there is anything but blanks.
    begun: bool,
    /// Where the first row may begin.
    header_end: Option<u64>,
}

impl Scan {
    fn is_paired(&self) -> bool {
        self.quotes.is_multiple_of(2)
    }
}

fn scan(file: &DataFile) -> Result<Scan> {
    let mut reader = file.reader(0);
    let mut chunk = vec![0; 1 << 17];
    let mut scan = Scan {
        quotes: 0,
        begun: false,
        header_end: None,
    };
    let mut at: u64 = 0;
    loop {
        let read = reader
            .read(&mut chunk)
            .map_err(|error| file.failed("read", &error))?;
        let mut rest = &chunk[..read];
        if rest.is_empty() {
            return Ok(scan);
        }
        while scan.header_end.is_none()
            && let [byte, after @ ..] = rest
        {
            at += 1;
            rest = after;
            match byte {
                b'"' => scan.quotes += 1,
                b'\n' | b'\r' if scan.begun && scan.quotes.is_multiple_of(2) => {
                    scan.header_end = Some(at)
                }
                _ => {}
            }
            scan.begun |= !byte.is_ascii_whitespace();
        }
        scan.quotes += rest.iter().filter(|byte| **byte == b'"').count();
    }
}

/// The header, and how many columns it has.
fn read_header(file: &DataFile, end: u64, guarded: bool) -> Result<(Header, usize)> {
    let path = file.path().display();
    let bytes = file.read_range(0, usize::try_from(end).unwrap_or(usize::MAX))?;
    let crlf = bytes.ends_with(b"\r");
    let refused = |reason: String| {
        Error::config(format!(
            "`{path}` has no header that fits: {reason}; move it away, or use another folder"
        ))
    };
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .from_reader(&bytes[..]);
    let mut record = StringRecord::new();
    reader
        .read_record(&mut record)
        .map_err(|error| refused(error.to_string()))?;
    let columns = Columns::of(&record, guarded)
        .map_err(|name| refused(format!("line 1 has the column `{name}` twice")))?;
    let terminator = if crlf {
        Terminator::CRLF
    } else {
        Terminator::Any(b'\n')
    };
    let header = Header {
        columns,
        terminator,
    };
    Ok((header, record.len()))
}

/// How the file ends. Its quotes are paired.
fn last_line(file: &DataFile, header_end: u64, columns: usize) -> Result<LastLine> {
    let after = usize::try_from(file.length() - header_end).unwrap_or(usize::MAX);
    let mut window = WINDOW.min(after);
    loop {
        let bytes = file.read_range(file.length() - window as u64, window)?;
        let (body, sound) = match bytes.as_slice() {
            [] | [b'\n'] => return Ok(LastLine::Whole),
            [body @ .., b'\r', b'\n'] | [body @ .., b'\r' | b'\n'] => (body, LastLine::Whole),
            body => (body, LastLine::WithoutEnd),
        };
        let mut quoted = false;
        let newline = body.iter().rposition(|byte| {
            quoted ^= *byte == b'"';
            !quoted && (*byte == b'\n' || *byte == b'\r')
        });
        match newline {
            None if window < after => window = window.saturating_mul(4).min(after),
            _ => {
                let line = &body[newline.map_or(0, |newline| newline + 1)..];
                return Ok(match is_row(line, columns) {
                    true => sound,
                    false => LastLine::Torn,
                });
            }
        }
    }
}

fn is_row(bytes: &[u8], columns: usize) -> bool {
    let mut reader = ReaderBuilder::new().has_headers(false).from_reader(bytes);
    let mut row = StringRecord::new();
    reader
        .read_record(&mut row)
        .is_ok_and(|any| any && row.len() == columns)
}

/// Reads the whole table for the end of its last whole row, or of its header.
fn last_row(file: &DataFile, header_end: u64, columns: usize) -> Result<u64> {
    let mut reader = ReaderBuilder::new()
        .flexible(true)
        .from_reader(file.reader(0).buffered());
    let mut row = ByteRecord::new();
    let mut end = header_end;
    let mut strange = 0;
    let failed = |error: ::csv::Error| file.failed("read", &error.into());
    reader.byte_headers().map_err(failed)?;
    loop {
        let start = reader.position().byte();
        if !reader.read_byte_record(&mut row).map_err(failed)? {
            break;
        }
        let stop = reader.position().byte();
        if stop == file.length() && !is_terminated(file, start)? {
            break;
        }
        let text = StringRecord::from_byte_record(row.clone()).is_ok();
        if row.len() == columns && text {
            end = stop;
            strange = 0;
            continue;
        }
        if text && !row.as_slice().contains(&0) {
            strange += 1;
        }
        if strange > STRANGE_ROWS || (strange > 0 && end == header_end) {
            return Err(Error::config(format!(
                "`{}` has rows that do not fit its header of {columns} columns, before line {}; move it \
                 away, or use another folder",
                file.path().display(),
                reader.position().line()
            )));
        }
        if file.length() - start <= WINDOW as u64 {
            break;
        }
    }
    // The reader stops between the two bytes of a line end.
    let rest = usize::try_from((file.length() - end + 1).min(2)).unwrap_or(2);
    let between = file.read_range(end - 1, rest)? == b"\r\n";
    Ok(end + u64::from(between))
}

/// Whether the last bytes of the file are a row with its line end, and not the inside of quotes.
fn is_terminated(file: &DataFile, start: u64) -> Result<bool> {
    let length = usize::try_from(file.length() - start).unwrap_or(usize::MAX);
    let bytes = file.read_range(start, length)?;
    let quotes = bytes.iter().filter(|byte| **byte == b'"').count();
    Ok(quotes.is_multiple_of(2) && matches!(bytes.last(), Some(b'\n' | b'\r')))
}

fn cut(file: &mut DataFile, at: u64) -> Result<()> {
    let bytes = file.length() - at;
    let mut start = Vec::new();
    let read = file.reader(at).take(64).read_to_end(&mut start);
    read.map_err(|error| file.failed("read", &error))?;
    let blank = bytes <= 64 && start.trim_ascii().is_empty();
    let kept = file.cut(at, b"", !blank)?;
    let file = file.path().display();
    if let Some(kept) = kept {
        tracing::warn!(
            %file, bytes, kept = %kept.display(),
            "the file's end was torn: it is cut back to the last whole row, and the rest is kept beside it"
        );
    }
    Ok(())
}

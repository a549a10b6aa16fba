//! Bringing a file of records back to its last whole record, by looking at its end alone.

use std::io::{BufRead, Read};

use wiredflow_core::storage::Mapping;
use wiredflow_core::{Error, Result, Value};

use super::DataFile;
use super::layout::{ARRAY, BYTE_ORDER_MARK, Layout, is_object, one_per_line, validate_array};

/// How much of a file's end is looked at first; four times as much whenever that holds no record.
const WINDOW: usize = 1 << 16;

/// Brings the file into the layout, ending after its last whole record; gives that record's end, `None`
/// when there is no record.
///
/// What a crash has torn is cut off and kept in a file beside it. An array in another layout is rewritten.
///
/// # Errors
/// `Config`, naming the line, when the file was never of this kind: it is left as it is.
pub(super) fn recover(
    file: &mut DataFile,
    layout: &Layout,
    mapping: Mapping,
) -> Result<Option<u64>> {
    if file.length() == 0 || is_empty_of(file, layout)? {
        return Ok(None);
    }
    if let Some(end) = sound_end(file, layout)? {
        return Ok(Some(end));
    }
    if is_blank(file)? {
        file.cut(0, b"", false)?;
        return Ok(None);
    }
    let refusal = match adopt(file, layout, mapping)? {
        Adopted::Yes => return sound_end(file, layout),
        Adopted::No(refusal) => refusal,
    };
    if !begins_well(file, layout)? {
        return Err(refusal);
    }
    let last = last_record(file, layout)?;
    cut_torn(file, layout, last)?;
    Ok(last)
}

/// Whether the file is as good as empty: a line end of somebody's editor.
fn is_blank(file: &DataFile) -> Result<bool> {
    let length = file.length().min(64);
    let bytes = file.read_range(0, usize::try_from(length).unwrap_or(64))?;
    Ok(file.length() < 64 && bytes.trim_ascii().is_empty())
}

enum Adopted {
    Yes,
    /// And why not.
    No(Error),
}

/// Rewrites a JSON array that somebody else has written, as one record on each line.
pub(super) fn adopt_array(file: &mut DataFile) -> Result<()> {
    match adopt(file, &ARRAY, Mapping::Extend)? {
        Adopted::Yes => Ok(()),
        Adopted::No(refusal) => Err(refusal),
    }
}

fn adopt(file: &mut DataFile, layout: &Layout, mapping: Mapping) -> Result<Adopted> {
    let path = file.path().display().to_string();
    if *layout != ARRAY {
        return Ok(Adopted::No(Error::config(format!(
            "`{path}` does not hold JSON lines: line 1 is not JSON; move it away, or use another folder"
        ))));
    }
    let start = start(file)?;
    // Upstream's `update` and `overwrite` leave the bare object of a single record.
    let object = mapping != Mapping::Extend && is_object(file.reader(start).buffered());
    if let Err(error) = validate_array(file.reader(start).buffered())
        && !object
    {
        if error.is_io() {
            return Err(file.failed("read", &error.into()));
        }
        return Ok(Adopted::No(Error::config(format!(
            "`{path}` is not a JSON array: {error}; move it away, or use another folder"
        ))));
    }
    tracing::info!(file = %path, "the file was written by another program: it is rewritten once");
    file.replace(|mut old, new| {
        std::io::copy(
            &mut Read::by_ref(&mut old).take(start),
            &mut std::io::sink(),
        )?;
        one_per_line(old.buffered(), new)
    })?;
    Ok(Adopted::Yes)
}

/// Cuts off everything after the last record and closes the file there.
fn cut_torn(file: &mut DataFile, layout: &Layout, last: Option<u64>) -> Result<()> {
    let (at, end) = match last {
        Some(end) => (end, layout.close.to_owned()),
        None => (0, [layout.open, layout.close_empty].concat()),
    };
    let bytes = file.length() - at;
    // A part of the layout alone is nobody's data.
    let mut start = Vec::new();
    let read = file.reader(at).take(8).read_to_end(&mut start);
    read.map_err(|error| file.failed("read", &error))?;
    let keep = bytes > 8 || !start.iter().all(|byte| b"[\n,] \r".contains(byte));
    let kept = file.cut(at, end.as_bytes(), keep)?;
    let file = file.path().display();
    match kept {
        Some(kept) => tracing::warn!(
            %file, bytes, kept = %kept.display(),
            "the file's end was torn: it is cut back to the last whole record, and the rest is kept beside it"
        ),
        None => {
            tracing::warn!(%file, "the file's end was torn after its last record: it is mended")
        }
    }
    Ok(())
}

/// Whether the file is in the layout and holds no record.
fn is_empty_of(file: &DataFile, layout: &Layout) -> Result<bool> {
    let empty = [layout.open, layout.close_empty].concat();
    Ok(file.length() == empty.len() as u64 && file.read_range(0, empty.len())? == empty.as_bytes())
}

/// The end of the last record of a file that begins and ends as it should.
fn sound_end(file: &DataFile, layout: &Layout) -> Result<Option<u64>> {
    let open = layout.open.as_bytes();
    if file.length() <= open.len() as u64 || file.read_range(0, open.len())? != open {
        return Ok(None);
    }
    in_window(file, |bytes, from_start| {
        let Some(body) = bytes.strip_suffix(layout.close.as_bytes()) else {
            return Found::Nothing;
        };
        let start = match body.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if from_start => 0,
            None => return Found::LookFurther,
        };
        let whole = follows_another(&bytes[..start], from_start, layout)
            && layout
                .record(&body[start..])
                .is_some_and(|record| record.len() == body.len() - start && is_json(record));
        if whole && !bytes.contains(&0) {
            Found::End(body.len())
        } else {
            Found::Nothing
        }
    })
}

/// Whether this file was begun by this storage: its first record is a whole one, or all that there is.
fn begins_well(file: &DataFile, layout: &Layout) -> Result<bool> {
    let open = layout.open.as_bytes();
    let mut line = Vec::new();
    let mut reader = file.reader(0).buffered();
    let read = Read::by_ref(&mut reader)
        .take(open.len() as u64)
        .read_to_end(&mut line);
    read.map_err(|error| file.failed("read", &error))?;
    if !open.starts_with(&line) {
        return Ok(false);
    }
    line.clear();
    let read = reader.read_until(b'\n', &mut line);
    read.map_err(|error| file.failed("read", &error))?;
    let indented = *layout == ARRAY && line.first().is_some_and(u8::is_ascii_whitespace);
    let whole = match layout.record(&line) {
        Some(record) => is_json(record),
        None => true,
    };
    Ok(!line.ends_with(b"\n") || (whole && !indented))
}

/// The end of the last record before the first torn one at the file's end.
fn last_record(file: &DataFile, layout: &Layout) -> Result<Option<u64>> {
    in_window(file, |bytes, from_start| {
        match last_record_in(bytes, from_start, layout) {
            Some(end) => Found::End(end),
            None if from_start => Found::Nothing,
            None => Found::LookFurther,
        }
    })
}

enum Found {
    /// A record ends here, counted from the window's start.
    End(usize),
    Nothing,
    LookFurther,
}

/// Looks at the last bytes of a file, at more of them whenever that was not enough. `look` gets the
/// bytes, and whether they begin where the file does.
fn in_window(file: &DataFile, mut look: impl FnMut(&[u8], bool) -> Found) -> Result<Option<u64>> {
    let length = usize::try_from(file.length()).unwrap_or(usize::MAX);
    let mut window = WINDOW.min(length);
    loop {
        let start = file.length() - window as u64;
        match look(&file.read_range(start, window)?, start == 0) {
            Found::End(end) => return Ok(Some(start + end as u64)),
            Found::LookFurther if start > 0 => window = window.saturating_mul(4).min(length),
            Found::LookFurther | Found::Nothing => return Ok(None),
        }
    }
}

/// Whether a record may begin after these bytes.
fn follows_another(before: &[u8], from_start: bool, layout: &Layout) -> bool {
    *layout != ARRAY
        || before.ends_with(ARRAY.separator.as_bytes())
        || (from_start && before == ARRAY.open.as_bytes())
}

/// Reads lines from the first that begins in the window to the first that is torn.
fn last_record_in(bytes: &[u8], from_start: bool, layout: &Layout) -> Option<usize> {
    let mut start = match from_start {
        true => layout.open.len(),
        false => bytes.iter().position(|byte| *byte == b'\n')? + 1,
    };
    // A zero byte stands in no JSON: after a power cut it stands where bytes did not reach the disk.
    let zero = bytes.iter().position(|byte| *byte == 0);
    let limit = zero.unwrap_or(bytes.len());
    let mut last = None;
    while start < limit && follows_another(&bytes[..start], from_start, layout) {
        let newline = bytes[start..limit].iter().position(|byte| *byte == b'\n');
        let end = newline.map_or(limit, |newline| start + newline);
        let line = &bytes[start..end];
        if let Some(record) = layout.record(line) {
            // `12` may be all that is left of `123`.
            let certain = newline.is_some()
                || line.len() > record.len()
                || !record.last().is_some_and(u8::is_ascii_digit);
            if !certain || !is_json(record) {
                break;
            }
            let mark = line
                .starts_with(BYTE_ORDER_MARK)
                .then_some(BYTE_ORDER_MARK.len());
            last = Some(start + mark.unwrap_or(0) + record.len());
        }
        start = end + 1;
    }
    last
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok()
}

/// Where the text begins: after a byte order mark.
fn start(file: &DataFile) -> Result<u64> {
    let mut bytes = Vec::new();
    let read = file.reader(0).take(3).read_to_end(&mut bytes);
    read.map_err(|error| file.failed("read", &error))?;
    let marked = bytes == BYTE_ORDER_MARK;
    Ok(if marked { 3 } else { 0 })
}

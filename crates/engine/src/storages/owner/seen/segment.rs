//! How a segment of what is known of deliveries is kept as text.

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::{Entry, SEGMENT};

/// The bytes of a delivery's print that are kept: within a session its place tells it already.
const PRINT: usize = 2;

/// A segment as it was kept.
pub(super) struct Segment {
    pub(super) session: u64,
    pub(super) number: u64,
    /// What is stored of the deliveries, with their places.
    pub(super) entries: Vec<(u32, Entry)>,
}

impl Segment {
    /// From its text; none for one that [`text`] did not write.
    pub(super) fn read(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).ok()?;
        let (session, rest) = bytes.split_first_chunk()?;
        let (number, mut rest) = rest.split_first_chunk()?;
        let mut segment = Self {
            session: u64::from_le_bytes(*session),
            number: u64::from_le_bytes(*number),
            entries: Vec::new(),
        };
        while !rest.is_empty() {
            let first = read_number(&mut rest)?;
            let count = read_number(&mut rest)?;
            let rows = read_number(&mut rest)?;
            let (prints, behind) = rest.split_at_checked((count as usize).checked_mul(PRINT)?)?;
            rest = behind;
            for (place, print) in (0..count).zip(prints.as_chunks::<PRINT>().0) {
                let entry = Entry {
                    print: u16::from_le_bytes(*print),
                    rows,
                    ..Entry::default()
                };
                segment.entries.push((first.wrapping_add(place), entry));
            }
        }
        Some(segment).filter(|segment| segment.entries.len() as u64 <= SEGMENT)
    }
}

/// A segment as it is kept: the session, its number, then runs of deliveries whose places follow each other and that have
/// as many rows.
pub(super) fn text<'e>(
    session: u64,
    number: u64,
    entries: impl Iterator<Item = (u32, &'e Entry)>,
) -> String {
    let mut entries = entries.peekable();
    let mut bytes = Vec::with_capacity(SEGMENT as usize * PRINT + 64);
    bytes.extend_from_slice(&session.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    let mut prints = Vec::new();
    while let Some((first, entry)) = entries.next() {
        prints.clear();
        prints.extend_from_slice(&entry.print.to_le_bytes());
        let mut next = first.wrapping_add(1);
        while let Some((_, follower)) =
            entries.next_if(|(place, other)| *place == next && other.rows == entry.rows)
        {
            prints.extend_from_slice(&follower.print.to_le_bytes());
            next = next.wrapping_add(1);
        }
        write_number(first, &mut bytes);
        write_number((prints.len() / PRINT) as u32, &mut bytes);
        write_number(entry.rows, &mut bytes);
        bytes.extend_from_slice(&prints);
    }
    BASE64_STANDARD_NO_PAD.encode(bytes)
}

/// Seven bits in each byte, the lowest first.
fn write_number(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number: u32 = 0;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

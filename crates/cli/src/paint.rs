//! Colours, and making text safe to show.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Whether and how text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Plain text.
    Plain,
    /// With the terminal's colours.
    Colours,
}

/// A colour or weight, as the terminal knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Cyan,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "1;31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Blue => "1;34",
            Self::Cyan => "36",
        }
    }
}

impl Paint {
    /// The text in a colour, or as it is.
    pub(crate) fn with(self, ink: Ink, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colours => format!("\x1b[{}m{text}\x1b[0m", ink.code()),
        }
    }
}

/// The text with every character escaped that could move the cursor, change colours, break a line or
/// turn the direction of writing: what comes from outside cannot forge a line of ours.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            other if is_unsafe(other) => push_escaped(&mut safe, other),
            other => safe.push(other),
        }
    }
    Cow::Owned(safe)
}

/// As [`printable`], but lines stay lines; each but the first begins with `margin`.
pub(crate) fn printable_lines(text: &str, margin: &str) -> String {
    let mut lines = text.trim_end().split('\n');
    let mut safe = printable_line(lines.next().unwrap_or_default());
    for line in lines {
        safe.push('\n');
        safe.push_str(margin);
        safe.push_str(&printable_line(line));
    }
    safe
}

/// One line, its tabs as four spaces.
fn printable_line(line: &str) -> String {
    let line = line.strip_suffix('\r').unwrap_or(line);
    printable(&line.replace('\t', "    ")).into_owned()
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_escaped(text: &mut String, character: char) {
    text.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
}

/// How many columns the text takes on a terminal; it has no colours in it.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text, cut with `…` when it is wider than `most` columns; it has no colours in it.
pub(crate) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if width(text) <= most {
        return Cow::Borrowed(text);
    }
    let mut short = String::new();
    let mut room = most.saturating_sub(1);
    for character in text.chars() {
        let wide = character.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        short.push(character);
    }
    if most > 0 {
        short.push('…');
    }
    Cow::Owned(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h8_what_comes_from_outside_moves_no_cursor_and_begins_no_line() {
        let forged = "ok\n2026-01-01 ERROR\x1b[31m\r\u{9b}2J\u{202e}x\t\u{7f}";
        assert_eq!(
            printable(forged),
            "ok\\n2026-01-01 ERROR\\u{1b}[31m\\r\\u{9b}2J\\u{202e}x\\t\\u{7f}"
        );
        assert_eq!(printable_lines("a\r\nb\x07\n", "  | "), "a\n  | b\\u{7}");
        assert!(matches!(printable("plain ü 漢"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_text_is_cut_by_columns_and_not_by_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("漢漢漢漢", 6), "漢漢…");
        assert_eq!(cut("abc", 0), "");
    }
}

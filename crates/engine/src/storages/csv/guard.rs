//! Texts that a spreadsheet would take for formulas.
//!
//! They are written with a `'` before them, which spreadsheets show as text. So are texts that begin with such a
//! mark already: what is read is what was written.

const MARK: char = '\'';

/// Whether a text must be marked.
pub(super) fn needs_mark(text: &str) -> bool {
    begins_formula(text) || text.strip_prefix(MARK).is_some_and(needs_mark)
}

/// The text with its mark.
pub(super) fn marked(text: &str) -> String {
    format!("{MARK}{text}")
}

/// The text without its mark, if it has one.
pub(super) fn unmarked(text: &str) -> &str {
    match text.strip_prefix(MARK) {
        Some(rest) if needs_mark(rest) => rest,
        Some(_) | None => text,
    }
}

fn begins_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b12_a_mark_is_put_before_formulas_alone_and_taken_away_again() {
        for text in ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "''@"] {
            assert!(needs_mark(text), "{text:?}");
            assert_eq!(unmarked(&marked(text)), text);
        }
        for text in ["", "x", "1-1", "'", "'x", " =1", "it's"] {
            assert!(!needs_mark(text), "{text:?}");
            assert_eq!(unmarked(text), text);
        }
    }
}

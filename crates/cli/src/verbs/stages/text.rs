//! The catalogue on a terminal.

use crate::paint::{Ink, Paint, cut, width};

use super::cards::{Key, Kind, Role};

/// How wide text is broken where the terminal is wider or unknown.
const WIDEST: usize = 100;

/// Each kind with its first sentence.
pub(super) fn list(kinds: &[Kind], columns: Option<usize>, paint: Paint) -> String {
    let columns = columns.unwrap_or(usize::MAX);
    let longest = kinds
        .iter()
        .map(|kind| kind.card.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for role in Role::ALL {
        let mut of_role = kinds.iter().filter(|kind| kind.role == role).peekable();
        if of_role.peek().is_none() {
            continue;
        }
        let head = paint.with(Ink::Bold, &capital(role.word()));
        let place = paint.with(Ink::Dim, &format!("({})", role.place()));
        text.push_str(&format!("{head} {place}\n"));
        for kind in of_role {
            let name = format!("{:<longest$}", kind.card.name);
            let summary = kind.summary();
            let summary = cut(&summary, columns.saturating_sub(longest + 4));
            text.push_str(&format!("  {}  {summary}\n", paint.with(Ink::Cyan, &name)));
        }
        text.push('\n');
    }
    text.push_str("`wiredflow stages KIND` shows one with all its keys and an example.\n");
    text
}

/// All of the kinds: their keys and examples.
pub(super) fn details(kinds: &[Kind], columns: Option<usize>, paint: Paint) -> String {
    let columns = columns.unwrap_or(WIDEST).min(WIDEST);
    let mut text = String::new();
    for (index, kind) in kinds.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        text.push_str(&one(kind, columns, paint));
    }
    text
}

fn one(kind: &Kind, columns: usize, paint: Paint) -> String {
    let name = paint.with(Ink::Cyan, kind.card.name);
    let role = paint.with(Ink::Dim, &format!("({})", kind.role.singular()));
    let mut text = format!("{name} {role}\n{}\n", wrapped(&kind.doc(), columns, ""));
    if let Some(short) = kind.card.short {
        let form = format!(
            "Short form: `{}: VALUE` stands for `{}: {{{short}: VALUE}}`.",
            kind.card.name, kind.card.name
        );
        text.push_str(&format!("{}\n", wrapped(&form, columns, "")));
    }
    text.push_str(&format!("\n{}\n", paint.with(Ink::Bold, "Keys")));
    for key in kind.fields() {
        text.push_str(&described(&key, columns, paint));
    }
    text.push_str(&format!("\n{}\n", paint.with(Ink::Bold, "Example")));
    for line in kind.card.example.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

fn described(key: &Key, columns: usize, paint: Paint) -> String {
    let name = paint.with(Ink::Cyan, key.name);
    let note = paint.with(Ink::Dim, &note(key));
    let doc = wrapped(&key.doc, columns.saturating_sub(6), "      ");
    format!("  {name}  {note}\n      {doc}\n")
}

/// What may stand there, and what holds when it is left out.
pub(super) fn note(key: &Key) -> String {
    match (key.required, key.default) {
        (true, _) => format!("{}; must be given", key.expects),
        (false, Some(default)) => format!("{}; default {default}", key.expects),
        (false, None) => key.expects.to_owned(),
    }
}

/// The words in lines of so many columns; each but the first begins with the margin.
fn wrapped(text: &str, columns: usize, margin: &str) -> String {
    let mut lines = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let wide = width(word);
        if used > 0 && used + 1 + wide > columns {
            lines.push('\n');
            lines.push_str(margin);
            used = 0;
        } else if used > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += wide;
    }
    lines
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(
            wrapped("one two three four", 9, "  "),
            "one two\n  three\n  four"
        );
        assert_eq!(wrapped("unbreakable a", 4, ""), "unbreakable\na");
    }
}

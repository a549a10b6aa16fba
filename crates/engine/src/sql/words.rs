//! The names that an SQL text mentions, so that only those storages are read that a query needs.

use std::collections::BTreeSet;

/// All words outside texts in quotes and comments, and all names in quotes, in small letters. Keywords are among
/// them: they do no harm.
pub(crate) fn words(sql: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut rest = sql.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\'' => drop(quoted(&mut rest, '\'')),
            '"' | '`' => {
                words.insert(quoted(&mut rest, character).to_lowercase());
            }
            '[' => {
                let name: String = rest.by_ref().take_while(|other| *other != ']').collect();
                words.insert(name.to_lowercase());
            }
            '-' if rest.peek() == Some(&'-') => {
                rest.by_ref()
                    .take_while(|other| *other != '\n')
                    .for_each(drop);
            }
            '/' if rest.peek() == Some(&'*') => {
                rest.next();
                let mut last = ' ';
                for other in rest.by_ref() {
                    if last == '*' && other == '/' {
                        break;
                    }
                    last = other;
                }
            }
            _ if in_word(character) => {
                let mut word = String::from(character);
                while let Some(other) = rest.next_if(|other| in_word(*other)) {
                    word.push(other);
                }
                words.insert(word.to_lowercase());
            }
            _ => {}
        }
    }
    words
}

fn in_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$') || !character.is_ascii()
}

/// What stands up to the closing quote; two of them are one of the text.
fn quoted(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> String {
    let mut text = String::new();
    while let Some(character) = rest.next() {
        if character == quote && rest.next_if_eq(&quote).is_none() {
            break;
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_however_they_are_quoted_and_texts_and_comments_are_not() {
        let found = words(
            "SELECT a.\"b \"\"c\"\"\" FROM [my numbers] AS a, `d``e`, Größe -- not_this\n\
             WHERE x = 'nor ''this' /* nor * this */ AND é2 > :p",
        );
        for name in ["a", "b \"c\"", "my numbers", "d`e", "größe", "x", "é2", "p"] {
            assert!(found.contains(name), "{name}: {found:?}");
        }
        for no_name in ["not_this", "nor", "this"] {
            assert!(!found.contains(no_name), "{no_name}");
        }
        words("'never closed");
        words("/* never closed *");
        words("[");
    }
}

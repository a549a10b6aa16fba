//! Nodes to YAML: what [`parse`](super::parse) reads back as the same tree, laid out as people write it.

use crate::node::{Entry, Node, NodeKind};

/// The widest line on which a map or a list is written in brackets.
const WIDE: usize = 100;

/// Writes a node as a YAML document that ends in a line end.
///
/// What [`parse`](super::parse) makes of it is equal to the node, but for [`NodeKind::Filled`], which becomes text. Short
/// maps and lists stand in brackets on one line; what holds a list of maps (`stages`), and the outer three levels, stand
/// on lines of their own.
pub fn write(node: &Node) -> String {
    let mut text = String::new();
    if is_block(node, 0) {
        block(node, 0, 0, &mut text);
    } else {
        inline(node, &mut text);
        text.push('\n');
    }
    text
}

/// Whether a node is written on lines of its own.
fn is_block(node: &Node, depth: usize) -> bool {
    match &node.kind {
        NodeKind::Map(entries) if entries.is_empty() => false,
        NodeKind::List(items) if items.is_empty() => false,
        NodeKind::Map(_) | NodeKind::List(_) => {
            depth < 3 || holds_steps(node) || width(node) > WIDE
        }
        _ => false,
    }
}

/// Whether there is a list of maps somewhere in it.
fn holds_steps(node: &Node) -> bool {
    match &node.kind {
        NodeKind::List(items) => items
            .iter()
            .any(|item| matches!(&item.kind, NodeKind::Map(entries) if !entries.is_empty())),
        NodeKind::Map(entries) => entries.iter().any(|entry| holds_steps(&entry.value)),
        _ => false,
    }
}

fn width(node: &Node) -> usize {
    let mut text = String::new();
    inline(node, &mut text);
    text.chars().count()
}

/// The lines of a map or a list; the first has its indent already.
fn block(node: &Node, indent: usize, depth: usize, text: &mut String) {
    match &node.kind {
        NodeKind::Map(entries) => {
            for (index, Entry { key, value, .. }) in entries.iter().enumerate() {
                if index > 0 {
                    spaces(indent, text);
                }
                scalar(key, text);
                text.push(':');
                if is_block(value, depth + 1) {
                    text.push('\n');
                    spaces(indent + 2, text);
                    block(value, indent + 2, depth + 1, text);
                } else {
                    text.push(' ');
                    inline(value, text);
                    text.push('\n');
                }
            }
        }
        NodeKind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    spaces(indent, text);
                }
                text.push_str("- ");
                let map = matches!(&item.kind, NodeKind::Map(entries) if !entries.is_empty());
                if map || is_block(item, depth + 1) {
                    block(item, indent + 2, depth + 1, text);
                } else {
                    inline(item, text);
                    text.push('\n');
                }
            }
        }
        _ => {
            inline(node, text);
            text.push('\n');
        }
    }
}

fn spaces(count: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', count));
}

fn inline(node: &Node, text: &mut String) {
    match &node.kind {
        NodeKind::Null => text.push_str("null"),
        NodeKind::Bool(yes) => text.push_str(if *yes { "true" } else { "false" }),
        NodeKind::Number(number) => text.push_str(&number.to_string()),
        NodeKind::Text(value) | NodeKind::Filled(value) => scalar(value, text),
        NodeKind::List(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                inline(item, text);
            }
            text.push(']');
        }
        NodeKind::Map(entries) => {
            text.push('{');
            for (index, entry) in entries.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                scalar(&entry.key, text);
                text.push_str(": ");
                inline(&entry.value, text);
            }
            text.push('}');
        }
    }
}

/// A text: bare where every reader of YAML takes it for one, else in quotes.
fn scalar(value: &str, text: &mut String) {
    if is_bare(value) {
        text.push_str(value);
        return;
    }
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            other if is_printable(other) => text.push(other),
            other => text.push_str(&match u32::from(other) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    text.push('"');
}

/// Whether a text needs no quotes: words, paths, and amounts with a unit (`10s`), but no word that stands for another
/// value in some version of YAML.
fn is_bare(value: &str) -> bool {
    const OTHERS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    if OTHERS.iter().any(|word| value.eq_ignore_ascii_case(word)) {
        return false;
    }
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./ ".contains(&byte);
    let Some(&first) = value.as_bytes().first() else {
        return false;
    };
    let word = (first.is_ascii_alphabetic() || b"_/".contains(&first))
        && value.bytes().all(inner)
        && !value.ends_with(' ');
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let amount = digits > 0
        && ["ms", "s", "m", "h", "d", "KiB", "MiB", "GiB", "TiB"].contains(&&value[digits..]);
    word || amount
}

/// Whether YAML lets it stand as it is, and no reader takes it for the end of a line.
fn is_printable(character: char) -> bool {
    !matches!(
        character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn a_flow_is_laid_out_as_people_write_it() {
        let text = "\
name: sensors
pipelines:
  numbers:
    every: 10s
    stages:
      - http: {url: \"http://localhost:8027\", headers: {apikey: \"012\"}}
        timeout: 5s
      - store: {json: {folder: data}, preprocess: [add_datetime]}
";
        assert_eq!(write(&parse(text).unwrap()), text);
    }

    #[test]
    fn texts_that_could_be_something_else_stand_in_quotes() {
        for value in [
            "", " a", "a ", "no", "NULL", "012", "1e3", ".5", "-", "a: b", "a #b", "é", "\0",
            "\u{85}", "\u{feff}", "😀", "\u{fffe}", "10", "10x", "0x1f", "1_000", "~", "a\nb",
            "${env:A}", "...", "---", "=", "<<", "!x", "&a", "*a", "12:30",
        ] {
            for node in [Node::text(value), Node::map([(value, Node::text(value))])] {
                let text = write(&node);
                assert_eq!(parse(&text).unwrap(), node, "{text}");
            }
        }
    }
}

//! `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}`: texts from outside the flow file.

use crate::fields::Reading;
use crate::node::{Entry, Node, NodeKind};
use crate::secret::Secret;

/// Where the texts come from. The command line gives the process's environment and the file system;
/// tests give a map.
pub trait Lookup {
    /// The value of an environment variable.
    fn env(&self, name: &str) -> Option<String>;

    /// The content of a file, without its last line end; an error says why not.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// A copy of the tree with every placeholder filled in, and the secrets that were used.
///
/// A missing variable or file is reported at its place. `$${` stands for `${` itself. Texts that came
/// from outside are never searched again.
pub fn fill(
    node: &Node,
    lookup: &dyn Lookup,
    reading: &mut Reading,
    secrets: &mut Vec<Secret>,
) -> Node {
    let kind = match &node.kind {
        NodeKind::Text(text) if text.contains("${") => {
            match fill_text(text, lookup, secrets) {
                Ok(filled) => NodeKind::Filled(filled),
                Err(message) => {
                    reading.error(node.span, message);
                    // The literal keeps later readers from reporting the same place again.
                    NodeKind::Text(text.clone())
                }
            }
        }
        NodeKind::List(items) => {
            let inside = |(index, item): (usize, &Node)| {
                reading.inside(&index.to_string(), |reading| {
                    fill(item, lookup, reading, secrets)
                })
            };
            NodeKind::List(items.iter().enumerate().map(inside).collect())
        }
        NodeKind::Map(entries) => {
            let inside = |entry: &Entry| Entry {
                value: reading.inside(&entry.key, |reading| {
                    fill(&entry.value, lookup, reading, secrets)
                }),
                ..entry.clone()
            };
            NodeKind::Map(entries.iter().map(inside).collect())
        }
        other => other.clone(),
    };
    Node {
        kind,
        span: node.span,
    }
}

fn fill_text(text: &str, lookup: &dyn Lookup, secrets: &mut Vec<Secret>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        filled.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('}') else {
            return Err(
                "`${` without its `}`; write `$${` for the characters themselves".to_owned(),
            );
        };
        let words = &rest[start + 2..start + end];
        let value = placeholder(words, lookup)?;
        // The default stands in the file; the name is what it is called by.
        let name = words.split_once(":-").map_or(words, |(name, _)| name);
        secrets.push(Secret::named(value.clone(), name));
        filled.push_str(&value);
        rest = &rest[start + end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

fn placeholder(words: &str, lookup: &dyn Lookup) -> Result<String, String> {
    if let Some(name) = words.strip_prefix("env:") {
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        return lookup
            .env(name)
            .or_else(|| default.map(str::to_owned))
            .ok_or_else(|| format!("the environment variable `{name}` is not set"));
    }
    if let Some(path) = words.strip_prefix("file:") {
        return lookup
            .file(path)
            .map_err(|cause| format!("cannot read the file `{path}`: {cause}"));
    }
    Err(format!(
        "`${{{words}}}` is not possible: use `${{env:NAME}}`, `${{env:NAME:-default}}` or `${{file:PATH}}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl Lookup for Fake {
        fn env(&self, name: &str) -> Option<String> {
            (name == "KEY").then(|| "se${env:KEY}cret".to_owned())
        }

        fn file(&self, path: &str) -> Result<String, String> {
            if path == "key.txt" {
                Ok("from file".to_owned())
            } else {
                Err("no such file".to_owned())
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let filled = fill_text(text, &Fake, &mut Vec::new());
        match expected {
            Ok(expected) => assert_eq!(filled.as_deref(), Ok(expected)),
            Err(part) => assert!(filled.unwrap_err().contains(part)),
        }
    }

    #[test]
    fn placeholders_stand_for_text_anywhere() {
        check(
            "a ${env:NO:-x y} b ${file:key.txt}!",
            Ok("a x y b from file!"),
        );
        check("$${env:KEY} stays", Ok("${env:KEY} stays"));
        check("${env:KEY}", Ok("se${env:KEY}cret"));
        check("${env:NO}", Err("`NO` is not set"));
        check("${file:no}", Err("no such file"));
        check("${shell:ls}", Err("is not possible"));
        check("${env:KEY", Err("without its"));
    }
}

//! The module paths that a source names: `crate::a::b`, `super::c`, `use crate::{a::b, d}`.

/// The module that a file is, from the crate's root: `crates/engine/src/stages/http.rs` is
/// `["stages", "http"]`. `None` for a file that is no module of a library.
pub(super) fn module_of(path: &str) -> Option<Vec<String>> {
    let (_, inside) = path.split_once("/src/")?;
    let stem = inside.strip_suffix(".rs")?;
    let mut segments: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if matches!(
        segments.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        segments.pop();
    }
    Some(segments)
}

/// Every path of this crate that `code` names, from the crate's root, with the line it stands on.
/// `module` is where the code stands. Comments must be gone already.
pub(super) fn named_in(code: &str, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = code[from..].find(|c: char| c.is_alphabetic() || c == '_') {
        let start = from + offset;
        let word = leading_word(&code[start..]);
        from = start + word.len();
        let before = code[..start].trim_end();
        if before.ends_with("::") || before.ends_with('$') {
            continue;
        }
        let Some(prefix) = root_of(word, module) else {
            continue;
        };
        let mut paths = Vec::new();
        from = code.len() - expand(&code[from..], prefix, &mut paths).len();
        let line = code[..start].matches('\n').count() + 1;
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

fn root_of(word: &str, module: &[String]) -> Option<Vec<String>> {
    match word {
        "crate" => Some(Vec::new()),
        "self" => Some(module.to_vec()),
        "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
        _ => None,
    }
}

/// Reads what follows `prefix`: `::word`, `::super`, `::*` or `::{…}`; gives the rest of the text.
fn expand<'a>(text: &'a str, mut prefix: Vec<String>, out: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = text;
    while let Some(next) = rest.trim_start().strip_prefix("::") {
        let next = next.trim_start();
        if let Some(mut group) = next.strip_prefix('{') {
            loop {
                group = group.trim_start().trim_start_matches(',').trim_start();
                if let Some(after) = group.strip_prefix('}') {
                    return after;
                }
                let word = leading_word(group);
                if word.is_empty() {
                    let Some(after) = group.strip_prefix('*') else {
                        return group;
                    };
                    group = after;
                    continue;
                }
                let mut inner = prefix.clone();
                if word != "self" {
                    inner.push(word.to_owned());
                }
                group = expand(&group[word.len()..], inner, out);
                // `as other`
                if let Some(after) = group.trim_start().strip_prefix("as ") {
                    group = &after[leading_word(after).len()..];
                }
            }
        }
        let word = leading_word(next);
        if word.is_empty() {
            break;
        }
        if word == "super" {
            prefix.pop();
        } else {
            prefix.push(word.to_owned());
        }
        rest = &next[word.len()..];
    }
    out.push(prefix);
    rest
}

fn leading_word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, expected: &[&str]) {
        let module = ["stages".to_owned(), "http".to_owned()];
        let found: Vec<String> = named_in(code, &module)
            .into_iter()
            .map(|(_, path)| path.join("::"))
            .collect();
        assert_eq!(found, expected, "{code}");
    }

    #[test]
    fn a_file_knows_its_module() {
        let module = |path| module_of(path).map(|path| path.join("::"));
        assert_eq!(
            module("crates/engine/src/stages/http.rs").as_deref(),
            Some("stages::http")
        );
        assert_eq!(
            module("crates/engine/src/stages/mod.rs").as_deref(),
            Some("stages")
        );
        assert_eq!(module("crates/engine/src/lib.rs").as_deref(), Some(""));
        assert_eq!(module("crates/engine/tests/it/main.rs"), None);
    }

    #[test]
    fn paths_are_resolved_from_the_root_of_the_crate() {
        check(
            "use crate::stages::mqtt::Session;",
            &["stages::mqtt::Session"],
        );
        check("let x = super::mqtt::open();", &["stages::mqtt::open"]);
        check("super::super::run::start()", &["run::start"]);
        check("self::inner::x()", &["stages::http::inner::x"]);
    }

    #[test]
    fn groups_are_spread_out() {
        check(
            "use crate::{clock::Clock, stages::{self, mqtt::{self as m, Session}}, run};",
            &[
                "clock::Clock",
                "stages",
                "stages::mqtt",
                "stages::mqtt::Session",
                "run",
            ],
        );
        check("use super::{*, send};", &["stages::send"]);
    }

    #[test]
    fn other_crates_and_visibilities_are_no_paths_of_ours() {
        check(
            "use tokio::sync::mpsc; pub(crate) fn a(&self) { self.b() }",
            &["", "stages::http", "stages::http"],
        );
    }
}

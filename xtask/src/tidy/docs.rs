//! Rules about documents: their length, links that lead somewhere, and the decision records' form.

use super::Finding;
use crate::Result;
use crate::tree::Tree;

/// The most lines of a document that newcomers read from end to end.
const MOST_LINES: &[(&str, usize)] = &[("ARCHITECTURE.md", 150), ("CONTRIBUTING.md", 100)];

const RECORDS: &str = "docs/adr/";
const RECORD_PARTS: &[&str] = &["## Context", "## Decision", "## Consequences"];

/// All rules about one document.
pub(super) fn check(path: &str, text: &str, tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let Some(stem) = path.strip_suffix(".md") else {
        return Ok(findings);
    };
    let lines = text.lines().count();
    for (_, most) in MOST_LINES
        .iter()
        .filter(|(name, most)| *name == path && lines > *most)
    {
        findings.push(Finding::of(
            path,
            format!("{lines} lines, {most} are the most"),
        ));
    }
    if stem.starts_with(RECORDS) {
        for part in RECORD_PARTS
            .iter()
            .filter(|part| !text.lines().any(|line| line == **part))
        {
            findings.push(Finding::of(
                path,
                format!("a decision record has a part `{part}`"),
            ));
        }
    }
    for (line, target) in links(text) {
        if let Some(message) = broken(path, text, &target, tree)? {
            findings.push(Finding::at(path, line, message));
        }
    }
    Ok(findings)
}

/// Decision records are numbered without a gap, each number once.
pub(super) fn check_records(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let names = tree.files().filter_map(|path| path.strip_prefix(RECORDS));
    for (name, number) in names.filter(|name| name.ends_with(".md")).zip(0..) {
        if !name.starts_with(&format!("{number:04}-")) {
            let message = format!("decision records are numbered in a row: {number:04} comes here");
            findings.push(Finding::of(&format!("{RECORDS}{name}"), message));
        }
    }
    Ok(findings)
}

/// The targets of all links and pictures, outside code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, number) in without_code(text).into_iter().zip(1..) {
        for (at, mark) in line.match_indices("](") {
            let rest = &line[at + mark.len()..];
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            found.push((number, target.to_owned()));
        }
    }
    found
}

/// The lines, with fenced blocks and `inline code` taken out.
fn without_code(text: &str) -> Vec<String> {
    let mut fenced = false;
    text.lines()
        .map(|line| {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                return String::new();
            }
            if fenced {
                String::new()
            } else {
                line.split('`').step_by(2).collect()
            }
        })
        .collect()
}

/// Says what is wrong with a link from the document `path`, if anything is. Addresses on the
/// network are not asked.
fn broken(path: &str, text: &str, target: &str, tree: &Tree) -> Result<Option<String>> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(None);
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let file = if file.is_empty() {
        path.to_owned()
    } else {
        match joined(path, file) {
            Some(file) if tree.contains(&file) => file,
            _ => return Ok(Some(format!("the link `{target}` leads nowhere"))),
        }
    };
    if heading.is_empty() || !file.ends_with(".md") {
        return Ok(None);
    }
    let there = if file == path {
        text.to_owned()
    } else {
        tree.text(&file)?.unwrap_or_default()
    };
    let missing = !headings(&there).iter().any(|known| known == heading);
    Ok(missing.then(|| format!("`{file}` has no heading `#{heading}`")))
}

/// `target` as seen from the document `path`, as a path from the project's folder; `None` when it
/// leaves that.
fn joined(path: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The names by which the headings of a document are linked: small letters, hyphens for spaces.
fn headings(text: &str) -> Vec<String> {
    let mut fenced = false;
    text.lines()
        .filter(|line| {
            fenced ^= line.trim_start().starts_with("```");
            !fenced && line.starts_with('#')
        })
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_rule(path: &str, text: &str, expected: &[&str]) {
        let tree = Tree::open().unwrap();
        let found: Vec<String> = check(path, text, &tree)
            .unwrap()
            .into_iter()
            .map(|finding| finding.message)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_link_leads_to_a_file_or_folder_of_the_project() {
        check_rule(
            "docs/x.md",
            "[a](../LICENSE) [b](adr) [c](https://example.org) [d](#e)\n# E",
            &[],
        );
        check_rule(
            "docs/x.md",
            "[a](LICENSE)",
            &["the link `LICENSE` leads nowhere"],
        );
        check_rule(
            "x.md",
            "[a](../LICENSE)",
            &["the link `../LICENSE` leads nowhere"],
        );
        check_rule("x.md", "`[a](b)`\n```\n[a](b)\n```", &[]);
    }

    #[test]
    fn a_linked_heading_is_there() {
        check_rule("x.md", "# One, two\n[a](#one-two)", &[]);
        check_rule(
            "x.md",
            "# One\n[a](#two)",
            &["`x.md` has no heading `#two`"],
        );
        check_rule(
            "x.md",
            "[a](CONTRIBUTING.md#nothing)",
            &["`CONTRIBUTING.md` has no heading `#nothing`"],
        );
    }

    #[test]
    fn what_newcomers_read_is_short() {
        check_rule("CONTRIBUTING.md", &"x\n".repeat(100), &[]);
        check_rule(
            "CONTRIBUTING.md",
            &"x\n".repeat(101),
            &["101 lines, 100 are the most"],
        );
    }

    #[test]
    fn a_decision_record_has_its_parts() {
        check_rule(
            "docs/adr/0007-x.md",
            "## Context\n## Decision",
            &["a decision record has a part `## Consequences`"],
        );
    }
}

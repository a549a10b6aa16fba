//! The page of promises: each case that it must have is there, and each test that it names exists.

use std::collections::BTreeSet;

use super::Finding;
use crate::Result;
use crate::tree::Tree;

const PAGE: &str = "docs/guarantees.md";

/// What a row says whose case cannot happen yet.
const NOT_BUILT: &str = "not built: ";

/// The cases that the page has at least.
const CASES: &[&str] = &[
    "A1", "A2", "A3", "A4", "A11", "A12", "A13", "A14", "A15", "B1", "B2", "B3", "B5", "B7", "B8",
    "B9", "B10", "C1", "C2", "C3", "C4", "C5", "C9", "C13", "C14", "C15", "C16", "D8", "D9", "E8",
    "F4", "F5", "F6",
];

/// Compares the page with the names of all tests.
pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut tests = BTreeSet::new();
    for path in tree.files().filter(|path| path.ends_with(".rs")) {
        tests.extend(functions(&tree.text(path)?.unwrap_or_default()));
    }
    let page = match tree.contains(PAGE) {
        true => tree.text(PAGE)?.unwrap_or_default(),
        false => String::new(),
    };
    Ok(compare(&page, &tests))
}

fn compare(page: &str, tests: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = BTreeSet::new();
    for (line, number) in page.lines().zip(1..) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", case, _, proofs, ""] = cells.as_slice() else {
            continue;
        };
        if !is_case(case) {
            continue;
        }
        found.insert(*case);
        let named: Vec<&str> = proofs.split('`').skip(1).step_by(2).collect();
        if proofs.starts_with(NOT_BUILT) {
            continue;
        }
        if named.is_empty() {
            findings.push(Finding::at(PAGE, number, format!("{case} names no test")));
        }
        for name in &named {
            if !tests.contains(*name) {
                findings.push(Finding::at(
                    PAGE,
                    number,
                    format!("there is no test `{name}`"),
                ));
            }
        }
        let numbered = format!("{}_", case.to_lowercase());
        let of_case =
            |name: &&str| name.starts_with(&numbered) || name.contains(&format!("_{numbered}"));
        if !named.is_empty() && !named.iter().any(of_case) {
            findings.push(Finding::at(
                PAGE,
                number,
                format!("no test of {case} carries its number"),
            ));
        }
    }
    for case in CASES.iter().filter(|case| !found.contains(*case)) {
        findings.push(Finding::of(PAGE, format!("the case {case} is missing")));
    }
    findings
}

/// A letter and a number.
fn is_case(cell: &str) -> bool {
    let mut characters = cell.chars();
    characters
        .next()
        .is_some_and(|letter| letter.is_ascii_uppercase())
        && !characters.as_str().is_empty()
        && characters.all(|digit| digit.is_ascii_digit())
}

/// The names of all functions of a source file.
fn functions(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let (before, rest) = line.split_once("fn ")?;
        let plain = before
            .trim()
            .split(' ')
            .all(|word| matches!(word, "" | "async" | "pub"));
        let name = rest.split(['(', '<']).next()?;
        plain.then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_page(row: &str, expected: &[&str]) {
        let source = "    async fn a1_one() {\n#[test]\nfn a2_a3_two() {\n// fn a3_three() {}\n";
        let tests = functions(source).collect();
        let others = CASES.iter().filter(|case| **case != "A1");
        let rest: String = others
            .map(|case| format!("| {case} | x | not built: x |\n"))
            .collect();
        let found: Vec<String> = compare(&format!("{row}\n{rest}"), &tests)
            .into_iter()
            .map(|finding| finding.message)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_case_names_tests_that_there_are() {
        check_page("| A1 | killed | `a1_one` |", &[]);
        check_page("| A1 | killed | `a1_one`, `a2_a3_two` |", &[]);
        check_page(
            "| A1 | killed | `a1_one`, `a3_three` |",
            &["there is no test `a3_three`"],
        );
        check_page(
            "| A1 | killed | `a2_a3_two` |",
            &["no test of A1 carries its number"],
        );
        check_page("| A1 | killed | soon |", &["A1 names no test"]);
        check_page("| A1 | killed | not built: x |", &[]);
        check_page("", &["the case A1 is missing"]);
    }
}

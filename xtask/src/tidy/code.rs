//! Rules about sources: their size, and what they may name.

use super::Finding;
use super::paths::{module_of, named_in};

/// A file of hand-written code over the first figure is named, over the second refused.
const LINES: (usize, usize) = (400, 600);

/// The rooms of the engine: each file or folder in one is a component, or a part of one.
const ROOMS: &[&str] = &["stages", "sources", "senders", "storages", "remotes"];

/// What stands in a room and is no component.
const ROOM_PARTS: &[(&str, &str)] = &[("storages", "owner")];

/// The modules of the engine that drive components. Components do not know them, and they know no
/// protocol.
const RUN_LOOP: &[&str] = &["run"];

/// The crates that speak a protocol or write a format.
const PROTOCOLS: &[&str] = &["csv", "reqwest", "rumqttc", "rusqlite", "rustls"];

/// Where receipts are made: what commits, what delivers, and the stages whose sink is the user's
/// own function.
const MAY_ISSUE_RECEIPTS: &[&str] = &[
    // Those that another process has issued.
    "crates/engine/src/links/far/",
    // It says what a storage of its host has said.
    "crates/far/src/storage.rs",
    "crates/engine/src/fakes/", // the tests of a flow: what stands in for senders
    "crates/engine/src/remotes/stage.rs", // it says what a sender elsewhere has said
    "crates/engine/src/run/inbox/receiving.rs", // after the commit of state.db
    "crates/engine/src/run/outbox.rs", // for a record whose receipt a crash has taken
    "crates/engine/src/senders/",
    "crates/engine/src/stages/send.rs",
    "crates/engine/src/stages/store.rs",
    "crates/engine/src/storages/",
    "crates/testkit/",
];

/// Hashers that someone outside can make collide, and the ways to put one in.
const OTHER_HASHERS: &[&str] = &[
    "BuildHasherDefault",
    "with_hasher",
    "with_capacity_and_hasher",
    "FxHash",
    "FnvHash",
    "AHash",
    "foldhash",
    "nohash",
];

/// The files that may do what clippy.toml bans, and say why there.
const MAY_EXPECT_BANNED: &[&str] = &["crates/engine/src/clock.rs", "crates/engine/src/tasks.rs"];

/// All rules about one file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if ["rs", "py", "js", "mjs"]
        .iter()
        .any(|ending| has_ending(path, ending))
    {
        findings.extend(budget(path, text));
    }
    if has_ending(path, "rs") && !path.starts_with("xtask/src/tidy/") {
        let code = without_comments_and_tests(path, text);
        findings.extend(components(path, &code));
        findings.extend(protocols(path, &code));
        findings.extend(receipts(path, &code));
        findings.extend(hashers(path, &code));
        findings.extend(exceptions(path, &code));
        findings.extend(test_names(path, text));
    }
    findings
}

fn has_ending(path: &str, ending: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, last)| last == ending)
}

fn budget(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let (warn, fail) = LINES;
    if lines > fail {
        Some(Finding::of(
            path,
            format!("{lines} lines, {fail} are the most: split it"),
        ))
    } else if lines > warn {
        Some(Finding::of(path, format!("{lines} lines, {warn} are enough")).warning())
    } else {
        None
    }
}

/// The code of a file, line by line where it was: comments blank, and what follows
/// `#[cfg(test)] mod` too. Nothing is left of a file that is all test.
fn without_comments_and_tests(path: &str, text: &str) -> String {
    if path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs") {
        return String::new();
    }
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines
            .peek()
            .map(|next| next.trim_start())
            .unwrap_or_default();
        if line.trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line.split(" // ").next().unwrap_or_default());
        }
        code.push('\n');
    }
    code
}

/// A component knows no other component and not the loop that drives it; only the list of its room
/// names it.
fn components(path: &str, code: &str) -> Vec<Finding> {
    let Some(module) = module_of(path).filter(|_| path.starts_with("crates/engine/src/")) else {
        return Vec::new();
    };
    let component = component_of(&module);
    let mut findings = Vec::new();
    for (line, named) in named_in(code, &module) {
        let first = named.first().map(String::as_str).unwrap_or_default();
        if component.is_some() && RUN_LOOP.contains(&first) {
            let message = format!(
                "a component does not know the run loop (`{}`)",
                named.join("::")
            );
            findings.push(Finding::at(path, line, message));
        }
        let Some(other) = component_of(&named) else {
            continue;
        };
        let at_home = component == Some(other) || module.iter().map(String::as_str).eq([other.0]);
        if !at_home {
            let message = format!(
                "`{}::{}` is named here, outside its own file and the list of its room: what two share \
                 lives outside the room",
                other.0, other.1
            );
            findings.push(Finding::at(path, line, message));
        }
    }
    findings
}

/// The room and the name of the component that a module path leads into. Types and functions of
/// the room itself (`stages::Kind`) are no components: a component is a module, so more follows,
/// or the path is a file's own.
fn component_of(module: &[String]) -> Option<(&str, &str)> {
    let (room, name) = (module.first()?.as_str(), module.get(1)?.as_str());
    let is_module = name.starts_with(|c: char| c.is_ascii_lowercase());
    let is_part = ROOM_PARTS.contains(&(room, name));
    (ROOMS.contains(&room) && is_module && !is_part).then_some((room, name))
}

/// The run loop knows no broker, no database and no file format.
fn protocols(path: &str, code: &str) -> Vec<Finding> {
    let module = module_of(path).unwrap_or_default();
    let is_run_loop = path.starts_with("crates/engine/src/")
        && module
            .first()
            .is_some_and(|first| RUN_LOOP.contains(&first.as_str()));
    if !is_run_loop {
        return Vec::new();
    }
    let named = |line: &str| {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let mut known = PROTOCOLS
            .iter()
            .filter(|name| words.clone().any(|word| word.starts_with(**name)));
        known.next().copied()
    };
    code.lines()
        .zip(1..)
        .filter_map(|(line, number)| named(line).map(|name| (name, number)))
        .map(|(name, number)| {
            Finding::at(path, number, format!("the run loop does not know `{name}`"))
        })
        .collect()
}

/// A receipt is proof: only what commits or delivers makes one.
fn receipts(path: &str, code: &str) -> Vec<Finding> {
    if MAY_ISSUE_RECEIPTS
        .iter()
        .any(|place| path.starts_with(place))
    {
        return Vec::new();
    }
    let message = "a receipt is made by storages and senders only";
    lines_with(code, "CommitReceipt::issue")
        .map(|line| Finding::at(path, line, message))
        .collect()
}

/// What clippy.toml bans is done in few files.
fn exceptions(path: &str, code: &str) -> Vec<Finding> {
    if MAY_EXPECT_BANNED.contains(&path) {
        return Vec::new();
    }
    let message = "clippy.toml bans this everywhere but in the files that \
                   xtask/src/tidy/code.rs lists";
    code.lines()
        .zip(1..)
        .filter(|(line, _)| line.contains("clippy::disallowed_methods"))
        .filter(|(line, _)| !line.starts_with("#![cfg_attr(test,"))
        .map(|(_, number)| Finding::at(path, number, message))
        .collect()
}

fn test_names(path: &str, text: &str) -> Vec<Finding> {
    lines_with(text, "fn test_")
        .map(|line| Finding::at(path, line, "a test's name is a sentence without `test_`"))
        .collect()
}

fn lines_with(text: &str, what: &str) -> impl Iterator<Item = usize> {
    text.lines()
        .zip(1..)
        .filter(move |(line, _)| line.contains(what))
        .map(|(_, number)| number)
}

/// Keys from outside are kept apart by the standard library's hasher alone, whose seed nobody knows.
fn hashers(path: &str, code: &str) -> Vec<Finding> {
    let is_ours = path.starts_with("crates/") || path.starts_with("xtask/");
    let named = |line: &str| OTHER_HASHERS.iter().find(|word| line.contains(*word));
    let lines = code.lines().enumerate().filter(|_| is_ours);
    let finding = |(number, line): (usize, &str)| {
        let word = named(line)?;
        let message =
            format!("`{word}`: the default hasher is kept, whose collisions nobody can plan");
        Some(Finding::at(path, number + 1, message))
    };
    lines.filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_rule(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> = check(path, text)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.place, finding.message))
            .collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found.contains(expected),
                "`{found}` does not say `{expected}`"
            );
        }
    }

    #[test]
    fn a_long_file_is_named_and_a_longer_one_refused() {
        check_rule("a.rs", &"x\n".repeat(400), &[]);
        let warning = &check("a.rs", &"x\n".repeat(401))[0];
        assert_eq!(warning.weight, super::super::Weight::Warning);
        check_rule("a.py", &"x\n".repeat(601), &["a.py: 601 lines"]);
        check_rule("a.md", &"x\n".repeat(601), &[]);
    }

    #[test]
    fn components_do_not_know_each_other() {
        let stage = "crates/engine/src/stages/http.rs";
        check_rule(
            stage,
            "use crate::stages::mqtt::Session;",
            &["`stages::mqtt` is named here"],
        );
        check_rule(stage, "use super::mqtt;", &["`stages::mqtt` is named here"]);
        check_rule(
            stage,
            "use crate::storages::sqlite::open;",
            &["`storages::sqlite`"],
        );
        check_rule(
            "crates/engine/src/run.rs",
            "crate::stages::http::run()",
            &["`stages::http`"],
        );
        check_rule(stage, "use crate::{clock, stages::{Kind, http::Own}};", &[]);
        check_rule(
            "crates/engine/src/stages/http/body.rs",
            "use super::Http;",
            &[],
        );
        check_rule("crates/engine/src/stages.rs", "use self::http::Http;", &[]);
        check_rule(
            "crates/engine/src/run/stage.rs",
            "use crate::storages::owner::Writers;",
            &[],
        );
    }

    #[test]
    fn components_do_not_know_the_run_loop() {
        let message = "a component does not know the run loop (`run::settle`)";
        check_rule(
            "crates/engine/src/storages/csv.rs",
            "crate::run::settle()",
            &[message],
        );
    }

    #[test]
    fn the_run_loop_knows_no_protocol() {
        let message = "the run loop does not know `rumqttc`";
        check_rule(
            "crates/engine/src/run/stage.rs",
            "use rumqttc_v5_next::Event;",
            &[message],
        );
        check_rule(
            "crates/engine/src/mqtt.rs",
            "use rumqttc_v5_next::Event;",
            &[],
        );
    }

    #[test]
    fn comments_and_tests_are_free() {
        let text = "// crate::run::x\n#[cfg(test)]\nmod tests {\n use crate::stages::mqtt::X;\n}";
        check_rule("crates/engine/src/stages/http.rs", text, &[]);
    }

    #[test]
    fn only_storages_and_senders_make_receipts() {
        let code = "let r = CommitReceipt::issue(sink, 1);";
        check_rule(
            "crates/engine/src/run.rs",
            code,
            &["run.rs:1: a receipt is made by"],
        );
        check_rule("crates/engine/src/storages/csv.rs", code, &[]);
        check_rule("crates/engine/src/senders/mqtt.rs", code, &[]);
    }

    #[test]
    fn exceptions_from_the_bans_stand_in_few_files() {
        let code = "#[expect(clippy::disallowed_methods, reason = \"x\")]\nfn a() {}";
        check_rule(
            "crates/engine/src/run.rs",
            code,
            &["run.rs:1: clippy.toml bans this"],
        );
        check_rule("crates/engine/src/clock.rs", code, &[]);
        check_rule("crates/engine/src/tasks.rs", code, &[]);
        let tests = "#![cfg_attr(test, allow(clippy::disallowed_methods, reason = \"x\"))]";
        check_rule("crates/engine/src/lib.rs", tests, &[]);
    }

    #[test]
    fn e6_only_the_default_hasher_meets_data_from_outside() {
        let code = "use std::hash::BuildHasherDefault;\nlet a = HashMap::with_hasher(b);";
        let refused = ["a.rs:1: `BuildHasherDefault`", "a.rs:2: `with_hasher`"];
        check_rule("crates/core/src/a.rs", code, &refused);
        check_rule(
            "crates/core/src/a.rs",
            "let a: HashMap<String, u8> = HashMap::new();",
            &[],
        );
    }

    #[test]
    fn a_test_is_not_called_test() {
        check_rule(
            "a.rs",
            "#[test]\nfn test_a() {}",
            &["a.rs:2: a test's name"],
        );
    }
}

//! Rules about manifests: which crate may use which, how many there are, and that each is wanted.

use std::collections::BTreeSet;

use super::Finding;
use crate::Result;
use crate::metadata::{Metadata, Package};
use crate::tree::Tree;

/// The most packages in the lock file.
const MOST_PACKAGES: usize = 400;

/// Where each direct dependency has its line: what for, and what we would write instead.
const REASONS: &str = "docs/dependencies.md";

/// What the ordinary build of a package of ours may ask for.
struct MayUse {
    package: &'static str,
    /// Of our packages.
    ours: &'static [&'static str],
    /// Of others: `None` where the choice is free.
    foreign: Option<&'static [&'static str]>,
}

const MAY_USE: &[MayUse] = &[
    MayUse {
        package: "wiredflow-core",
        ours: &[],
        foreign: Some(&[
            "base64",
            "bytes",
            "croner",
            "jiff",
            "rand",
            "secrecy",
            "serde",
            "serde-saphyr",
            "serde_json",
            "strsim",
        ]),
    },
    MayUse {
        package: "wiredflow-scale",
        ours: &["wiredflow-core"],
        foreign: Some(&["hdrhistogram", "serde", "serde_json"]),
    },
    MayUse {
        package: "wiredflow-engine",
        ours: &["wiredflow-core", "wiredflow-nats", "wiredflow-scale"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-api",
        ours: &["wiredflow-core", "wiredflow-engine", "wiredflow-scale"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-traces",
        ours: &["wiredflow-core", "wiredflow-engine"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-far",
        ours: &["wiredflow-core", "wiredflow-engine"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-nats",
        ours: &["wiredflow-core"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-node",
        ours: &["wiredflow-core", "wiredflow-engine", "wiredflow-far"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-cluster",
        ours: &["wiredflow-core", "wiredflow-engine", "wiredflow-scale"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-deploy",
        ours: &["wiredflow-cluster", "wiredflow-core", "wiredflow-engine"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-demo",
        ours: &[],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-bench",
        ours: &["wiredflow-core", "wiredflow-engine"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow-testkit",
        ours: &["wiredflow-core"],
        foreign: None,
    },
    MayUse {
        package: "wiredflow",
        ours: &[
            "wiredflow-api",
            "wiredflow-core",
            "wiredflow-demo",
            "wiredflow-cluster",
            "wiredflow-deploy",
            "wiredflow-engine",
            "wiredflow-far",
            "wiredflow-node",
            "wiredflow-nats",
            "wiredflow-scale",
            "wiredflow-traces",
        ],
        foreign: None,
    },
    MayUse {
        package: "xtask",
        ours: &[],
        foreign: None,
    },
];

/// Crates that do input and output; what is pure has none of them, however deep.
const DOES_IO: &[&str] = &[
    "hyper", "mio", "reqwest", "rusqlite", "rustls", "socket2", "tokio",
];
const PURE: &[&str] = &["wiredflow-core", "wiredflow-scale"];

/// All rules about packages.
pub(super) fn check(tree: &Tree, metadata: &Metadata) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for member in metadata.members() {
        findings.extend(arrows(member));
    }
    for name in PURE {
        let closure = metadata.closure(name);
        for other in DOES_IO.iter().filter(|other| closure.contains(*other)) {
            findings.push(Finding::of(name, format!("is pure, yet links `{other}`")));
        }
    }

    let lock = tree.text("Cargo.lock")?.unwrap_or_default();
    let count = lock.lines().filter(|line| *line == "[[package]]").count();
    if count > MOST_PACKAGES {
        let message = format!("{count} packages, {MOST_PACKAGES} are the most");
        findings.push(Finding::of("Cargo.lock", message));
    }

    let table = tree.text(REASONS)?.unwrap_or_default();
    let direct: BTreeSet<&str> = metadata
        .members()
        .flat_map(|member| &member.dependencies)
        .filter(|dependency| dependency.source.is_some())
        .map(|dependency| &*dependency.name)
        .collect();
    findings.extend(reasons(&table, &direct));

    for path in tree.files().filter(|path| path.ends_with("/Cargo.toml")) {
        let text = tree.text(path)?.unwrap_or_default();
        if !text.contains("[lints]\nworkspace = true") {
            findings.push(Finding::of(path, "a package keeps the workspace's lints"));
        }
    }
    Ok(findings)
}

/// What a package of ours asks for is what it may ask for.
fn arrows(member: &Package) -> Vec<Finding> {
    let name = &member.name;
    let Some(rule) = MAY_USE.iter().find(|rule| rule.package == name) else {
        let message = "xtask/src/tidy/packages.rs does not say what this package may use";
        return vec![Finding::of(name, message)];
    };
    let ordinary = member
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind.is_none());
    ordinary
        .filter(|dependency| match dependency.source {
            None => !rule.ours.contains(&&*dependency.name),
            Some(_) => rule
                .foreign
                .is_some_and(|list| !list.contains(&&*dependency.name)),
        })
        .map(|dependency| Finding::of(name, format!("may not depend on `{}`", dependency.name)))
        .collect()
}

/// Each direct dependency has a row with three filled cells, and each row its dependency.
fn reasons(table: &str, direct: &BTreeSet<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rows = BTreeSet::new();
    for (line, number) in table.lines().zip(1..) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, filled @ .., ""] = cells.as_slice() else {
            continue;
        };
        let Some(name) = name
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'))
        else {
            continue;
        };
        if filled.len() != 2 || filled.iter().any(|cell| cell.is_empty()) {
            let message = format!("`{name}` wants a use and what we would write instead");
            findings.push(Finding::at(REASONS, number, message));
        }
        if !direct.contains(name) {
            let message = format!("`{name}` is no direct dependency: take the line out");
            findings.push(Finding::at(REASONS, number, message));
        }
        rows.insert(name);
    }
    for name in direct.iter().filter(|name| !rows.contains(*name)) {
        findings.push(Finding::of(
            REASONS,
            format!("`{name}` has no line: why is it wanted?"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_messages(findings: Vec<Finding>, expected: &[&str]) {
        let found: Vec<String> = findings
            .into_iter()
            .map(|finding| finding.message)
            .collect();
        assert_eq!(found, expected);
    }

    fn package(name: &str, dependencies: &[(&str, Option<&str>, Option<&str>)]) -> Package {
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|(name, source, kind)| {
                serde_json::json!({ "name": name, "source": source, "kind": kind })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": name, "version": "1.0.0", "license": null, "source": null,
            "dependencies": dependencies, "id": name,
        }))
        .unwrap()
    }

    #[test]
    fn the_arrow_between_our_crates_has_one_direction() {
        let core = package(
            "wiredflow-core",
            &[
                ("serde", Some("registry"), None),
                ("wiredflow-engine", None, None),
                ("tokio", Some("registry"), None),
                ("tokio", Some("registry"), Some("dev")),
            ],
        );
        check_messages(
            arrows(&core),
            &[
                "may not depend on `wiredflow-engine`",
                "may not depend on `tokio`",
            ],
        );
    }

    #[test]
    fn a_new_package_must_be_placed() {
        let message = "xtask/src/tidy/packages.rs does not say what this package may use";
        check_messages(arrows(&package("wiredflow-new", &[])), &[message]);
    }

    #[test]
    fn core_links_nothing_that_does_input_or_output() {
        let metadata = Metadata::load().unwrap();
        assert!(
            metadata.closure("wiredflow-engine").contains("mio"),
            "the walk finds what is deep"
        );
        assert!(!metadata.closure("wiredflow-core").contains("mio"));
    }

    #[test]
    fn each_direct_dependency_has_a_reason_and_each_reason_a_dependency() {
        let table = "| crate | for | instead |\n|---|---|---|\n| `serde` | data | a lot |\n\
                     | `old` | it | that |\n| `bytes` | | slices |\n";
        check_messages(
            reasons(table, &BTreeSet::from(["serde", "bytes", "tokio"])),
            &[
                "`old` is no direct dependency: take the line out",
                "`bytes` wants a use and what we would write instead",
                "`tokio` has no line: why is it wanted?",
            ],
        );
    }
}

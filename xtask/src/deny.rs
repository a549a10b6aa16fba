//! Licences, bans and sources of all dependencies, by the lists in deny.toml.
//!
//! cargo-deny does this and more, and is called too where it is installed. To build it takes
//! longer than all our tests, so the part of deny.toml that this project uses is read here.
//! Advisories about faulty versions are not looked up: their list is not in this repository.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::metadata::{Metadata, Package};
use crate::{Result, spdx, tree};

/// The part of deny.toml that is used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Licenses {
    allow: Vec<String>,
    unused_allowed_license: Level,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: Level,
    #[serde(rename = "wildcards")]
    _wildcards: Level,
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Level,
    unknown_git: Level,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Allow,
    Warn,
    Deny,
}

/// What was found, in sentences.
#[derive(Default)]
struct Report {
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Report {
    fn add(&mut self, level: Level, message: String) {
        match level {
            Level::Allow => {}
            Level::Warn => self.warnings.push(message),
            Level::Deny => self.errors.push(message),
        }
    }
}

/// Checks all dependencies; the error says how many problems were printed.
pub(crate) fn run() -> Result {
    let text = std::fs::read_to_string(tree::root().join("deny.toml"))
        .map_err(|err| format!("cannot read `deny.toml`: {err}"))?;
    let rules: Rules =
        toml::from_str(&text).map_err(|err| format!("cannot read `deny.toml`: {err}"))?;
    let metadata = Metadata::load()?;
    let packages: Vec<&Package> = metadata.foreign().collect();

    let mut report = Report::default();
    check_licenses(&rules.licenses, &packages, &mut report);
    check_bans(&rules.bans, &packages, &mut report);
    check_sources(&rules.sources, &packages, &mut report);

    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    for error in &report.errors {
        println!("error: {error}");
    }
    if !report.errors.is_empty() {
        return Err(format!(
            "{} problems with dependencies",
            report.errors.len()
        ));
    }
    println!(
        "{} packages: licences, bans and sources are in order",
        packages.len()
    );
    cargo_deny()
}

fn check_licenses(rules: &Licenses, packages: &[&Package], report: &mut Report) {
    let mut seen = BTreeSet::new();
    for package in packages {
        let Package { name, version, .. } = package;
        let Some(expression) = &package.license else {
            report.add(Level::Deny, format!("`{name}` {version} names no licence"));
            continue;
        };
        let mut allowed = |licence: &str| {
            seen.insert(licence.to_owned());
            rules.allow.iter().any(|known| known == licence)
        };
        match spdx::satisfied(expression, &mut allowed) {
            Ok(true) => {}
            Ok(false) => report.add(
                Level::Deny,
                format!("`{name}` {version} has the licence `{expression}`, which is not allowed"),
            ),
            Err(err) => report.add(Level::Deny, format!("`{name}` {version}: {err}")),
        }
    }
    for licence in rules
        .allow
        .iter()
        .filter(|licence| !seen.contains(*licence))
    {
        let message = format!("no dependency has the allowed licence `{licence}`: take it out");
        report.add(rules.unused_allowed_license, message);
    }
}

fn check_bans(rules: &Bans, packages: &[&Package], report: &mut Report) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
        if let Some(ban) = rules.deny.iter().find(|ban| ban.name == package.name) {
            report.add(
                Level::Deny,
                format!("`{}` is banned: {}", ban.name, ban.reason),
            );
        }
    }
    let several: Vec<String> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| format!("`{name}` {}", versions.join(" and ")))
        .collect();
    if !several.is_empty() {
        let message = format!("more than one version: {}", several.join(", "));
        report.add(rules.multiple_versions, message);
    }
}

fn check_sources(rules: &Sources, packages: &[&Package], report: &mut Report) {
    let usual = packages
        .iter()
        .filter_map(|package| package.source.as_deref())
        .find(|source| source.starts_with("registry+"));
    for package in packages {
        let name = &package.name;
        match package.source.as_deref() {
            Some(source) if Some(source) == usual => {}
            Some(source) if source.starts_with("git+") => {
                report.add(
                    rules.unknown_git,
                    format!("`{name}` comes from git: `{source}`"),
                );
            }
            source => report.add(
                rules.unknown_registry,
                format!(
                    "`{name}` comes from `{}`",
                    source.unwrap_or("a folder outside")
                ),
            ),
        }
    }
}

/// Asks cargo-deny as well, where it is installed.
fn cargo_deny() -> Result {
    let installed = Command::new(env!("CARGO"))
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        return Ok(());
    }
    let status = Command::new(env!("CARGO"))
        .args([
            "deny",
            "--offline",
            "--locked",
            "check",
            "--hide-inclusion-graph",
        ])
        .args(["licenses", "bans", "sources"])
        .current_dir(tree::root())
        .status()
        .map_err(|err| format!("cannot run `cargo deny`: {err}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("`cargo deny` found problems".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, license: &str, source: &str) -> Package {
        serde_json::from_value(serde_json::json!({
            "name": name, "version": "1.0.0", "license": license, "source": source,
            "dependencies": [], "id": name,
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(packages: &[Package], expected: &[&str]) {
        let rules: Rules = toml::from_str(
            r#"
            licenses = { allow = ["MIT"], unused-allowed-license = "deny" }
            sources = { unknown-registry = "deny", unknown-git = "deny" }
            [bans]
            multiple-versions = "deny"
            wildcards = "allow"
            deny = [{ crate = "bad", reason = "it is bad" }]
            "#,
        )
        .unwrap();
        let packages: Vec<&Package> = packages.iter().collect();
        let mut report = Report::default();
        check_licenses(&rules.licenses, &packages, &mut report);
        check_bans(&rules.bans, &packages, &mut report);
        check_sources(&rules.sources, &packages, &mut report);
        assert_eq!(report.errors, expected);
    }

    #[test]
    fn allowed_packages_pass() {
        check(
            &[package("good", "MIT OR GPL-3.0-only", "registry+usual")],
            &[],
        );
    }

    #[test]
    fn h18_a_licence_that_is_not_allowed_is_named_and_so_is_one_that_nothing_has() {
        check(
            &[package("other", "GPL-3.0-only", "registry+usual")],
            &[
                "`other` 1.0.0 has the licence `GPL-3.0-only`, which is not allowed",
                "no dependency has the allowed licence `MIT`: take it out",
            ],
        );
    }

    #[test]
    fn h18_a_banned_crate_and_a_second_version_are_named() {
        check(
            &[
                package("bad", "MIT", "registry+usual"),
                package("twin", "MIT", "registry+usual"),
                package("twin", "MIT", "registry+usual"),
            ],
            &[
                "`bad` is banned: it is bad",
                "more than one version: `twin` 1.0.0 and 1.0.0",
            ],
        );
    }

    #[test]
    fn h18_git_and_a_second_registry_are_refused() {
        check(
            &[
                package("good", "MIT", "registry+usual"),
                package("fork", "MIT", "git+ssh://somewhere"),
                package("own", "MIT", "registry+elsewhere"),
            ],
            &[
                "`fork` comes from git: `git+ssh://somewhere`",
                "`own` comes from `registry+elsewhere`",
            ],
        );
    }
}

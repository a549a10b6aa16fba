//! Words that have no place in any file: unfinished work, one machine's paths, unknown hosts.

use super::Finding;

/// Words that say that work is left undone.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "unimplemented!", "todo!"];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &["/work/", "/root/", "/home/", "/Users/", "C:\\Users"];

/// Hosts that the project's text may lead to, with what lies under them; addresses, names without
/// a dot and what stands in braces are free.
const HOSTS: &[&str] = &[
    "apache.org",
    "example",
    "example.com",
    "example.net",
    "example.org",
    "internal",
    "invalid",
    "json-schema.org",
    "keepachangelog.com",
    "localhost",
    "mosquitto.org",
    "nexte.st",
    "oasis-open.org",
    "python.org",
    "rfc-editor.org",
    "rust-lang.org",
    "spdx.org",
    "test",
    "w3.org",
    "yaml.org",
];

/// The rules about the words of one file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    if ["Cargo.lock", "LICENSE"].contains(&path) || path.starts_with("xtask/src/tidy/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
            let message = format!("`{word}`: finish it, or write an issue");
            findings.push(Finding::at(path, number, message));
        }
        for start in MACHINE_PATHS
            .iter()
            .filter(|start| has_absolute(line, start))
        {
            let message = format!("a path that begins with `{start}` is one machine's own");
            findings.push(Finding::at(path, number, message));
        }
        for host in hosts(line).filter(|host| !host_is_known(host)) {
            let message =
                format!("`{host}` is not among the hosts that xtask/src/tidy/words.rs lists");
            findings.push(Finding::at(path, number, message));
        }
    }
    findings
}

/// True when `word` stands in `line` and is not a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + word.len()..]);
        !before.ends_with(part) && !after.starts_with(part)
    })
}

/// True when a path in `line` begins with `start`.
fn has_absolute(line: &str, start: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "_-.~/}*".contains(c);
    line.match_indices(start)
        .any(|(at, _)| !line[..at].ends_with(inside))
}

/// The hosts of all `http://` and `https://` addresses in `line`.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").filter_map(|(at, mark)| {
        let scheme = &line[..at];
        if !scheme.ends_with("http") && !scheme.ends_with("https") {
            return None;
        }
        let rest = &line[at + mark.len()..];
        let rest = rest.rsplit_once('@').map_or(rest, |(login, host)| {
            if login.contains(['/', ' ', '"']) {
                rest
            } else {
                host
            }
        });
        let end = rest.find(|c: char| !c.is_alphanumeric() && !".-_{}[]$<>".contains(c));
        Some(&rest[..end.unwrap_or(rest.len())])
    })
}

fn host_is_known(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let free = !host.contains('.')
        || host.contains(['{', '[', '$', '<'])
        || host.chars().all(|c| c.is_ascii_digit() || c == '.');
    free || HOSTS.iter().any(|known| {
        host.strip_suffix(known)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
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
    fn unfinished_work_is_found() {
        check_rule("a.md", "all\nTODO: more", &["a.md:2: `TODO`"]);
        check_rule("a.rs", "fn a() { todo!() }", &["`todo!`"]);
        check_rule("a.rs", "fn mastodont_TODOS() {}", &[]);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        check_rule("a.rs", "open(\"/root/x\")", &["`/root/`"]);
        check_rule("a.md", "cd /home/me/x", &["`/home/`"]);
        check_rule("a.md", "`{dir}/work/x`, docs/work/x and ~/work/x", &[]);
    }

    #[test]
    fn addresses_lead_to_known_hosts_only() {
        check_rule(
            "a.md",
            "see https://packages.somewhere.org/x",
            &["`packages.somewhere.org`"],
        );
        check_rule(
            "a.md",
            "(http://user:pass@elsewhere.org:80/)",
            &["`elsewhere.org`"],
        );
        check_rule(
            "a.md",
            "http://localhost:8027 http://127.0.0.1 http://{address}/a.b http://api.example.com. \
             http://broker:1 https://score.internal/run nats://somewhere.else",
            &[],
        );
    }
}

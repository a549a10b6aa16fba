//! Help, versions, and what is wrong with arguments.

use crate::tool;

/// The verbs that are built, as a user types them.
const VERBS: &[&[&str]] = &[
    &["demo"],
    &["mock"],
    &["init"],
    &["check"],
    &["run"],
    &["profile"],
    &["runs"],
    &["dead-letters"],
    &["dead-letters", "list"],
    &["dead-letters", "show"],
    &["stages"],
    &["status"],
    &["pause"],
    &["resume"],
    &["trigger"],
    &["logs"],
    &["remotes", "test"],
];

/// The verbs of the interface that are not.
const LATER: &[&str] = &["advise", "simulate", "split", "apply"];

#[test]
fn the_help_of_every_verb_has_an_example_of_it() {
    let test = tool();
    for verb in VERBS {
        let help = test.run(verb.iter().chain(&["--help"]));
        help.assert_code(0);
        let examples = help.stdout.split("Examples:").nth(1).unwrap_or_default();
        let words = format!("wiredflow {}", verb.join(" "));
        assert!(
            examples.contains(&words),
            "no {words:?} in\n{}",
            help.stdout
        );
        assert_eq!(help.stderr, "");
    }
}

#[test]
fn the_help_names_every_verb_and_says_which_are_not_built_yet() {
    let test = tool();
    let help = test.run(["--help"]);
    help.assert_code(0);
    let (built, later) = help.stdout.split_once("Not built yet:").unwrap();
    for verb in VERBS {
        assert!(
            built.contains(&format!("\n  {} ", verb[0])),
            "{verb:?}\n{built}"
        );
    }
    for verb in LATER {
        assert!(later.contains(verb), "{verb}\n{later}");
        assert!(!built.contains(&format!("\n  {verb} ")), "{verb}\n{built}");
    }
}

#[test]
fn a_verb_that_is_not_built_yet_is_refused_whatever_stands_behind_it() {
    let test = tool();
    let tails: [&[&str]; 4] = [
        &[],
        &["--help"],
        &["flow.yaml", "--for", "10s"],
        &["-x", "--", "y"],
    ];
    for verb in LATER {
        for tail in tails {
            let refused = test.run([verb].into_iter().chain(tail));
            refused.assert_code(2);
            assert_eq!(
                refused.stderr,
                format!("error: `{verb}` is not built yet\n")
            );
            assert_eq!(refused.stdout, "");
        }
    }
}

#[test]
fn an_option_that_is_not_built_yet_is_refused_and_nothing_runs() {
    let test = tool();
    test.file(
        "flow.yaml",
        "pipelines: {p: {once: true, stages: [{store: {json: {folder: data}}}]}}",
    );
    for (line, what) in [
        ("run flow.yaml --shadow plan.yaml", "--shadow"),
        ("check flow.yaml --engine nats://localhost:4222", "--engine"),
    ] {
        let refused = test.run(line.split(' '));
        refused.assert_code(2);
        assert_eq!(
            refused.stderr,
            format!("error: `{what}` is not built yet\n"),
            "{line}"
        );
    }
    assert!(!test.path(".wiredflow").exists());
}

#[test]
fn e12_an_unknown_verb_or_option_is_answered_with_the_nearest() {
    let test = tool();
    for (line, nearest) in [
        ("chekc flow.yaml", "'check'"),
        ("runn flow.yaml", "'run'"),
        ("grahp", "'graph'"),
        ("run flow.yaml --onec", "'--once'"),
        ("dead-letters lst flow.yaml", "'list'"),
    ] {
        let refused = test.run(line.split(' '));
        refused.assert_code(2);
        assert!(
            refused.stderr.contains(nearest),
            "{line}:\n{}",
            refused.stderr
        );
        assert_eq!(refused.stdout, "");
    }
}

#[test]
fn arguments_that_make_no_sense_are_usage_errors() {
    let test = tool();
    for line in [
        "",
        "check",
        "run",
        "run flow.yaml --for",
        "run flow.yaml --for 10",
        "run flow.yaml --for tomorrow",
        "run flow.yaml --log-level loud",
        "stages http --markdown",
    ] {
        let refused = test.run(line.split(' ').filter(|word| !word.is_empty()));
        refused.assert_code(2);
        assert_eq!(refused.stdout, "", "{line}");
        assert!(!refused.stderr.is_empty());
    }
    let refused = test.run(["run", "flow.yaml", "--for", "90sec"]);
    assert!(
        refused.stderr.contains("is `90s` meant?"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_version_is_told() {
    let version = tool().run(["--version"]);
    version.assert_code(0);
    assert_eq!(
        version.stdout,
        format!("wiredflow {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn output_that_nobody_reads_is_no_panic() {
    let test = wiredflow_testkit::FlowTest::new("bash");
    let binary = env!("CARGO_BIN_EXE_wiredflow");
    for line in ["stages --markdown", "--help", "stages --json"] {
        let script = format!("set -o pipefail; {binary} {line} | true");
        let closed = test.run(["-c", &script]);
        assert!(!closed.stderr.contains("panic"), "{}", closed.stderr);
        closed.assert_code(0);
    }
    let full = test.run(["-c", &format!("{binary} stages --json > /dev/full")]);
    full.assert_code(1);
    assert!(
        full.stderr.contains("cannot write to standard output"),
        "{}",
        full.stderr
    );
}

//! What cannot be reached or is not let in says so, and who must act.

use std::fs;

use wiredflow_testkit::{Signal, Sshd, wait_until};

use super::{A_WHILE, LOGIC, both, check_each_once, through};
use crate::{SOON, tool};

/// Runs five numbers through a host, and gives the exit code and what was said.
fn run_at(sshd: &Sshd) -> (i32, String) {
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(sshd, &test.path("marks"));
    let pipelines = through("counts", 5, "").replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    if ran.code == 0 {
        check_each_once(&test, 5);
    }
    (ran.code, ran.stderr)
}

#[track_caller]
fn check_refused((code, said): (i32, String), parts: &[&str]) {
    assert_eq!(code, 1, "{said}");
    for part in parts {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn g17_a_host_that_is_not_known_or_another_one_is_refused_with_its_key() {
    let mut sshd = Sshd::start();
    let known = fs::read_to_string(sshd.known_hosts()).unwrap();
    fs::write(sshd.known_hosts(), "").unwrap();
    check_refused(run_at(&sshd), &["is not known", &sshd.fingerprint()]);

    fs::write(sshd.known_hosts(), known).unwrap();
    let before = sshd.fingerprint();
    sshd.become_another();
    assert_ne!(before, sshd.fingerprint());
    check_refused(
        run_at(&sshd),
        &["another one than before", &before, &sshd.fingerprint()],
    );
    assert!(sshd.processes("worker").is_empty());
}

#[test]
fn g18_a_key_that_is_not_taken_is_told() {
    let sshd = Sshd::start();
    sshd.forget_keys();
    check_refused(
        run_at(&sshd),
        &["does not take our key", "Permission denied"],
    );
}

#[test]
fn g18_what_a_shell_prints_before_is_passed_over() {
    // In the place of a `.bashrc` that prints: the shell is this user's, and not to be changed.
    let noise = "ForceCommand echo Welcome WFRELAY; echo to this host >&2; exec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let (code, said) = run_at(&Sshd::with(noise));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_machine_of_another_kind_and_one_without_room_are_refused_before_anything_is_copied() {
    // A host on which `uname` and `df` say something else.
    for (name, script, parts) in [
        (
            "uname",
            "case $1 in -s) echo Linux;; *) echo riscv64;; esac",
            ["riscv64", "this program is for"],
        ),
        (
            "df",
            "echo head; echo disk 1 1 100 1 /",
            ["MiB left", "are wanted"],
        ),
        ("getconf", "echo glibc 2.3", ["glibc 2.3", "or newer"]),
    ] {
        let folder = tempfile_of(name, script);
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            folder.path().display()
        );
        let command =
            format!("ForceCommand PATH={path}; export PATH; exec sh -c \"$SSH_ORIGINAL_COMMAND\"");
        let sshd = Sshd::with(&command);
        check_refused(run_at(&sshd), &parts);
        let programs = fs::read_dir(sshd.cache().join("wiredflow/bin"));
        assert_eq!(programs.into_iter().flatten().count(), 0, "{name}");
    }
}

/// A folder with one program.
fn tempfile_of(name: &str, script: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn what_check_can_tell_is_told_at_once() {
    let test = tool();
    test.file("logic.py", LOGIC);
    test.file(
        "flow.yaml",
        r#"
name: t
remotes:
  local: {process: {}}
  odd: {ssh: {host: "-oProxyCommand=touch x"}}
  lost: {ssh: {host: a, identity: no/key, files: ["../out"], env: {"1 a": b}}}
  small: {process: {memory: 1MiB, cpu: 0}}
  far: {workers: {engine: "http://x"}}
  none: {sshh: {host: a}}
pipelines:
  p:
    once: true
    stages:
      - core_logic: {python: "logic.py:counts"}
        remote: [fra, local, local]
      - store: {jsonl: {}}
        remote: small
"#,
    );
    let checked = test.run(["check", "flow.yaml"]);
    checked.assert_code(2);
    for part in [
        "`local` is this process",
        "is no host",
        "there is no file",
        "is not in the flow's folder",
        "cannot be the name of a variable",
        "at least 32MiB",
        "`cpu` must be at least 1",
        "is not the address of an engine",
        "there is no remote `sshh`",
        "there is no remote `fra` under `remotes`",
        "stands here twice",
        "`store` runs where its flow runs",
    ] {
        assert!(
            checked.stdout.contains(part) || checked.stderr.contains(part),
            "{part}\n{}{}",
            checked.stdout,
            checked.stderr
        );
    }
    assert!(!test.path("x").exists());
}

#[test]
fn a_stop_ends_all_that_runs_elsewhere() {
    let sshd = Sshd::start();
    let test = tool();
    test.file("logic.py", LOGIC);
    let marks = test.path("marks");
    let remotes = both(&sshd, &marks);
    let pipelines = through("sleeps", 1, "").replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(A_WHILE, || marks.exists());
    running.signal(Signal::Term);
    running.signal(Signal::Term);
    running.wait(SOON);
    wait_until(SOON, || sshd.processes("").is_empty());
}

//! Tests of `Sshd`.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Output, Stdio},
    thread,
};

use wiredflow_testkit::{Sshd, wait_until};

use crate::{BRIEFLY, SOON};

/// The exit code and what was said on both outputs.
fn told(output: &Output) -> (Option<i32>, String) {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}

#[track_caller]
fn check_fails(sshd: &Sshd, reason: &str) {
    let (code, said) = told(&sshd.ssh("true"));
    assert_eq!(code, Some(255), "{said}");
    assert!(said.contains(reason), "{said}");
}

#[track_caller]
fn check_works(sshd: &Sshd) {
    assert_eq!(told(&sshd.ssh("echo done")), (Some(0), "done\n".to_owned()));
}

/// A client that waits for its command.
fn begin(sshd: &Sshd, command: &str) -> Child {
    let mut client = sshd.client(command);
    client.stdout(Stdio::piped()).stderr(Stdio::piped());
    client.spawn().unwrap()
}

/// Waits until a command has written a file in its home, and gives the words.
#[track_caller]
fn words(sshd: &Sshd, file: &str) -> Vec<String> {
    let file = sshd.home().join(file);
    wait_until(SOON, || file.exists());
    let text = fs::read_to_string(file).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Tells the numbers of the session's process and of the one above it, which is the server where all is root's.
const ABOVE: &str = "echo $PPID $(cut -d ' ' -f 4 /proc/$PPID/stat) > ~/new; mv ~/new ~/above;";

/// Whether a process has not ended; one whose end nobody has asked for yet has.
fn runs(number: &str) -> bool {
    fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_runs_there_has_a_home_of_its_own_and_its_exit_code_comes_back() {
    let hosts = [Sshd::start(), Sshd::start()];
    for sshd in &hosts {
        let output = sshd.ssh("echo $HOME; exit 7");
        let home = format!("{}\n", sshd.home().display());
        assert_eq!(told(&output), (Some(7), home));
        assert_eq!(sshd.connections(), 1);
        assert!(sshd.cache().is_dir());
    }
    assert_ne!(hosts[0].home(), hosts[1].home());
}

#[test]
fn what_its_config_forces_runs_in_place_of_the_command() {
    let noise = "ForceCommand echo noise; exec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let output = Sshd::with(noise).ssh("echo done");
    assert_eq!(told(&output), (Some(0), "noise\ndone\n".to_owned()));
}

#[test]
fn another_host_an_unknown_one_and_a_key_that_is_not_taken_are_refused() {
    let mut sshd = Sshd::start();
    check_works(&sshd);
    sshd.become_another();
    check_fails(&sshd, "REMOTE HOST IDENTIFICATION HAS CHANGED");
    fs::write(sshd.known_hosts(), "").unwrap();
    check_fails(&sshd, "Host key verification failed");

    let sshd = Sshd::start();
    sshd.forget_keys();
    check_fails(&sshd, "Permission denied");
}

#[test]
fn a_cut_ends_the_client_and_the_next_one_comes_through() {
    let sshd = Sshd::start();
    let sleeper = begin(&sshd, "exec sleep 1000");
    wait_until(SOON, || !sshd.processes("sleep").is_empty());
    sshd.cut();
    let ended = sleeper.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(255));
    check_works(&sshd);
    assert_eq!(sshd.connections(), 2);
}

#[test]
fn while_the_cable_is_out_nothing_goes_on_and_nothing_ends() {
    let sshd = Sshd::start();
    sshd.pull_the_cable();
    let mut client = begin(&sshd, "echo done");
    wait_until(SOON, || sshd.connections() == 1);
    thread::sleep(BRIEFLY);
    assert!(client.try_wait().unwrap().is_none());
    sshd.put_the_cable_in();
    let output = client.wait_with_output().unwrap();
    assert_eq!(told(&output), (Some(0), "done\n".to_owned()));
}

#[test]
fn who_is_away_refuses_until_it_comes_back_and_what_it_had_started_goes_on() {
    let mut sshd = Sshd::start();
    let sleeper = begin(&sshd, &format!("{ABOVE} exec sleep 1000"));
    let above = words(&sshd, "above");
    wait_until(SOON, || !sshd.processes("sleep").is_empty());
    let started = sshd.processes("sleep");

    sshd.go_away();
    assert!(above.iter().all(|number| !runs(number)));
    let ended = sleeper.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(255));
    check_fails(&sshd, "kex_exchange_identification");
    assert_eq!(sshd.processes("sleep"), started);

    sshd.come_back();
    check_works(&sshd);
}

#[test]
fn nothing_is_left_when_it_is_dropped() {
    let sshd = Sshd::start();
    // One whose connection has gone, one that has left its session, one without an environment.
    let ways = [
        ("cut", "sleep 1000"),
        ("left", "setsid sleep 1000"),
        ("bare", "env -i sleep 1000"),
    ];
    let mut clients = Vec::new();
    let mut numbers = Vec::new();
    for (file, way) in ways {
        let write = format!("echo $! > ~/new; mv ~/new ~/{file}");
        clients.push(begin(&sshd, &format!("{ABOVE} {way} & {write}; wait")));
        numbers.extend(words(&sshd, file));
        numbers.extend(words(&sshd, "above"));
        if file == "cut" {
            sshd.cut();
        }
    }
    assert!(runs(&numbers[0]));

    let (port, home) = (sshd.port(), sshd.home());
    drop(sshd);
    for client in clients {
        client.wait_with_output().unwrap();
    }
    let left: Vec<_> = numbers.iter().filter(|number| runs(number)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!home.exists());
}

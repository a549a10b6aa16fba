//! The way to a session on another machine: a process beside the flow, whose streams it carries over `ssh`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::pack::{Pack, hex};
use wiredflow_engine::remotes::Host;
use wiredflow_engine::worker::Parting;

use crate::relay::{Carried, Relay, Token};
use crate::session::{LEASE, Setup, read_first};
use crate::settle::{Program, make_venv, settle};
use crate::ssh::{Refusal, Ssh, last_line};
use crate::stdio::{Reader, Writer};
use crate::venv::Venv;

/// How long a broken connection is made again. A session notices within 10 seconds that it is alone, and ends when its
/// lease is over: only after both may a call be tried again elsewhere.
const PATIENCE: Duration = LEASE.saturating_add(Duration::from_secs(15));

/// The first wait before a connection is made again; it doubles up to the second.
const WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long `ssh` may take to say why it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Carries what the flow says to a stage on another machine, and back, until either ends it. The streams begin with
/// the [`Host`].
///
/// Dropping the future leaves the session alone, which ends with its lease.
///
/// # Errors
/// Why the stage cannot run there, or does not any more, and who must act.
pub async fn link(streams: (Reader, Writer), clock: &Clock) -> Result<(), Refusal> {
    let mut told = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let leave = async {
        told.recv().await;
        stop.cancel();
        clock.sleep(LAST_WORDS * 2).await;
    };
    tokio::select! {
        biased;
        ended = carry(streams, &stop, clock) => ended,
        () = leave => Ok(()),
    }
}

async fn carry(
    (mut input, mut output): (Reader, Writer),
    stop: &CancellationToken,
    clock: &Clock,
) -> Result<(), Refusal> {
    let host: Host = read_first(&mut input)
        .await
        .map_err(|error| Refusal::wrong(format!("no host was named: {error}")))?;
    let pack = Pack::of(Path::new(&host.folder), &host.files)
        .map_err(|error| Refusal::wrong(error.message()))?;
    let program = Program::own()?;
    let dice = Dice::from_system();
    let id = hex(&[dice.number().to_be_bytes(), dice.number().to_be_bytes()].concat());
    let mut token = Token::default();
    token[..8].copy_from_slice(&dice.number().to_be_bytes());
    token[8..].copy_from_slice(&dice.number().to_be_bytes());
    let mut env: BTreeMap<String, String> = host.env.iter().cloned().collect();
    env.insert("WIREDFLOW_PYTHON".to_owned(), host.python.clone());
    let mut setup = Setup {
        token: hex(&token),
        code: pack.hash().to_owned(),
        venv: None,
        label: host.label.clone(),
        env,
        lease: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
    };
    let (python, folder) = (host.python.clone(), host.folder.clone());
    let ssh = Ssh::new(host, clock.clone())?;
    let settled = stop.run_until_cancelled(settle(&ssh, &program, &pack, &python));
    let Some(settled) = settled.await else {
        return Ok(());
    };
    let found = settled?;
    tell(&format!("`{}` is {}", ssh.address(), found.told())).await;
    let venv = Venv::of(Path::new(&folder), pack.hash(), &python, &found.python);
    if let Some(venv) = venv.map_err(|error| Refusal::wrong(error.message()))? {
        let made = stop.run_until_cancelled(make_venv(&ssh, &program, &venv));
        match made.await {
            Some(made) => made?,
            None => return Ok(()),
        }
        setup.venv = Some(venv.name().to_owned());
    }

    let relay = Relay::new(token, clock.clone());
    let mut begun = Some(setup.to_bytes()?);
    let mut broken: Option<(Instant, Duration)> = None;
    loop {
        let new = if begun.is_some() { " --new" } else { "" };
        let mut child = ssh.begin_line(&program.line(&format!("--bridge {id}{new}")))?;
        let carried = match (child.stdout.take(), child.stdin.take()) {
            (Some(stdout), Some(mut stdin)) => {
                if let Some(setup) = &begun {
                    // One that has ended already says so below.
                    drop(stdin.write_all(setup).await);
                }
                let close = async {
                    stop.cancelled().await;
                    relay.close();
                    std::future::pending().await
                };
                let again = async {
                    relay.greeting().await;
                    if broken.is_some() {
                        tell(&format!(
                            "the connection to `{}` is there again",
                            ssh.address()
                        ))
                        .await;
                    }
                    std::future::pending().await
                };
                tokio::select! {
                    carried = relay.carry(&mut input, &mut output, stdout, stdin) => carried,
                    carried = close => carried,
                    carried = again => carried,
                }
            }
            _ => return Err(Refusal::away("`ssh` has no streams")),
        };
        let Carried::Broken(error) = carried else {
            return Ok(());
        };
        let (refusal, is_final) = post_mortem(&ssh, child, &error.to_string(), clock).await;
        let is_first = begun.is_some() && !relay.was_greeted();
        if is_final || is_first {
            return Err(refusal);
        }
        begun = None;
        let now = clock.monotonic();
        let was_there = relay.take_greeted();
        let (since, wait) = match broken {
            Some(known) if !was_there => known,
            _ => (now, WAIT),
        };
        if now - since > PATIENCE {
            return Err(refusal);
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        if wait == WAIT {
            tell(&format!("{}; what runs there goes on", refusal.words)).await;
        }
        clock.sleep(wait).await;
        broken = Some((since, (2 * wait).min(LONGEST_WAIT)));
        reconnect(&ssh).await;
    }
}

/// A line for the stage's log: it is read from standard error.
async fn tell(line: &str) {
    // Without a reader there is no flow.
    drop(
        tokio::io::stderr()
            .write_all(format!("{line}\n").as_bytes())
            .await,
    );
}

/// Makes a new connection where the old one does not answer; that there is none is found out by who uses it.
async fn reconnect(ssh: &Ssh) {
    let Ok(_only) = ssh.lock().await else { return };
    if ssh.is_connected().await {
        return;
    }
    ssh.hang_up().await;
    drop(ssh.look("printf WFHERE", "WFHERE").await);
}

/// Why a bridge has ended, and whether nothing can go on.
async fn post_mortem(ssh: &Ssh, mut child: Child, reason: &str, clock: &Clock) -> (Refusal, bool) {
    let mut said = Vec::new();
    let status = async {
        if let Some(stderr) = &mut child.stderr {
            // Without words the status has to do.
            drop(stderr.read_to_end(&mut said).await);
        }
        child.wait().await.ok()
    };
    let status = tokio::select! {
        status = status => status.and_then(|status| status.code()),
        () = clock.sleep(LAST_WORDS) => None,
    };
    drop(child.start_kill());
    let host = ssh.address();
    let last = last_line(&said).unwrap_or(reason);
    match status.map(|status| (status, Parting::of(status))) {
        Some((_, Some(Parting::Gone))) => {
            let words = format!(
                "what ran on `{host}` has gone: it was killed, or the machine had no memory left, or was started anew"
            );
            let parting = Parting::Gone;
            (Refusal { parting, words }, true)
        }
        Some((_, Some(Parting::Wrong))) => {
            let last = last.strip_prefix(Parting::MARK).unwrap_or(last);
            (Refusal::wrong(format!("`{host}`: {last}")), true)
        }
        Some((255, _)) => {
            let refusal = ssh.refusal(&String::from_utf8_lossy(&said)).await;
            let is_final = refusal.parting == Parting::Wrong;
            (refusal, is_final)
        }
        _ => (
            Refusal::away(format!("the connection to `{host}` broke: {last}")),
            false,
        ),
    }
}

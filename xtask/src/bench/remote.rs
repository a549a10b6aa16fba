//! A call to a stage on another machine, beside a bare echo over `ssh`: both to a real sshd on this machine.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Plan;
use super::figures::{Figures, Ratio};
use super::page::Part;
use super::process::Process;
use crate::Result;

/// How long sshd may take to start.
const WITHIN: Duration = Duration::from_secs(10);

/// The bytes of a small and a large message.
const SMALL: usize = 100;
const LARGE: usize = 1 << 20;

/// How often each is sent in a run.
const SMALLS: usize = 500;
const LARGES: usize = 10;

/// What one run gave: milliseconds there and back, and MiB a second there and back, counted once.
#[derive(Clone, Copy)]
struct Outcome {
    trip: f64,
    rate: f64,
}

/// Round trips and large records.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let folder = plan.fresh_folder()?;
    let sshd = Sshd::start(&folder)?;
    let load = super::machine::load();
    let tool = Tool::new(plan, &folder, &sshd)?;
    // The first run copies the program, which is another matter.
    tool.run("there")?;
    let mut rounds = Vec::new();
    for number in 0..plan.pairs {
        // Each is the first as often as the last.
        let round = match number % 2 {
            0 => [sshd.echo()?, tool.run("there")?, tool.run("beside")?],
            _ => {
                let beside = tool.run("beside")?;
                let there = tool.run("there")?;
                [sshd.echo()?, there, beside]
            }
        };
        println!(
            "{} of {}: echo {:.3} ms, ssh {:.3} ms, process {:.3} ms",
            number + 1,
            plan.pairs,
            round[0].trip,
            round[1].trip,
            round[2].trip
        );
        rounds.push(round);
    }
    let column = |place: usize, pick: fn(&Outcome) -> f64| {
        Figures::of(rounds.iter().map(|round| pick(&round[place])))
    };
    let mut text = format!(
        "A call that does nothing, there and back, and a record of 1 MiB, there and back: to a stage with `remote: {{ssh: …}}`, to one with \
         `remote: {{process: …}}`, and to `cat` over one `ssh` connection that stays open, which gets and gives bytes that nobody reads as JSON. sshd is on \
         the same machine. Median of {SMALLS} (200 of the tool's, as `remotes test` makes them) and the quickest of {LARGES} (5) in each of {} runs in turns \
         [least … most]; load average {load} before.\n\n| | p50 of a call, ms | MiB/s |\n|---|---|---|\n",
        plan.pairs
    );
    for (place, name) in ["`ssh … cat`", "**`remote: ssh`**", "**`remote: process`**"]
        .into_iter()
        .enumerate()
    {
        text.push_str(&format!(
            "| {name} | {:.3} | {:.0} |\n",
            column(place, |run| run.trip),
            column(place, |run| run.rate)
        ));
    }
    let ratio = |pick: fn(&Outcome) -> f64| {
        Ratio::of(
            rounds
                .iter()
                .map(|round| (pick(&round[1]), pick(&round[0]))),
        )
    };
    let (trip, rate) = (ratio(|run| run.trip), ratio(|run| run.rate));
    text.push_str(&format!(
        "\n`remote: ssh` as a part of the echo: a call {:.2} ({:.2} to {:.2}), the rate {:.2} ({:.2} to {:.2}).\n",
        trip.median, trip.low, trip.high, rate.median, rate.low, rate.high
    ));
    print!("{text}");
    Ok(Part {
        title: "A call on another machine",
        text,
    })
}

/// The tool with a flow that names both remotes.
struct Tool {
    program: PathBuf,
    flow: PathBuf,
}

impl Tool {
    fn new(plan: &Plan, folder: &Path, sshd: &Sshd) -> Result<Self> {
        let flow = folder.join("flow.yaml");
        let text = format!(
            "name: bench\nremotes:\n  there: {{ssh: {{host: \"{}@127.0.0.1\", port: {}, identity: client_key, known_hosts: known_hosts}}}}\n  \
             beside: {{process: {{}}}}\npipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {{sql: \"select 1 as n\"}}\n      \
             - store: {{jsonl: {{}}}}\n",
            sshd.user, sshd.port
        );
        std::fs::write(&flow, text).map_err(|error| error.to_string())?;
        Ok(Self {
            program: plan.program("wiredflow"),
            flow,
        })
    }

    fn run(&self, remote: &str) -> Result<Outcome> {
        let mut command = Command::new(&self.program);
        command
            .args(["remotes", "test", "--json", "--remote", remote])
            .arg(&self.flow);
        let output = command.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let document: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let figures = &document["remotes"][0];
        let (trip, rate) = (
            &figures["round_trip_ms"]["p50"],
            &figures["bytes_per_second"],
        );
        match (trip.as_f64(), rate.as_f64()) {
            (Some(trip), Some(rate)) => Ok(Outcome {
                trip,
                rate: rate / f64::from(1 << 20),
            }),
            _ => Err(format!("`remotes test` gave no figures: {said}")),
        }
    }
}

/// An OpenSSH server with keys of its own.
struct Sshd {
    _process: Process,
    folder: PathBuf,
    user: String,
    port: u16,
}

impl Sshd {
    fn start(folder: &Path) -> Result<Self> {
        let text = |error: std::io::Error| error.to_string();
        let folder = std::path::absolute(folder).map_err(text)?;
        for key in ["host_key", "client_key"] {
            let mut command = Command::new("ssh-keygen");
            command
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(key));
            let made = command
                .status()
                .map_err(|error| format!("{error} (apt-get install openssh-client)"))?;
            if !made.success() {
                return Err("ssh-keygen made no key".to_owned());
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
        let port = listener.local_addr().map_err(text)?.port();
        drop(listener);
        // It wants this folder; where it is there, making it fails.
        drop(std::fs::create_dir("/run/sshd"));
        let place = folder.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host_key\nAuthorizedKeysFile {place}/client_key.pub\nStrictModes no\n\
             UsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nSetEnv HOME={place}/home\n"
        );
        std::fs::create_dir(folder.join("home")).map_err(text)?;
        std::fs::write(folder.join("sshd_config"), config).map_err(text)?;
        let key = std::fs::read_to_string(folder.join("host_key.pub")).map_err(text)?;
        std::fs::write(
            folder.join("known_hosts"),
            format!("[127.0.0.1]:{port} {key}"),
        )
        .map_err(text)?;
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f"])
            .arg(folder.join("sshd_config"));
        let process = Process::start(&mut command, &folder.join("sshd.log"), false)
            .map_err(|error| format!("{error} (apt-get install openssh-server)"))?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > WITHIN {
                return Err("sshd does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let user = Command::new("id").arg("-un").output().map_err(text)?;
        Ok(Self {
            _process: process,
            folder,
            user: String::from_utf8_lossy(&user.stdout).trim().to_owned(),
            port,
        })
    }

    /// The floor: `cat` over a connection that stays open.
    fn echo(&self) -> Result<Outcome> {
        let mut echo = Echo::start(self)?;
        for _ in 0..SMALLS / 10 {
            echo.trip(SMALL)?;
        }
        let mut trips = Vec::with_capacity(SMALLS);
        for _ in 0..SMALLS {
            trips.push(echo.trip(SMALL)?.as_secs_f64() * 1e3);
        }
        let mut quickest = Duration::MAX;
        for _ in 0..LARGES {
            quickest = quickest.min(echo.trip(LARGE)?);
        }
        Ok(Outcome {
            trip: Figures::of(trips).median,
            rate: 1.0 / quickest.as_secs_f64(),
        })
    }
}

/// One `ssh … cat`. Dropping it ends it.
struct Echo {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Echo {
    fn start(sshd: &Sshd) -> Result<Self> {
        let place = sshd.folder.display();
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-T", "-e", "none", "-o", "BatchMode=yes"]);
        command.args([
            "-o",
            &format!("UserKnownHostsFile={place}/known_hosts"),
            "-i",
        ]);
        command
            .arg(sshd.folder.join("client_key"))
            .args(["-p", &sshd.port.to_string()]);
        command.arg(format!("{}@127.0.0.1", sshd.user)).arg("cat");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(to), Some(from)) => Ok(Self { child, to, from }),
            _ => Err("ssh without its streams".to_owned()),
        }
    }

    /// Sends so many bytes and waits until they are back.
    fn trip(&mut self, length: usize) -> Result<Duration> {
        let bytes = vec![b'x'; length];
        let mut back = vec![0; length];
        let begun = Instant::now();
        if length <= SMALL {
            let sent = self.to.write_all(&bytes).and_then(|()| self.to.flush());
            let back = sent.and_then(|()| self.from.read_exact(&mut back));
            back.map_err(|error| format!("ssh: {error}"))?;
            return Ok(begun.elapsed());
        }
        std::thread::scope(|scope| {
            // More than the pipes hold comes back while it is still being sent.
            let (to, from) = (&mut self.to, &mut self.from);
            let sending = scope.spawn(move || to.write_all(&bytes).and_then(|()| to.flush()));
            let read = from.read_exact(&mut back);
            let sent = sending.join().map_err(|_| "a thread panicked".to_owned())?;
            sent.and(read).map_err(|error| format!("ssh: {error}"))
        })?;
        Ok(begun.elapsed())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

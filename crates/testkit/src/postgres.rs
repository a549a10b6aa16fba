//! A real PostgreSQL server on a free port, with a private folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Identity, Signal,
    owned::{self, Owned},
    processes::below,
    wait::{free_port, holds_within},
};

/// How long it may take to start or to end.
const USUAL: Duration = Duration::from_secs(20);
/// How often another port is tried when one was taken in between.
const ATTEMPTS: usize = 5;

/// The user whom it knows, and the password.
const LOGIN: (&str, &str) = ("flow", "right");

/// A server with a database `plant`. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Owned>,
    tls: bool,
}

impl Postgres {
    /// Starts one.
    #[track_caller]
    pub fn start() -> Self {
        Self::launched(None)
    }

    /// Starts one that takes TLS and nothing else.
    #[track_caller]
    pub fn with_tls(identity: &Identity) -> Self {
        Self::launched(Some(identity))
    }

    #[track_caller]
    fn launched(identity: Option<&Identity>) -> Self {
        let mut postgres = Self {
            folder: tempfile::tempdir().unwrap(),
            programs: programs(),
            port: 0,
            server: None,
            tls: identity.is_some(),
        };
        postgres.furnish(identity);
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            postgres.port = free_port();
            match postgres.launch() {
                Ok(()) => {
                    postgres.psql("postgres", "CREATE DATABASE plant");
                    return postgres;
                }
                Err(error) => reason = error,
            }
        }
        panic!("PostgreSQL did not start: {reason}");
    }

    /// Makes the files of the server. Only another user than root may do that, and start it.
    fn furnish(&self, identity: Option<&Identity>) {
        fs::write(self.path("password"), LOGIN.1).unwrap();
        if let Some(identity) = identity {
            fs::copy(&identity.certificate, self.path("server.pem")).unwrap();
            fs::copy(&identity.key, self.path("server.key")).unwrap();
            // It takes no key that others may read.
            fs::set_permissions(self.path("server.key"), fs::Permissions::from_mode(0o600))
                .unwrap();
        }
        if is_root() {
            let given = Command::new("chown")
                .args(["-R", "postgres"])
                .arg(self.folder.path())
                .status();
            assert!(
                given.unwrap().success(),
                "there is no user `postgres`: `scripts/test` installs it"
            );
        }
        let made = self
            .command("initdb")
            .args(["-A", "scram-sha-256", "-U", LOGIN.0, "--no-sync", "-D"])
            .arg(self.path("data"))
            .arg(format!("--pwfile={}", self.path("password").display()))
            .output()
            .expect("initdb runs");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb: {said}");
        if self.tls {
            let rules = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
            fs::write(self.path("data/pg_hba.conf"), rules).unwrap();
        }
    }

    fn launch(&mut self) -> Result<(), String> {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.path("data"))
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.folder.path().display()
            ))
            .stderr(log);
        if self.tls {
            command.args([
                "-c",
                "ssl=on",
                "-c",
                "ssl_cert_file=../server.pem",
                "-c",
                "ssl_key_file=../server.key",
            ]);
        }
        let mut server = Owned::start(&mut command).expect("postgres starts");
        let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
        let mut ended = false;
        let ready = holds_within(USUAL, || {
            ended = server.wait(Duration::ZERO).is_some();
            ended || log().contains("ready to accept connections")
        });
        if ended || !ready {
            return Err(log());
        }
        self.server = Some(server);
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match is_root() {
            false => Command::new(program),
            true => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
                    .arg(program);
                command
            }
        };
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `postgres://USER:PASSWORD@127.0.0.1:PORT/plant`.
    pub fn url(&self) -> String {
        let (user, password) = LOGIN;
        format!("postgres://{user}:{password}@127.0.0.1:{}/plant", self.port)
    }

    /// What the server's own client answers to a statement: a line for each row, `|` between its columns.
    #[track_caller]
    pub fn ask(&self, sql: &str) -> String {
        self.psql("plant", sql)
    }

    #[track_caller]
    fn psql(&self, database: &str, sql: &str) -> String {
        let ran = Command::new(self.programs.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
            ])
            .args([
                "-p",
                &self.port.to_string(),
                "-U",
                LOGIN.0,
                "-d",
                database,
                "-c",
                sql,
            ])
            .env("PGPASSWORD", LOGIN.1)
            .stdin(Stdio::null())
            .output()
            .expect("psql runs");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{sql}: {said}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Ends it by SIGKILL, with all that it has started.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.signal(Signal::Kill);
        let mut server = self.server.take().expect("PostgreSQL runs");
        server.wait(USUAL).expect("PostgreSQL ends on SIGKILL");
    }

    /// Freezes it, with all that it has started: connections stay open and nothing answers, until `thaw`.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::Stop);
    }

    /// Lets it go on after `freeze`.
    #[track_caller]
    pub fn thaw(&self) {
        self.signal(Signal::Continue);
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().expect("PostgreSQL runs");
        // Each is the leader of a session of its own.
        for process in below(server.child.id()) {
            owned::signal(process.number, signal);
        }
        server.signal(signal);
    }

    /// Starts it again, on the same port and folder.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "PostgreSQL runs already");
        let mut reason = String::new();
        // What it has started may take a moment to end, and some outgoing connection may have the port.
        let started = holds_within(USUAL, || {
            self.launch().map_err(|error| reason = error).is_ok()
        });
        assert!(started, "PostgreSQL did not start again: {reason}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.signal(Signal::Kill);
        }
    }
}

/// The folder of the newest version's programs: Debian does not put them where commands are looked for.
#[track_caller]
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("initdb").exists())
        .collect();
    found.sort();
    let newest = found.pop();
    newest
        .expect("PostgreSQL is there: `scripts/test` installs it")
        .1
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

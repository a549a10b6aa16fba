//! The system's `ssh`, and what it says when it fails.
//!
//! One connection for each host, whatever the number of stages and processes: the first command makes it (`ControlMaster`),
//! all others go through it, and it ends some seconds after the last of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::pack::{hex, make};
use wiredflow_engine::remotes::Host;
use wiredflow_engine::worker::Parting;

/// How long the host may take to let us in.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a command may take that only looks.
const LOOK: Duration = Duration::from_secs(30);

/// How long the connection stays when nobody uses it.
const PERSIST: Duration = Duration::from_secs(20);

/// The exit status of `ssh` for its own failures.
const OWN_FAILURE: i32 = 255;

/// Why something cannot be done over there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who must act.
    pub parting: Parting,
    /// For people.
    pub words: String,
}

impl Refusal {
    /// The place cannot be reached now.
    pub(crate) fn away(words: impl Into<String>) -> Self {
        let (parting, words) = (Parting::Away, words.into());
        Self { parting, words }
    }

    /// The user must change something.
    pub(crate) fn wrong(words: impl Into<String>) -> Self {
        let (parting, words) = (Parting::Wrong, words.into());
        Self { parting, words }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::away(error.to_string())
    }
}

/// The way to one host.
#[derive(Debug)]
pub(crate) struct Ssh {
    host: Host,
    control: PathBuf,
    clock: Clock,
}

impl Ssh {
    pub(crate) fn new(host: Host, clock: Clock) -> Result<Self, Refusal> {
        let folder = control_folder()?;
        let Host {
            host: name,
            port,
            identity,
            known_hosts,
            ..
        } = &host;
        let what = format!("{name}\0{port:?}\0{identity:?}\0{known_hosts:?}");
        let digest = hex(&Sha256::digest(what.as_bytes()));
        // A socket's path is short: 104 bytes at most on some systems.
        let control = folder.join(&digest[..16]);
        Ok(Self {
            host,
            control,
            clock,
        })
    }

    /// The host as the user writes it.
    pub(crate) fn address(&self) -> &str {
        &self.host.host
    }

    /// `ssh` with everything but the command to run there.
    fn client(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A group of its own: ^C at a terminal is for the flow, which ends this in order.
        ssh.process_group(0);
        ssh.args(["-T", "-x", "-a", "-e", "none"]);
        let seconds = CONNECT.as_secs();
        for option in [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "ClearAllForwardings=yes".to_owned(),
            "PermitLocalCommand=no".to_owned(),
            "RemoteCommand=none".to_owned(),
            "LogLevel=ERROR".to_owned(),
            "ServerAliveInterval=5".to_owned(),
            "ServerAliveCountMax=3".to_owned(),
            format!("ConnectTimeout={seconds}"),
            format!(
                "ControlPath={}",
                for_option(&self.control.to_string_lossy())
            ),
        ] {
            ssh.args(["-o", &option]);
        }
        let Host {
            port,
            identity,
            known_hosts,
            ..
        } = &self.host;
        if let Some(port) = port {
            ssh.args(["-p", &port.to_string()]);
        }
        if let Some(identity) = identity {
            ssh.args([
                "-o",
                &format!("IdentityFile={}", for_option(identity)),
                "-o",
                "IdentitiesOnly=yes",
            ]);
        }
        if let Some(file) = known_hosts {
            ssh.args(["-o", &format!("UserKnownHostsFile={}", for_option(file))]);
        }
        ssh
    }

    /// Takes the only place to set up this host from this machine, for all processes of this user. Given back when it is
    /// dropped.
    pub(crate) async fn lock(&self) -> Result<File, Refusal> {
        let file = File::create(self.control.with_extension("lock"))?;
        loop {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    self.clock.sleep(Duration::from_millis(50)).await
                }
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Runs a script there, by `sh`, over the connection, which is made if there is none. Its output begins with `mark`: what
    /// a shell may print before is cut off.
    pub(crate) async fn look(&self, script: &str, mark: &str) -> Result<String, Refusal> {
        let persist = format!("ControlPersist={}", PERSIST.as_secs());
        let mut ssh = self.client();
        ssh.args([
            "-o",
            "ControlMaster=auto",
            "-o",
            &persist,
            "--",
            self.address(),
            "exec sh -s",
        ]);
        let output = self.run(ssh, script.as_bytes(), LOOK).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.split_once(mark) {
            Some((_, after)) => Ok(after.to_owned()),
            None => Err(Refusal::wrong(format!(
                "`{}` runs no `sh` for us: {}",
                self.address(),
                last_line(&output.stderr).unwrap_or("it answers nothing")
            ))),
        }
    }

    /// Runs a line of the shell there over the connection that is made; what cannot be run is an error, how it ends is not.
    pub(crate) async fn run_line(
        &self,
        line: &str,
        input: &[u8],
        within: Duration,
    ) -> Result<Output, Refusal> {
        let mut ssh = self.client();
        ssh.args(["-o", "ControlMaster=no", "--", self.address(), &in_sh(line)]);
        self.run(ssh, input, within).await
    }

    /// Begins a line of the shell there, with its streams as pipes.
    pub(crate) fn begin_line(&self, line: &str) -> Result<Child, Refusal> {
        let mut ssh = self.client();
        ssh.args(["-o", "ControlMaster=no", "--", self.address(), &in_sh(line)]);
        ssh.stdin(Stdio::piped());
        ssh.spawn().map_err(|error| no_client(&error))
    }

    /// Whether the connection answers.
    pub(crate) async fn is_connected(&self) -> bool {
        let mut ssh = self.client();
        ssh.args([
            "-o",
            "ControlMaster=no",
            "-O",
            "check",
            "--",
            self.address(),
        ]);
        let checked = self.run(ssh, b"", Duration::from_secs(3)).await;
        let is_up = checked.is_ok_and(|output| output.status.success());
        // The master answers for itself: whether the host does, only the host can say.
        is_up
            && self
                .run_line("printf WFHERE", b"", Duration::from_secs(5))
                .await
                .is_ok()
    }

    /// Lets go of a connection that does not answer, so that the next command makes a new one.
    pub(crate) async fn hang_up(&self) {
        let mut ssh = self.client();
        ssh.args(["-O", "exit", "--", self.address()]);
        drop(self.run(ssh, b"", Duration::from_secs(3)).await);
        // A master that does not answer keeps its socket, which would be taken for one that does.
        drop(fs::remove_file(&self.control));
    }

    async fn run(
        &self,
        mut ssh: Command,
        input: &[u8],
        within: Duration,
    ) -> Result<Output, Refusal> {
        ssh.stdin(Stdio::piped());
        let mut child = ssh.spawn().map_err(|error| no_client(&error))?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that ends early says why by its status.
                drop(stdin.write_all(input).await);
            }
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::select! {
            output = run => output?,
            () = self.clock.sleep(within) => {
                let words = format!("`{}` gives no answer within {within:?}", self.address());
                return Err(Refusal::away(words));
            }
        };
        match output.status.code() {
            Some(OWN_FAILURE) => Err(self.refusal(&String::from_utf8_lossy(&output.stderr)).await),
            _ => Ok(output),
        }
    }

    /// What a failure of `ssh` itself means.
    pub(crate) async fn refusal(&self, said: &str) -> Refusal {
        let host = self.address();
        let last = last_line(said.as_bytes()).unwrap_or("ssh failed and did not say why");
        if said.contains("Host key verification failed")
            || said.contains("IDENTIFICATION HAS CHANGED")
        {
            return Refusal::wrong(self.about_keys().await);
        }
        let is = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if is(&[
            "Permission denied",
            "Too many authentication failures",
            "No more authentication methods",
        ]) {
            return Refusal::wrong(format!(
                "`{host}` does not take our key: {last}; look at `identity` or your agent, and at ~/.ssh/authorized_keys there"
            ));
        }
        if is(&[
            "Bad configuration option",
            "Bad owner or permissions",
            "UNPROTECTED PRIVATE KEY",
            "no hostkey alg",
        ]) {
            return Refusal::wrong(format!("`ssh` cannot be used: {last}"));
        }
        Refusal::away(format!("`{host}` cannot be reached: {last}"))
    }

    /// The key that the host has shown, and those that are known.
    async fn about_keys(&self) -> String {
        let host = self.address();
        let mut ssh = self.client();
        ssh.args(["-v", "-o", "ControlMaster=no", "--", host, "true"]);
        let said = self.output_of(ssh).await;
        let shown = said
            .lines()
            .find_map(|line| line.split_once("Server host key: "))
            .map(|(_, key)| key.trim());
        let shown = shown.unwrap_or("(it did not show it again)");
        let mut ssh = self.client();
        ssh.args(["-G", "--", host]);
        let settings = self.output_of(ssh).await;
        let setting = |name: &str| {
            let line = settings
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_default().to_owned()
        };
        let (address, port) = (setting("hostname"), setting("port"));
        let name = match port.as_str() {
            "22" | "" => address.clone(),
            port => format!("[{address}]:{port}"),
        };
        let mut known = Vec::new();
        let files = match &self.host.known_hosts {
            Some(file) => vec![file.clone()],
            None => setting("userknownhostsfile")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        };
        for file in &files {
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-l", "-F", &name, "-f", file])
                .kill_on_drop(true);
            keygen
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let found = self.output_of(keygen).await;
            let keys = found
                .lines()
                .filter(|line| !line.starts_with('#') && line.contains("SHA256:"));
            known.extend(keys.map(|key| format!("{} in {file}", key.trim())));
        }
        let files = files.join(", ");
        match known.is_empty() {
            true => format!(
                "the host `{name}` is not known: it shows the key {shown}, and {files} has none for it; compare the key with the \
                 host's own (`ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub` there), then add it"
            ),
            false => format!(
                "the host `{name}` is another one than before: it shows the key {shown}, and known is {}; if that is right, take \
                 the old line out (`ssh-keygen -R`) and add the new one; if not, somebody is in between",
                known.join(", ")
            ),
        }
    }

    /// All that a command says, on both its streams.
    async fn output_of(&self, mut command: Command) -> String {
        let run = async {
            let output = command.spawn()?.wait_with_output().await?;
            let said = [output.stdout, output.stderr].concat();
            Ok::<_, io::Error>(String::from_utf8_lossy(&said).into_owned())
        };
        tokio::select! {
            said = run => said.unwrap_or_default(),
            () = self.clock.sleep(LOOK) => String::new(),
        }
    }
}

fn no_client(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Refusal::wrong("there is no `ssh` on this machine: install openssh-client")
        }
        _ => Refusal::away(format!("`ssh` cannot be started: {error}")),
    }
}

/// A line for `sh`, as any login shell hands it on: in single quotes, which is why it has none.
fn in_sh(line: &str) -> String {
    debug_assert!(!line.contains(['\'', '!', '\n', '\\']), "{line}");
    format!("exec sh -c '{line}'")
}

/// A path in the words of `ssh_config`: quoted, and `%` doubled.
fn for_option(path: &str) -> String {
    format!("\"{}\"", path.replace('%', "%%"))
}

/// The last line that says something.
pub(crate) fn last_line(said: &[u8]) -> Option<&str> {
    let text = str::from_utf8(said).ok()?;
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// A folder for sockets, which is this user's alone.
fn control_folder() -> Result<PathBuf, Refusal> {
    let user = rustix::process::getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_dir());
    let folder = match runtime {
        Some(runtime) => runtime.join("wiredflow-ssh"),
        None => Path::new("/tmp").join(format!("wiredflow-ssh-{user}")),
    };
    let made = make(&folder).and_then(|()| fs::symlink_metadata(&folder));
    let data = made.map_err(|error| {
        Refusal::wrong(format!("`{}` cannot be made: {error}", folder.display()))
    })?;
    if !data.is_dir() || data.uid() != user || data.mode() & 0o077 != 0 {
        return Err(Refusal::wrong(format!(
            "`{}` is for others too, and sockets for ssh must not be: take it away",
            folder.display()
        )));
    }
    Ok(folder)
}

//! A real OpenSSH server on a free port, with a private folder, behind a proxy that can harm its connections.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Fault, FaultProxy, Signal,
    network::Network,
    owned::{self, Owned},
    processes::{self, below},
    wait::{free_port, holds_within},
};

/// How long it may take to start or to end.
const USUAL: Duration = Duration::from_secs(10);
/// How often another port is tried when one was taken in between.
const ATTEMPTS: usize = 5;
/// After how many seconds a command of `ssh` is ended.
const COMMAND_WITHIN: &str = "30";

/// Where Debian keeps it: sshd wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// A server that lets the user of this process in with one key, behind a proxy.
///
/// What runs there has a home folder of its own, by `$HOME`, so that several of them on one machine are several hosts.
/// It begins in the user's real home folder all the same: that is sshd's doing.
///
/// Dropping it ends it and all that runs there: what is below the server, and what still has its `$HOME`.
#[derive(Debug)]
pub struct Sshd {
    folder: TempDir,
    server: Option<Owned>,
    port: u16,
    proxy: FaultProxy,
    network: Option<Network>,
}

impl Sshd {
    /// Starts one.
    #[track_caller]
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one in a network of its own, with no proxy before it: its cable can be pulled.
    ///
    /// # Errors
    /// Why there can be no such network.
    #[track_caller]
    pub fn in_a_network_of_its_own() -> Result<Self, String> {
        Network::make().map(|network| Self::placed("", &Cell::new(Some(network))))
    }

    /// Starts one with more lines in its config, before our own: the first word on a thing counts.
    ///
    /// `ForceCommand` stands in for a login shell, which is this user's and not to be changed: one that prints, as by
    /// its `.bashrc`, is `ForceCommand echo noise; exec sh -c "$SSH_ORIGINAL_COMMAND"`, and another shell is
    /// `ForceCommand exec csh -c "$SSH_ORIGINAL_COMMAND"`.
    #[track_caller]
    pub fn with(lines: &str) -> Self {
        Self::placed(lines, &Cell::new(None))
    }

    #[track_caller]
    fn placed(lines: &str, network: &Cell<Option<Network>>) -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "there is no {SSHD}: `scripts/test` installs it (openssh-server)"
        );
        // It wants this folder, also where it runs as somebody who cannot make it.
        drop(fs::create_dir_all("/run/sshd"));
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let port = free_port();
            let mut sshd = Self {
                proxy: FaultProxy::before(port),
                folder: tempfile::tempdir().unwrap(),
                server: None,
                port,
                network: network.take(),
            };
            sshd.furnish(lines);
            match sshd.launch() {
                Ok(()) => return sshd,
                Err(error) => {
                    reason = error;
                    network.set(sshd.network.take());
                }
            }
        }
        panic!("sshd did not start: {reason}");
    }

    /// Makes its folders, its keys and its config.
    fn furnish(&self, lines: &str) {
        fs::create_dir_all(self.cache()).unwrap();
        self.new_key("client_key");
        self.new_key("host_key");
        fs::copy(self.path("client_key.pub"), self.path("authorized_keys")).unwrap();
        let (place, port, host) = (self.folder.path().display(), self.port, self.host());
        let config = format!(
            "{lines}\nPort {port}\nListenAddress {host}\nHostKey {place}/host_key\n\
             AuthorizedKeysFile {place}/authorized_keys\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxSessions 100\nMaxStartups 100\n\
             PrintMotd no\nPermitUserRC no\nSetEnv HOME={}\n",
            self.home().display()
        );
        fs::write(self.path("sshd_config"), config).unwrap();
        let key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        let known = format!("[{host}]:{} {key}", self.port());
        fs::write(self.known_hosts(), known).unwrap();
    }

    fn launch(&mut self) -> Result<(), String> {
        // Emptied, so that what it says is of this start.
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = match &self.network {
            Some(network) => network.command(SSHD),
            None => Command::new(SSHD),
        };
        command
            .args(["-D", "-e", "-f"])
            .arg(self.path("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut server = Owned::start(&mut command).expect("sshd starts");
        let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
        // Its own word, since another program may have been quicker to the port, and answer there.
        let mut ended = false;
        let listens = holds_within(USUAL, || {
            ended = server.wait(Duration::ZERO).is_some();
            ended || log().contains("Server listening on ")
        });
        if ended || !listens {
            return Err(log());
        }
        self.server = Some(server);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn new_key(&self, name: &str) {
        drop(fs::remove_file(self.path(name)));
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(self.path(name))
            .stdin(Stdio::null())
            .status()
            .expect("ssh-keygen runs: openssh-client");
        assert!(made.success(), "ssh-keygen made no key");
    }

    /// The keys of `ssh:` in a flow file that lead here.
    pub fn route(&self) -> String {
        format!(
            "host: {}@{}, port: {}, identity: {}, known_hosts: {}",
            self.user(),
            self.host(),
            self.port(),
            self.identity().display(),
            self.known_hosts().display()
        )
    }

    /// The address at which clients come in.
    pub fn host(&self) -> &str {
        self.network.as_ref().map_or("127.0.0.1", Network::address)
    }

    /// The port at which clients come in: the proxy's, or in a network of its own the server's.
    pub fn port(&self) -> u16 {
        match self.network {
            Some(_) => self.port,
            None => self.proxy.port(),
        }
    }

    /// Who is let in: the user of this process.
    pub fn user(&self) -> String {
        let said = Command::new("id").arg("-un").output().expect("id runs");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// The file of the key with which the user is let in.
    pub fn identity(&self) -> PathBuf {
        self.path("client_key")
    }

    /// The home folder of what runs there. Where the login shell is bash, it reads its `.bashrc` here.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The folder in which what runs there keeps its cache: `.cache` in its home.
    pub fn cache(&self) -> PathBuf {
        self.home().join(".cache")
    }

    /// The file of known hosts, to be changed. It has the first host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.path("known_hosts")
    }

    /// The real client with a command to run there, with nothing at its standard input. It is ended after half a
    /// minute, with exit code 124; what the client itself cannot do has exit code 255.
    pub fn client(&self, command: &str) -> Command {
        let known_hosts = format!("UserKnownHostsFile={}", self.known_hosts().display());
        let mut client = Command::new("timeout");
        client
            .args([COMMAND_WITHIN, "ssh", "-n", "-F", "none"])
            .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "GlobalKnownHostsFile=none", "-o", &known_hosts])
            .args(["-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes"])
            .arg("-i")
            .arg(self.identity())
            .args(["-p", &self.port().to_string(), "-l", &self.user()])
            .args([self.host(), command]);
        client
    }

    /// Runs a command there by the real client, as `client` says.
    #[track_caller]
    pub fn ssh(&self, command: &str) -> Output {
        let ran = self.client(command).output();
        ran.expect("timeout runs: coreutils")
    }

    /// The fingerprint of its host key, `SHA256:…`.
    #[track_caller]
    pub fn fingerprint(&self) -> String {
        let said = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(self.path("host_key.pub"))
            .output();
        let said = String::from_utf8(said.unwrap().stdout).unwrap();
        said.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// How many connections have come to the proxy until now.
    pub fn connections(&self) -> usize {
        self.proxy.connections()
    }

    /// Ends all connections now; new ones are taken.
    pub fn cut(&self) {
        self.proxy.cut();
    }

    /// Nothing goes through, and nothing is closed: a cable that somebody has pulled.
    pub fn pull_the_cable(&self) {
        match &self.network {
            Some(network) => network.pull_the_cable(),
            None => self.proxy.both(Fault::Silence),
        }
    }

    /// The cable is in again.
    pub fn put_the_cable_in(&self) {
        match &self.network {
            Some(network) => network.put_the_cable_in(),
            None => self.proxy.both(Fault::None),
        }
    }

    /// Ends the server and all connections; what was started there goes on. The proxy closes at once what comes.
    pub fn go_away(&mut self) {
        self.end_server(|name| name.starts_with("sshd"));
    }

    /// Starts the server again after `go_away`.
    #[track_caller]
    pub fn come_back(&mut self) {
        assert!(self.server.is_none(), "sshd runs already");
        let mut reason = String::new();
        // Some outgoing connection may have the port for a moment.
        let started = holds_within(USUAL, || {
            self.launch().map_err(|error| reason = error).is_ok()
        });
        assert!(started, "sshd did not start again: {reason}");
    }

    /// Ends the server, all connections, and those of the processes below the server whose names are chosen.
    fn end_server(&mut self, chosen: impl Fn(&str) -> bool) {
        if let Some(server) = self.server.take() {
            // Each session is a process that would live on. Frozen, the server begins no other.
            server.signal(Signal::Stop);
            holds_within(USUAL, || {
                let mut sessions = below(server.child.id());
                sessions.retain(|process| chosen(&process.name));
                for session in &sessions {
                    owned::signal(session.number, Signal::Kill);
                }
                sessions.is_empty()
            });
        }
        self.proxy.cut();
    }

    /// Makes another host of it, which shows another key at the same place; the file of known hosts stays.
    #[track_caller]
    pub fn become_another(&mut self) {
        self.go_away();
        self.new_key("host_key");
        self.come_back();
    }

    /// Takes no key any more: who comes is not let in.
    pub fn forget_keys(&self) {
        fs::write(self.path("authorized_keys"), "").unwrap();
    }

    /// The numbers of the processes that run there and have this text in their arguments.
    pub fn processes(&self, text: &str) -> Vec<u32> {
        processes::marked(&format!("HOME={}", self.home().display()), text)
    }

    /// Sends a signal to all of these processes.
    pub fn signal(&self, text: &str, signal: Signal) {
        for number in self.processes(text) {
            // It may have ended meanwhile.
            owned::signal(number, signal);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end_server(|_| true);
        holds_within(USUAL, || {
            self.signal("", Signal::Kill);
            self.processes("").is_empty()
        });
    }
}

//! A real OpenSSH server on a free port, with a private folder, behind a proxy that can harm its connections.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Fault, FaultProxy, Signal,
    owned::Owned,
    wait::{free_port, holds_within},
};

/// How long it may take to start.
const USUAL: Duration = Duration::from_secs(10);

/// Where Debian keeps it: sshd wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// A server that lets this user in with one key. What runs there keeps its cache in a folder of its own, so that
/// several of them on one machine are several hosts. Dropping it ends it and all that runs there.
#[derive(Debug)]
pub struct Sshd {
    folder: TempDir,
    server: Option<Owned>,
    port: u16,
    proxy: FaultProxy,
}

impl Sshd {
    /// Starts one.
    #[track_caller]
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one with more lines in its config, before our own: the first word on a thing counts.
    #[track_caller]
    pub fn with(lines: &str) -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "there is no {SSHD}: `scripts/test` installs it (openssh-server)"
        );
        // It wants this folder, also where it runs as somebody who cannot make it.
        drop(fs::create_dir_all("/run/sshd"));
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let sshd = Self {
            proxy: FaultProxy::before(port),
            folder,
            server: None,
            port,
        };
        fs::create_dir(sshd.cache()).unwrap();
        sshd.new_key("client_key");
        sshd.new_key("host_key");
        fs::copy(sshd.path("client_key.pub"), sshd.path("authorized_keys")).unwrap();
        let place = sshd.folder.path().display();
        let config = format!(
            "{lines}\nPort {port}\nListenAddress 127.0.0.1\nHostKey {place}/host_key\n\
             AuthorizedKeysFile {place}/authorized_keys\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxSessions 100\nMaxStartups 100\n\
             PrintMotd no\nSetEnv XDG_CACHE_HOME={place}/cache\n"
        );
        fs::write(sshd.path("sshd_config"), config).unwrap();
        sshd.write_known_hosts();
        let mut sshd = sshd;
        sshd.come_back();
        sshd
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

    fn write_known_hosts(&self) {
        let key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        let known = format!("[127.0.0.1]:{} {key}", self.proxy.port());
        fs::write(self.path("known_hosts"), known).unwrap();
    }

    /// The keys of `ssh:` in a flow file that lead here.
    pub fn route(&self) -> String {
        format!(
            "host: {}@127.0.0.1, port: {}, identity: {}, known_hosts: {}",
            user(),
            self.proxy.port(),
            self.path("client_key").display(),
            self.path("known_hosts").display()
        )
    }

    /// The folder in which what runs there keeps its cache.
    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The file of known hosts, to be changed.
    pub fn known_hosts(&self) -> PathBuf {
        self.path("known_hosts")
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

    /// How many connections have come until now.
    pub fn connections(&self) -> usize {
        self.proxy.connections()
    }

    /// Ends all connections now; new ones are taken.
    pub fn cut(&self) {
        self.proxy.cut();
    }

    /// Nothing goes through, and nothing is closed: a cable that somebody has pulled.
    pub fn pull_the_cable(&self) {
        self.proxy.both(Fault::Silence);
    }

    /// The cable is in again.
    pub fn put_the_cable_in(&self) {
        self.proxy.both(Fault::None);
    }

    /// Ends the server and all connections; what was started there goes on.
    pub fn go_away(&mut self) {
        self.server = None;
        self.proxy.cut();
    }

    /// Starts the server, again after `go_away`.
    #[track_caller]
    pub fn come_back(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut command = Command::new(SSHD);
        command
            .args(["-D", "-e", "-f"])
            .arg(self.path("sshd_config"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.server = Some(Owned::start(&mut command).expect("sshd starts"));
        let port = self.port;
        let listens = holds_within(USUAL, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(listens, "sshd does not listen:\n{}", log());
    }

    /// Makes another host of it, which shows another key at the same place.
    #[track_caller]
    pub fn become_another(&mut self) {
        self.go_away();
        self.new_key("host_key");
        self.come_back();
    }

    /// Takes no key any more.
    pub fn forget_keys(&self) {
        fs::write(self.path("authorized_keys"), "").unwrap();
    }

    /// The numbers of the processes that run there and have this text in their arguments.
    pub fn processes(&self, text: &str) -> Vec<u32> {
        let mark = format!("XDG_CACHE_HOME={}", self.cache().display());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers
            .filter(|number| {
                let file =
                    |name: &str| fs::read(format!("/proc/{number}/{name}")).unwrap_or_default();
                let has = |bytes: Vec<u8>, text: &str| {
                    bytes
                        .split(|byte| *byte == 0)
                        .any(|part| String::from_utf8_lossy(part).contains(text))
                };
                has(file("environ"), &mark) && has(file("cmdline"), text)
            })
            .collect()
    }

    /// Sends a signal to all of these processes.
    pub fn signal(&self, text: &str, signal: Signal) {
        for number in self.processes(text) {
            // It may have ended meanwhile.
            crate::owned::signal(number, signal);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.go_away();
        holds_within(USUAL, || {
            self.signal("", Signal::Kill);
            self.processes("").is_empty()
        });
    }
}

/// The user who runs this.
fn user() -> String {
    let said = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

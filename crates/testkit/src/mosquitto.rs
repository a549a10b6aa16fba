//! A real mosquitto on a free port, with a private folder.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Collector, Identity, Signal,
    mqtt::{Client, Login},
    owned::Owned,
    wait::{free_port, holds_within},
};

/// How long mosquitto may take to start or to end.
const USUAL: Duration = Duration::from_secs(10);
/// How often another port is tried when one was taken in between.
const ATTEMPTS: usize = 5;

/// A mosquitto of the test's own. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct Mosquitto {
    running: Option<Owned>,
    options: MosquittoOptions,
    login: Option<Login>,
    port: u16,
    tls_port: u16,
    folder: TempDir,
    collectors: AtomicUsize,
    forgotten: AtomicU64,
    launches: usize,
}

/// How a mosquitto is set up; `Mosquitto::with()` begins one.
#[derive(Debug, Clone, Default)]
pub struct MosquittoOptions {
    users: Vec<(String, String)>,
    persistent: bool,
    tls: Option<Identity>,
    client_certificates: bool,
    max_queued_messages: Option<usize>,
    acl: Option<String>,
    most_qos: Option<u8>,
    lines: String,
}

impl Mosquitto {
    /// Starts one that lets everybody in, without persistence.
    #[track_caller]
    pub fn start() -> Self {
        Self::with().start()
    }

    /// Begins the options of one that is set up otherwise.
    pub fn with() -> MosquittoOptions {
        MosquittoOptions::default()
    }

    /// Its plain port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`, of the plain listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `localhost:PORT` of the listener with TLS; panics when there is none.
    #[track_caller]
    pub fn tls_address(&self) -> String {
        assert!(
            self.options.tls.is_some(),
            "this mosquitto was started without TLS"
        );
        format!("localhost:{}", self.tls_port)
    }

    /// Publishes one message, as a user who may do everything, and waits until the broker has it.
    #[track_caller]
    pub fn publish(&self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.client()
            .publish(topic, payload, qos)
            .expect("mosquitto takes the message");
    }

    /// A connection to publish many messages by, as a user who may do everything.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.port, "", true, self.login.as_ref()).expect("mosquitto answers")
    }

    /// Makes a session, as a client of this id that was there before: what is published from now on waits for it.
    #[track_caller]
    pub fn hold_session(&self, client_id: &str, topic: &str) {
        Client::connect(self.port, client_id, false, self.login.as_ref())
            .and_then(|mut client| client.subscribe_and_leave(topic))
            .expect("mosquitto takes the subscription");
    }

    /// Subscribes, as a user who may read everything, and gathers what comes. Messages at QoS 0 that were published before a
    /// restart may be missing after it.
    #[track_caller]
    pub fn subscribe(&self, topics: &[&str]) -> Collector {
        let number = self.collectors.fetch_add(1, Ordering::Relaxed);
        let name = format!("testkit-collector-{number}");
        Collector::start(self.port, self.login.clone(), topics, name)
    }

    /// Ends it by SIGTERM, as an administrator would; with persistence it saves its state.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut running = self.running.take().expect("mosquitto runs");
        running.signal(Signal::Term);
        running.wait(USUAL).expect("mosquitto ends on SIGTERM");
    }

    /// Ends it by SIGKILL. With persistence, what came within the last second may be lost.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut running = self.running.take().expect("mosquitto runs");
        running.signal(Signal::Kill);
        running.wait(USUAL).expect("mosquitto ends on SIGKILL");
    }

    /// Starts it again, on the same port and folder, after `stop` or `kill9`.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "mosquitto runs already");
        let mut reason = String::new();
        // Some outgoing connection may have the port for a moment.
        let started = holds_within(USUAL, || match self.launch() {
            Ok(()) => true,
            Err(error) => {
                reason = error;
                false
            }
        });
        assert!(started, "mosquitto did not start again: {reason}");
    }

    /// `stop` and `start_again`.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Freezes it: connections stay open and nothing answers, until `thaw`.
    #[track_caller]
    pub fn freeze(&self) {
        self.running
            .as_ref()
            .expect("mosquitto runs")
            .signal(Signal::Stop);
    }

    /// Lets it go on after `freeze`.
    #[track_caller]
    pub fn thaw(&self) {
        self.running
            .as_ref()
            .expect("mosquitto runs")
            .signal(Signal::Continue);
    }

    /// What it has logged since its first start, or since `forget_log`, at the level of most detail: connects,
    /// subscriptions, each packet.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = fs::File::open(self.file("log")) {
            let forgotten = self.forgotten.load(Ordering::Relaxed);
            file.seek(SeekFrom::Start(forgotten)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// From now on `log` begins here: what comes next can be told from what was before.
    pub fn forget_log(&self) {
        let length = fs::metadata(self.file("log")).map_or(0, |log| log.len());
        self.forgotten.store(length, Ordering::Relaxed);
    }

    /// Waits until the log holds the text; panics, showing the log, when it does not within the deadline.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, deadline: Duration) {
        let found = holds_within(deadline, || self.log().contains(text));
        assert!(
            found,
            "mosquitto did not log {text:?} within {deadline:?}:\n{}",
            self.log()
        );
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&mut self) -> Result<(), String> {
        fs::write(self.file("mosquitto.conf"), self.configuration()).unwrap();
        let out = fs::File::create(self.file("out")).unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.file("mosquitto.conf"));
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out);
        let mut running = Owned::start(&mut command).unwrap_or_else(|error| {
            panic!("install mosquitto (`apt-get install mosquitto mosquitto-clients`): {error}")
        });
        // It is ours that answers, not another broker that was quicker to the port, when our log knows the client.
        self.launches += 1;
        let name = format!("testkit-start-{}-{}", std::process::id(), self.launches);
        let answers = || Client::connect(self.port, &name, true, self.login.as_ref()).is_ok();
        let mut ended = false;
        let started = holds_within(USUAL, || {
            ended = running.wait(Duration::ZERO).is_some();
            ended || (answers() && self.log().contains(&name))
        });
        if ended || !started {
            let out = fs::read_to_string(self.file("out")).unwrap_or_default();
            return Err(format!("{out}{}", self.log()));
        }
        self.running = Some(running);
        Ok(())
    }

    fn configuration(&self) -> String {
        let options = &self.options;
        let folder = self.folder.path().display();
        let mut lines = format!(
            "user root\nper_listener_settings false\nallow_anonymous {}\nlog_type all\n\
             log_dest file {folder}/log\n",
            options.users.is_empty()
        );
        if !options.users.is_empty() {
            writeln!(lines, "password_file {folder}/passwords").unwrap();
        }
        if options.acl.is_some() {
            writeln!(lines, "acl_file {folder}/acl").unwrap();
        }
        if options.persistent {
            writeln!(
                lines,
                "persistence true\npersistence_location {folder}/\nautosave_interval 1\n\
                 autosave_on_changes true"
            )
            .unwrap();
        }
        if let Some(limit) = options.max_queued_messages {
            writeln!(lines, "max_queued_messages {limit}").unwrap();
        }
        writeln!(lines, "{}\nlistener {} 127.0.0.1", options.lines, self.port).unwrap();
        if let Some(qos) = options.most_qos {
            writeln!(lines, "max_qos {qos}").unwrap();
        }
        if let Some(identity) = &options.tls {
            writeln!(
                lines,
                "listener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate {}",
                self.tls_port,
                identity.authority.display(),
                identity.certificate.display(),
                identity.key.display(),
                options.client_certificates,
            )
            .unwrap();
        }
        lines
    }

    /// Writes the files of users and rights. The kit's own user may do everything.
    fn write_rights(&self) {
        if let Some(login) = &self.login {
            fs::write(self.file("passwords"), "").unwrap();
            let own = (login.username.clone(), login.password.clone());
            for (user, password) in self.options.users.iter().chain([&own]) {
                let done = Command::new("mosquitto_passwd")
                    .arg("-b")
                    .arg(self.file("passwords"))
                    .args([user, password])
                    .stderr(Stdio::null())
                    .status()
                    .expect("install mosquitto (`apt-get install mosquitto mosquitto-clients`)");
                assert!(done.success(), "mosquitto_passwd refused `{user}`");
            }
        }
        if let Some(acl) = &self.options.acl {
            let own = "user testkit\ntopic readwrite #\ntopic read $SYS/#\n";
            fs::write(self.file("acl"), format!("{acl}\n\n{own}")).unwrap();
        }
    }
}

impl MosquittoOptions {
    /// Lets this user in, and nobody without a name any more.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Keeps sessions and messages through `restart`, and through `kill9` what is older than about a second.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Listens with TLS as well, on a port of its own.
    #[must_use]
    pub fn tls(mut self, identity: &Identity) -> Self {
        self.tls = Some(identity.clone());
        self
    }

    /// Lets in by TLS only who has a certificate of the same authority.
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self
    }

    /// How many messages it keeps for a client that is away or slow (mosquitto's own default is 1000; 0 is no limit).
    #[must_use]
    pub fn max_queued_messages(mut self, limit: usize) -> Self {
        self.max_queued_messages = Some(limit);
        self
    }

    /// Who may read and write what, in the words of mosquitto's `acl_file`; it needs users.
    #[must_use]
    pub fn acl(mut self, text: &str) -> Self {
        self.acl = Some(text.to_owned());
        self
    }

    /// The highest QoS that its plain listener takes and grants.
    #[must_use]
    pub fn most_qos(mut self, qos: u8) -> Self {
        self.most_qos = Some(qos);
        self
    }

    /// One more line of mosquitto.conf.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        writeln!(self.lines, "{line}").unwrap();
        self
    }

    /// Starts it; returns when it answers.
    #[track_caller]
    pub fn start(self) -> Mosquitto {
        assert!(
            self.acl.is_none() || !self.users.is_empty(),
            "rights need users"
        );
        let login = (!self.users.is_empty()).then(|| Login {
            username: "testkit".to_owned(),
            password: "kit's own".to_owned(),
        });
        let mut mosquitto = Mosquitto {
            running: None,
            options: self,
            login,
            port: 0,
            tls_port: 0,
            folder: tempfile::tempdir().unwrap(),
            collectors: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
            launches: 0,
        };
        mosquitto.write_rights();
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            mosquitto.port = free_port();
            mosquitto.tls_port = free_port();
            match mosquitto.launch() {
                Ok(()) => return mosquitto,
                Err(error) => reason = error,
            }
        }
        panic!("mosquitto did not start: {reason}");
    }
}

//! A real Slurm of one node on free ports, with a private folder: `munged`, `slurmctld`, `slurmd` and `slurmrestd`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::available_parallelism,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Signal,
    owned::{self, Owned},
    processes,
    wait::{free_port, holds_within},
};

/// How long its parts may take to start or to end.
const USUAL: Duration = Duration::from_secs(30);
/// How often other ports are tried when one was taken in between.
const ATTEMPTS: usize = 5;
/// Where Debian keeps its servers.
const SERVERS: [&str; 4] = ["munged", "slurmctld", "slurmd", "slurmrestd"];
/// The user `nobody`: slurmrestd refuses to be root, and needs nothing of its own.
const NOBODY: u32 = 65534;

/// A Slurm of the test's own, whose jobs run on this machine as root. Dropping it ends it, with all jobs, and removes its
/// folder.
#[derive(Debug)]
pub struct Slurm {
    folder: TempDir,
    ports: [u16; 3],
    rest: Option<Owned>,
    others: Vec<Owned>,
}

impl Slurm {
    /// Why one cannot be started here, if so.
    ///
    /// # Errors
    /// In words for [`skipped`](crate::skipped).
    pub fn can_start() -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("slurmd wants to be root".to_owned());
        }
        let mut wanted: Vec<PathBuf> = SERVERS.map(server).into();
        wanted.push("/usr/bin/squeue".into());
        if let Some(missing) = wanted.iter().find(|path| !path.exists()) {
            return Err(format!("there is no {}", missing.display()));
        }
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let has_tokens = |folder: &Path| folder.join("slurm-wlm/auth_jwt.so").exists();
        match folders.into_iter().any(|folder| has_tokens(&folder.path())) {
            true => Ok(()),
            false => Err("there is no slurm-wlm-jwt-plugin".to_owned()),
        }
    }

    /// Starts one.
    #[track_caller]
    pub fn start() -> Self {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let mut slurm = Self {
                folder: tempfile::tempdir().unwrap(),
                ports: [free_port(), free_port(), free_port()],
                rest: None,
                others: Vec::new(),
            };
            slurm.furnish();
            match slurm.launch() {
                Ok(()) => return slurm,
                Err(error) => reason = error,
            }
        }
        panic!("Slurm did not start: {reason}");
    }

    fn furnish(&self) {
        // slurmrestd is somebody else, and reads the config.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.path(), open).unwrap();
        for name in ["state", "spool", "log", "munge", "shared"] {
            fs::create_dir(self.path(name)).unwrap();
        }
        for key in ["munge/key", "jwt.key"] {
            fs::write(self.path(key), "for tests only ".repeat(20)).unwrap();
            fs::set_permissions(self.path(key), fs::Permissions::from_mode(0o400)).unwrap();
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().split('.').next().unwrap();
        let cores = available_parallelism().unwrap();
        let (place, [control, node, _]) = (self.folder.path().display(), self.ports);
        let config = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={control}\nSlurmdPort={node}\n\
             SlurmUser=root\nAuthType=auth/munge\nAuthInfo=socket={place}/munge/socket\n\
             AuthAltTypes=auth/jwt\nAuthAltParameters=jwt_key={place}/jwt.key\nCredType=cred/munge\n\
             StateSaveLocation={place}/state\nSlurmdSpoolDir={place}/spool\n\
             SlurmctldPidFile={place}/slurmctld.pid\nSlurmdPidFile={place}/slurmd.pid\n\
             MailProg=/bin/true\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             SchedulerType=sched/builtin\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n\
             ReturnToService=2\nMpiDefault=none\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nKillWait=2\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 State=UNKNOWN\n\
             PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8\n"
        );
        fs::write(self.config(), config).unwrap();
    }

    fn launch(&mut self) -> Result<(), String> {
        let place = self.folder.path().display().to_string();
        let mut munged = self.command("munged");
        munged.args(["--foreground", &format!("--socket={place}/munge/socket")]);
        for (option, name) in [("key", "key"), ("pid", "pid"), ("seed", "seed")] {
            munged.arg(format!("--{option}-file={place}/munge/{name}"));
        }
        self.own(munged);
        self.wait_for("munged", || self.path("munge/socket").exists())?;
        let mut slurmctld = self.command("slurmctld");
        slurmctld.arg("-D");
        self.own(slurmctld);
        let mut slurmd = self.command("slurmd");
        slurmd.arg("-D");
        self.own(slurmd);
        self.wait_for("slurmctld", || {
            self.said("sinfo", &["-h", "-o", "%T"]).contains("idle")
        })?;
        self.launch_rest()
    }

    fn launch_rest(&mut self) -> Result<(), String> {
        let mut rest = self.command("slurmrestd");
        rest.args(["-a", "rest_auth/jwt", "-s", "openapi/v0.0.38"])
            .arg(format!("127.0.0.1:{}", self.ports[2]))
            .env("SLURM_JWT", "daemon")
            .uid(NOBODY)
            .gid(NOBODY);
        self.rest = Some(Owned::start(&mut rest).expect("slurmrestd starts"));
        // Nobody else answers so on that port.
        let url = format!("{}/slurm/v0.0.38/ping", self.url());
        self.wait_for("slurmrestd", || {
            let asked = Command::new("curl")
                .args(["-s", "--max-time", "5", &url])
                .output();
            asked.is_ok_and(|answer| answer.stdout.starts_with(b"Authentication failure"))
        })
    }

    /// A server of this Slurm, known by the place of its config in its environment, as the jobs are.
    fn command(&self, name: &str) -> Command {
        let log = fs::File::create(self.path(&format!("log/{name}"))).unwrap();
        let mut command = Command::new(server(name));
        command
            .env("SLURM_CONF", self.config())
            .env_remove("SLURM_JWT")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    fn own(&mut self, mut command: Command) {
        let started = Owned::start(&mut command);
        self.others.push(started.expect("a part of Slurm starts"));
    }

    fn wait_for(&self, name: &str, condition: impl FnMut() -> bool) -> Result<(), String> {
        match holds_within(USUAL, condition) {
            true => Ok(()),
            false => {
                let log = fs::read_to_string(self.path(&format!("log/{name}")));
                Err(format!("{name}: {}", log.unwrap_or_default()))
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    fn said(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        let output = command
            .args(arguments)
            .env("SLURM_CONF", self.config())
            // A token of the user's own would be shown in its place.
            .env_remove("SLURM_JWT")
            .output();
        let output = output.unwrap_or_else(|error| panic!("{program} does not run: {error}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `http://127.0.0.1:PORT` of its REST API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[2])
    }

    /// The user whose jobs run here.
    pub fn user(&self) -> &'static str {
        "root"
    }

    /// A token of the user, which ends after so many seconds.
    #[track_caller]
    pub fn token(&self, seconds: u32) -> String {
        let said = self.said("scontrol", &["token", &format!("lifespan={seconds}")]);
        let token = said.trim().strip_prefix("SLURM_JWT=");
        token.expect("scontrol gives a token").to_owned()
    }

    /// A folder that its node sees too.
    pub fn shared(&self) -> PathBuf {
        self.path("shared")
    }

    /// The names of the jobs that wait or run.
    pub fn queue(&self) -> Vec<String> {
        let said = self.said("squeue", &["-h", "-o", "%j"]);
        said.lines().map(str::to_owned).collect()
    }

    /// The names of all jobs that it has had, the latest of which it does not forget for five minutes.
    pub fn jobs(&self) -> Vec<String> {
        let said = self.said("squeue", &["-h", "-t", "all", "-o", "%j"]);
        said.lines().map(str::to_owned).collect()
    }

    /// Begins no more jobs, or does again.
    pub fn hold(&self, is_held: bool) {
        let state = if is_held { "State=DOWN" } else { "State=UP" };
        self.said("scontrol", &["update", "PartitionName=all", state]);
    }

    /// The numbers of the processes of jobs that have this text in their arguments.
    pub fn processes(&self, text: &str) -> Vec<u32> {
        processes::marked(&self.mark(), text)
    }

    fn mark(&self) -> String {
        format!("SLURM_CONF={}", self.config().display())
    }

    /// Ends the REST API; jobs go on.
    pub fn go_away(&mut self) {
        self.rest = None;
    }

    /// Starts the REST API again, at the same place.
    #[track_caller]
    pub fn come_back(&mut self) {
        self.launch_rest().unwrap();
    }

    /// What its servers have said.
    pub fn log(&self) -> String {
        let log = |name| fs::read_to_string(self.path(&format!("log/{name}"))).unwrap_or_default();
        SERVERS.map(log).concat()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.go_away();
        self.others.clear();
        // Jobs have sessions of their own.
        holds_within(USUAL, || {
            let left = self.processes("");
            for number in &left {
                owned::signal(*number, Signal::Kill);
            }
            left.is_empty()
        });
    }
}

fn server(name: &str) -> PathBuf {
    Path::new("/usr/sbin").join(name)
}

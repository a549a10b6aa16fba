//! Words that would be commands, shells of another kind, hosts that stall and hosts that are full.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use wiredflow_testkit::{Chance, Sshd, skipped, written_rows};

use super::{A_WHILE, LOGIC, both, check_each_once, stored, through};
use crate::tool;

/// What shells, `ssh`, YAML and formats take for something else than itself.
const PIECES: [&str; 18] = [
    "$(touch MARK)",
    "`touch MARK`",
    "; touch MARK;",
    "\n touch MARK\n",
    "| touch MARK",
    "&& touch MARK",
    "' ",
    "\"",
    "\\",
    "-oProxyCommand=x ",
    "%n%h",
    "’“”",
    "é\u{202e}",
    "*",
    "~",
    "$HOME",
    "!!",
    "\t",
];

/// A text of a few of them.
fn odd(chance: &mut Chance, mark: &Path) -> String {
    let pieces = (0..1 + chance.below(5)).map(|_| PIECES[chance.below(PIECES.len())]);
    let text: String = pieces.collect();
    text.replace("MARK", mark.to_str().unwrap())
}

#[test]
fn g20_no_word_of_the_flow_is_a_command_there() {
    let sshd = Sshd::start();
    let mut chance = Chance::new();
    for _ in 0..6 {
        let test = tool();
        let mark = test.path("touched");
        let [value, param, content] = [(); 3].map(|()| odd(&mut chance, &mark));
        // A name of a file has no slash in it.
        let [code, data] =
            [(); 2].map(|()| odd(&mut chance, Path::new("touched")).replace('/', "_"));
        let (code, data) = (format!("-{code}.py"), format!("{data}.txt"));
        test.file(
            &code,
            "import os\ndef work(relevant_info=None, file=None, param=None, **params):\n    \
             text = open(file, newline='').read()\n    return {'value': os.environ['ODD'], 'param': param, 'file': text}\n",
        );
        test.file(&data, &content);
        let ssh: Value = format!("{{{}}}", sshd.route())
            .trim_matches(['{', '}'])
            .split(", ")
            .map(|pair| pair.split_once(": ").unwrap())
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let mut ssh = ssh;
        ssh["port"] = json!(sshd.port());
        ssh["env"] = json!({"ODD": value});
        ssh["files"] = json!([data]);
        let stages = json!([
            {"core_logic": {"python": format!("{code}:work"), "params": {"file": data, "param": param}}, "remote": "big"},
            {"store": {"jsonl": {"folder": "data"}}},
        ]);
        // JSON is YAML.
        let flow = json!({
            "name": "t", "listen": "off", "remotes": {"big": {"ssh": ssh}}, "pipelines": {"p": {"once": true, "stages": stages}},
        });
        test.file("flow.yaml", &flow.to_string());
        let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
        ran.assert_code(0);
        let rows = written_rows(&test.path("data/jsonl_in_p.jsonl"));
        assert_eq!(
            rows,
            [json!({"value": value, "param": param, "file": content})]
        );
        assert!(!mark.exists(), "{flow}");
        let touched = Command::new("find")
            .args([sshd.home().as_path(), test.folder()])
            .args(["-name", "touched"])
            .output();
        assert!(touched.unwrap().stdout.is_empty(), "{flow}");
    }
}

#[test]
fn g18_the_users_shell_there_may_be_another() {
    let sshd = Sshd::with("ForceCommand exec csh -c \"$SSH_ORIGINAL_COMMAND\"");
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(&sshd, &test.path("marks"));
    let pipelines = through("counts", 5, "").replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(0);
    check_each_once(&test, 5);
}

#[test]
fn g18_a_host_that_takes_connections_and_says_nothing_is_one_that_is_away() {
    let sshd = Sshd::start();
    sshd.pull_the_cable();
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(&sshd, &test.path("marks"));
    let pipelines = through("counts", 5, "").replace("PLACE", "[big, local]");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let marks = test.path("marks");
    let test = test.env("MARKS", marks.to_str().unwrap());
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(0);
    check_each_once(&test, 5);
    assert!(ran.stderr.contains("cannot be reached"), "{}", ran.stderr);
}

/// A small disk where a host keeps its cache; it is taken away with this.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(folder: &Path, size: &str) -> Result<Self, String> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(folder)
            .output()
            .map_err(|error| error.to_string())?;
        match mounted.status.success() {
            true => Ok(Self(folder.to_owned())),
            false => Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what was started there may still end.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn g21_a_disk_that_is_full_there_is_told_and_nothing_is_left_on_it() {
    let sshd = Sshd::start();
    let _disk = match SmallDisk::at(&sshd.cache(), "20m") {
        Ok(disk) => disk,
        Err(why) => return skipped("a host's disk is full", &why),
    };
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(&sshd, &test.path("marks"));
    let pipelines = through("counts", 5, "").replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(ran.stderr.contains("MiB left"), "{}", ran.stderr);
    assert!(stored(&test).is_empty());
}

#[test]
fn g21_a_function_that_the_system_kills_there_is_a_failure_with_its_signal() {
    let sshd = Sshd::start();
    let test = tool();
    test.file(
        "logic.py",
        "import os\ndef dies(relevant_info=None, **params):\n    os.kill(os.getpid(), 9)\n",
    );
    let remotes = both(&sshd, &test.path("marks"));
    let options = "        on_error: dead_letter";
    let pipelines = through("dies", 2, options).replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(0);
    let listed = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 2, "{listed}");
    for letter in letters {
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.contains("signal 9") || reason.contains("SIGKILL"),
            "{reason}"
        );
    }
}

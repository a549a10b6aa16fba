//! Each system call on the way of a message in turn: the process is killed at it, or the call fails once. After the
//! next start every file is whole, and what the broker had taken is stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wiredflow_testkit::{
    Chance, FlowTest, HttpPeer, Mosquitto, Reply, Running, Signal, Strace, check_database, rows,
    skipped, soaking, tell, wait_until,
};

use crate::{SOON, tool};

/// How many points are drawn for one storage, and for how long at most, on a machine that has much else to do;
/// `cargo xtask soak` takes all.
const POINTS: usize = 30;
const LONGEST: Duration = Duration::from_secs(20);

const CLIENT: &str = "crash-points";
const FAULTS: [&str; 3] = ["signal=SIGKILL", "error=EIO", "error=ENOSPC"];

/// What the service has behind it when the calls are counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// It starts in an empty folder.
    FirstStart,
    /// It starts after an orderly end.
    Start,
    /// It starts after a kill.
    Recovery,
    /// It runs and has stored a message; from here on all threads are traced.
    Running,
}

const MOMENTS: [Moment; 4] = [
    Moment::FirstStart,
    Moment::Start,
    Moment::Recovery,
    Moment::Running,
];

/// Whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Files {
    Data,
    State,
    /// The client's id. Several threads write it, each with a count of its own: an error would come again and again.
    Session,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    moment: Moment,
    files: Files,
    call: &'static str,
    number: usize,
    fault: &'static str,
}

/// The way that a message takes.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// The storage, or `http_post`: what a peer has is looked at like rows.
    kind: &'static str,
    mapping: &'static str,
    /// What else the pipeline says, and the stage.
    pipeline: &'static str,
    stage: &'static str,
}

/// A way under test, and the folders that a point begins with.
struct Subject {
    way: Way,
    broker: Mosquitto,
    peer: HttpPeer,
    /// Folders after an orderly end and after a kill, with the numbers that are stored there.
    used: (FlowTest, Vec<u64>),
    killed: (FlowTest, Vec<u64>),
    next: u64,
}

impl Subject {
    fn new(way: Way) -> Self {
        let broker = Mosquitto::with().max_queued_messages(0).start();
        broker.hold_session(CLIENT, "in");
        let peer = HttpPeer::start();
        peer.on("*", Reply::code(204));
        let mut subject = Self {
            way,
            broker,
            peer,
            used: (tool(), Vec::new()),
            killed: (tool(), Vec::new()),
            next: 1,
        };
        let (test, running, mut numbers) = subject.running();
        subject.make_known(&test, &mut numbers);
        running.signal(Signal::Term);
        running.wait(SOON).assert_code(0);
        subject.used = (test, numbers.clone());
        let (test, running, more) = subject.running();
        running.signal(Signal::Kill);
        running.wait(SOON).assert_code(137);
        numbers = more;
        subject.killed = (test, numbers);
        subject
    }

    /// A service in a folder as after an orderly end, if there was one, which has stored one message more.
    fn running(&mut self) -> (FlowTest, Running, Vec<u64>) {
        let (test, mut numbers) = self.folder(&self.used);
        self.broker.forget_log();
        numbers.push(self.publish());
        let mut running = test.spawn(["run".as_ref(), test.path("flow.yaml").as_os_str()]);
        running.wait_until(SOON, || acknowledged(&self.broker) == 1);
        (test, running, numbers)
    }

    /// Publishes until the service knows that packet ids tell one message from another.
    fn make_known(&mut self, test: &FlowTest, numbers: &mut Vec<u64>) {
        let kept = test.path(".wiredflow/client_ids/numbers.json");
        wait_until(SOON, || {
            let before = acknowledged(&self.broker);
            numbers.push(self.publish());
            wait_until(SOON, || acknowledged(&self.broker) > before);
            fs::read_to_string(&kept).is_ok_and(|kept| kept.contains("counted"))
        });
    }

    fn folder(&self, from: &(FlowTest, Vec<u64>)) -> (FlowTest, Vec<u64>) {
        let test = tool();
        copy(from.0.folder(), test.folder());
        let Way {
            kind,
            mapping,
            pipeline,
            stage,
        } = self.way;
        let sink = match kind {
            // The name of the folder tells what is sent to the peer from there.
            "http_post" => format!(
                "send: {{http_post: {{url: \"{}\"}}",
                self.peer.url(&place(&test))
            ),
            "sqlite" => format!(
                "store: {{sqlite: {{path: data/numbers.db, table: rows}}, mapping: {mapping}"
            ),
            kind => format!("store: {{{kind}: {{folder: data}}, mapping: {mapping}"),
        };
        test.file(
            "flow.yaml",
            &format!(
                "name: flow\npipelines:\n  numbers:\n    source: {{mqtt: {{broker: \"{}\", topic: in, client_id: {CLIENT}}}}}\n    \
                 {pipeline}\n    stages:\n      - {sink}{stage}}}\n        retry: {{backoff: 10ms, max: 50ms}}\n",
                self.broker.address()
            ),
        );
        let known = if kind == "http_post" {
            Vec::new()
        } else {
            from.1.clone()
        };
        (test, known)
    }

    /// Publishes the next number; gives it when the broker has it.
    fn publish(&mut self) -> u64 {
        let n = self.next;
        self.next += 1;
        let payload = match self.way.mapping {
            "update" => format!("{{\"n\": {n}, \"k{n}\": {n}}}"),
            _ => format!("{{\"n\": {n}}}"),
        };
        self.broker.publish("in", payload, 1);
        n
    }

    fn file(&self, test: &FlowTest) -> PathBuf {
        test.path(match self.way.kind {
            "sqlite" => "data/numbers.db".to_owned(),
            kind => format!("data/{kind}_in_numbers.{kind}"),
        })
    }

    /// What is stored, or what the peer has been sent: each key once.
    fn rows(&self, test: &FlowTest) -> Result<Vec<Value>, String> {
        if self.way.kind != "http_post" {
            return rows(self.way.kind, &self.file(test));
        }
        let mut keys = BTreeMap::new();
        let mut rows = Vec::new();
        for request in self.peer.requests_to(&place(test)) {
            let key = request
                .header("idempotency-key")
                .ok_or("no key")?
                .to_owned();
            let row = request.json();
            let known = keys.entry(key).or_insert_with(|| {
                rows.push(row.clone());
                row.clone()
            });
            if *known != row {
                return Err(format!("a key of two: {known} and {row}"));
            }
        }
        Ok(rows)
    }

    fn paths(&self, test: &FlowTest, files: Files) -> Vec<PathBuf> {
        let beside = |file: PathBuf| {
            let with = |end: &str| PathBuf::from(format!("{}{end}", file.display()));
            ["", ".new", "-wal", "-shm", "-journal"].map(with)
        };
        match files {
            Files::Data => {
                let mut paths = beside(self.file(test)).to_vec();
                paths.extend([test.path("data"), test.folder().to_owned()]);
                paths
            }
            Files::State => {
                let folder = test.path(".wiredflow");
                let mut paths = beside(folder.join("state.db")).to_vec();
                paths.push(folder.join("lock"));
                paths.push(folder);
                paths
            }
            Files::Session => {
                let folder = test.path(".wiredflow/client_ids");
                let names = ["numbers.json", "numbers.new"];
                let mut paths = names.map(|name| folder.join(name)).to_vec();
                paths.push(folder);
                paths
            }
        }
    }

    /// One life with a fault in it and one without. Gives how often each call was made, and whether it came to the fault.
    fn run(
        &mut self,
        moment: Moment,
        files: Files,
        fault: Option<Point>,
    ) -> (BTreeMap<&'static str, usize>, bool) {
        let shown = format!("{:?} {moment:?} {files:?} {fault:?}", self.way);
        let empty = (tool(), Vec::new());
        let (test, mut numbers) = match moment {
            Moment::FirstStart => self.folder(&empty),
            Moment::Start | Moment::Running => self.folder(&self.used),
            Moment::Recovery => self.folder(&self.killed),
        };
        let logs = tool();
        let mut strace = Strace::on(self.paths(&test, files), logs.path("strace.log"));
        if let Some(Point {
            call,
            fault,
            number,
            ..
        }) = fault
        {
            strace = strace.inject(call, fault, number);
        }
        let flow = test.path("flow.yaml");
        let run = ["run".as_ref(), flow.as_os_str()];
        self.broker.forget_log();
        numbers.push(self.publish());
        let (mut running, attached) = if moment == Moment::Running {
            let mut running = test.spawn(run);
            running.wait_until(SOON, || acknowledged(&self.broker) == 1);
            let attached = strace.attach(running.id());
            numbers.push(self.publish());
            (running, Some(attached))
        } else {
            (test.spawn_under(&strace.prefix(), run), None)
        };
        let expected = 1 + usize::from(attached.is_some());
        let begun = Instant::now();
        while !running.has_ended() && acknowledged(&self.broker) < expected {
            let late = begun.elapsed() > SOON;
            assert!(
                !late,
                "{shown} is not done: {}\n{}",
                running.stderr(),
                strace.text()
            );
            thread::sleep(Duration::from_millis(5));
        }
        running.signal(Signal::Term);
        let id = running.id();
        let life = running.wait(SOON);
        let happened = strace.happened(id);
        drop(attached);
        let reasons = [
            "Input/output error",
            "disk I/O error",
            "no space left",
            "No space left",
        ];
        let told = match (life.code, fault) {
            (0, _) => true,
            (137, Some(point)) => point.fault == "signal=SIGKILL",
            (1, Some(point)) => {
                point.fault != "signal=SIGKILL"
                    && reasons.iter().any(|words| life.stderr.contains(words))
            }
            _ => false,
        };
        assert!(
            told && !life.stderr.contains("panicked"),
            "{shown}: {life:?}"
        );

        numbers.push(self.publish());
        let mut running = test.spawn(run);
        let last = *numbers.last().unwrap();
        let stored = || {
            let rows = self.rows(&test);
            rows.map(|rows| rows.iter().filter_map(number).collect::<Vec<_>>())
        };
        running.wait_until(SOON, || stored().is_ok_and(|stored| stored.contains(&last)));
        running.signal(Signal::Term);
        let next_life = running.wait(SOON);
        assert!(next_life.code == 0, "{shown}: {life:?} {next_life:?}");
        check_database(&test.path(".wiredflow/state.db"));
        if self.way.kind == "sqlite" {
            check_database(&self.file(&test));
        }
        let rows = self
            .rows(&test)
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        // Before it is known that packet ids tell messages apart, what is killed between its commit and its
        // acknowledgement is stored twice.
        let most = if moment == Moment::FirstStart { 2 } else { 1 };
        self.check(&rows, &numbers, most, &format!("{shown}: {life:?}"));
        (strace.counts(), happened)
    }

    fn check(&self, rows: &[Value], numbers: &[u64], most: usize, shown: &str) {
        match self.way.mapping {
            "extend" => {
                let mut stored: Vec<u64> = rows.iter().filter_map(number).collect();
                assert_eq!(stored.len(), rows.len(), "{shown}: {rows:?}");
                // One that was on its way to the peer at the kill that this folder is from is sent again.
                stored.retain(|n| *n >= numbers[0]);
                assert!(
                    stored.iter().all(|n| numbers.contains(n)),
                    "{shown}: {stored:?} of {numbers:?}"
                );
                for n in numbers {
                    let count = stored.iter().filter(|stored| *stored == n).count();
                    assert!((1..=most).contains(&count), "{shown}: {n} in {stored:?}");
                }
            }
            "update" => {
                assert_eq!(rows.len(), 1, "{shown}: {rows:?}");
                for n in numbers {
                    assert_eq!(rows[0][format!("k{n}")], *n, "{shown}: {rows:?}");
                }
            }
            _ => {
                let stored: Vec<u64> = rows.iter().filter_map(number).collect();
                assert_eq!(stored, numbers[numbers.len() - 1..], "{shown}");
            }
        }
    }

    /// Every point that there is: so many calls were made in a life without a fault.
    fn points(&mut self) -> Vec<Point> {
        let mut points = Vec::new();
        for moment in MOMENTS {
            for files in [Files::Data, Files::State, Files::Session] {
                let (counts, _) = self.run(moment, files, None);
                let faults = if files == Files::Session {
                    &FAULTS[..1]
                } else {
                    &FAULTS
                };
                for (call, count) in counts {
                    for number in 1..=count {
                        points.extend(faults.iter().map(|fault| Point {
                            moment,
                            files,
                            call,
                            number,
                            fault,
                        }));
                    }
                }
            }
        }
        points
    }
}

/// So many messages has the flow acknowledged since the log was forgotten.
fn acknowledged(broker: &Mosquitto) -> usize {
    broker
        .log()
        .matches("Received PUBACK from crash-points")
        .count()
}

/// Where at the peer a folder's flow sends to.
fn place(test: &FlowTest) -> String {
    let name = test.folder().file_name().unwrap();
    format!("/{}", name.to_str().unwrap())
}

/// The number of a row; csv keeps it as text.
fn number(row: &Value) -> Option<u64> {
    let n = &row["n"];
    n.as_u64().or_else(|| n.as_str()?.parse().ok())
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (source, target) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if source.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
}

fn every_point(way: Way) {
    if let Some(reason) = Strace::refusal() {
        skipped("a4 with a kill or a failure at each call", &reason);
        return;
    }
    let mut chance = Chance::new();
    let mut subject = Subject::new(way);
    let mut points = subject.points();
    let all = points.len();
    assert!(all > 100, "{way:?}: only {all} points");
    if !soaking() {
        chance.shuffle(&mut points);
        // Those of the message itself are few among those of a start: they come first, and half of what is drawn.
        points.sort_by_key(|point| point.files == Files::State && point.moment != Moment::Running);
        let seldom = points.len() - POINTS / 2;
        points.drain(POINTS / 2..seldom);
        chance.shuffle(&mut points);
    }
    let (mut met, mut tried, begun) = (0, 0, Instant::now());
    for point in &points {
        if !soaking() && begun.elapsed() > LONGEST {
            break;
        }
        tried += 1;
        met += usize::from(subject.run(point.moment, point.files, Some(*point)).1);
    }
    tell(&format!(
        "{way:?}: {met} faults of {tried} tried among {all}"
    ));
    assert!(
        2 * met > tried,
        "{way:?}: only {met} faults of {tried} were met"
    );
}

macro_rules! for_each_way {
    ($($name:ident: $kind:literal $mapping:literal $pipeline:literal $stage:literal;)*) => { $( mod $name {
        #[test]
        fn a4_b1_b3_a_kill_or_a_failure_at_any_call_loses_no_message() {
            super::every_point(super::Way {
                kind: $kind,
                mapping: $mapping,
                pipeline: $pipeline,
                stage: $stage,
            });
        }
    } )* };
}

for_each_way! {
    json: "json" "extend" "" "";
    jsonl: "jsonl" "extend" "" "";
    csv: "csv" "extend" "" "";
    sqlite: "sqlite" "extend" "" "";
    json_updated: "json" "update" "" "";
    sqlite_overwritten: "sqlite" "overwrite" "" "";
    from_the_inbox: "jsonl" "extend" "ack: inbox" "";
    by_the_outbox: "http_post" "extend" "" "";
    not_required: "jsonl" "extend" "" ", required: false";
    from_the_inbox_and_not_required: "http_post" "extend" "ack: inbox" ", required: false";
}

//! What the demo says while it runs and at its end, in plain words.

use std::collections::BTreeMap;
use std::path::Path;

use wiredflow_core::Value;
use wiredflow_core::storage::Query;
use wiredflow_demo::{NUMBERS_TOPIC, Peers, Server};
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::{Plan, StoragePlan};
use wiredflow_engine::storages::Left;

use crate::exit::Failure;
use crate::live;
use crate::paint::{Ink, cut, printable};
use crate::tool::Tool;
use crate::verbs::mock::{Arrival, Watch};

use super::Language;

/// How many of the newest records of each storage the summary shows.
const SHOWN: usize = 2;
/// How wide a record may be where the terminal's width is unknown.
const WIDE: usize = 110;

/// What each pipeline does, and where its records are.
const DOES: [(&str, &str, &str); 4] = [
    (
        "numbers",
        "asked a server, stored its number",
        "data/json_in_numbers.json",
    ),
    (
        "letters",
        "asked a server, stored its letter",
        "data/csv_in_letters.csv",
    ),
    (
        "stream",
        "heard the broker, stored its number",
        "data/demo.db",
    ),
    (
        "results",
        "calculated, sent and stored it",
        "data/jsonl_in_results.jsonl",
    ),
];

/// Shows a running demo.
#[derive(Debug)]
pub(super) struct Showing<'a> {
    tool: &'a Tool,
    peers: &'a Peers,
    folder: &'a Path,
    watch: Watch,
    /// Pipelines whose first delivery has been told.
    told: Vec<&'static str>,
    /// What was sent by each way: how many, and the last.
    sent: BTreeMap<String, (u64, String)>,
}

impl<'a> Showing<'a> {
    pub(super) fn new(tool: &'a Tool, peers: &'a Peers, folder: &'a Path) -> Self {
        Self {
            tool,
            peers,
            folder,
            watch: Watch::default(),
            told: Vec::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Says what there is.
    pub(super) fn open(&self, language: Language) -> Result<(), Failure> {
        let paint = self.tool.screen.out().paint;
        let place = |text: &str| paint.with(Ink::Cyan, &format!("{text:<24}"));
        let folder = self.folder.display().to_string();
        let logic = match language {
            Language::Python => "its core logic is in logic.py beside it",
            Language::Rust => "its core logic is in Rust: there is no python3 from 3.8 up here",
        };
        let text = format!(
            "{}\n\n  {} answers with a number, and takes what is PUT\n  {} answers with a letter\n  {} is an MQTT \
             broker, with a number a second on {NUMBERS_TOPIC}\n  {}\n{:>27}is the flow; {logic}\n\n",
            paint.with(Ink::Bold, "A service that collects, computes, stores and sends; all of it runs in this process."),
            place(&self.peers.url(Server::Integers)),
            place(&self.peers.url(Server::Letters)),
            place(&self.peers.broker().to_string()),
            paint.with(Ink::Cyan, &format!("{}/flow.yaml", printable(&folder))),
            "",
        );
        self.tool.screen.print(&text)
    }

    /// Says what has happened since the last look.
    pub(super) fn look(&mut self, report: &RunReport) -> Result<(), Failure> {
        let screen = &self.tool.screen;
        let mut news = Vec::new();
        for (name, words, file) in DOES {
            let committed = |name| {
                report
                    .pipelines
                    .get(name)
                    .map_or(0, |one| one.deliveries.committed)
            };
            if committed(name) > 0 && !self.told.contains(&name) {
                self.told.push(name);
                news.push((name, format!("{words} in {file}")));
            }
        }
        for arrival in self.watch.new_arrivals(self.peers) {
            news.push((
                "results",
                format!("sent {} by {}", arrival.body, arrival.way),
            ));
            self.count(arrival);
        }
        let out = screen.out();
        let room = out.columns().unwrap_or(WIDE).saturating_sub(19);
        let mut text = String::new();
        for (name, words) in news {
            let time = out
                .paint
                .with(Ink::Dim, &format!("{:>6}", live::time(report.seconds)));
            let name = out.paint.with(Ink::Cyan, &format!("{name:<8}"));
            text.push_str(&format!(
                "{time}  {name}  {}\n",
                cut(&printable(&words), room)
            ));
        }
        if !text.is_empty() {
            screen.print(&text)?;
        }
        let err = screen.err();
        if let Some(columns) = err.columns() {
            let mut lines = vec![String::new()];
            lines.extend(live::lines(report, None, columns, err.paint));
            screen.show(lines);
        }
        Ok(())
    }

    /// Says how it was, shows some records, and what to do next.
    pub(super) fn close(&mut self, report: &RunReport, plan: &Plan) -> Result<(), Failure> {
        for arrival in self.watch.new_arrivals(self.peers) {
            self.count(arrival);
        }
        let out = self.tool.screen.out();
        let room = out.columns().unwrap_or(WIDE).saturating_sub(4);
        let head = |text: &str| format!("\n{}\n", out.paint.with(Ink::Bold, text));
        let mut text = head("The newest of what is stored");
        for (name, _, file) in DOES {
            text.push_str(&format!("  {}\n", out.paint.with(Ink::Cyan, file)));
            for row in newest(plan, name) {
                text.push_str(&format!(
                    "    {}\n",
                    cut(&printable(&row.to_string()), room)
                ));
            }
        }
        text.push_str(&head("The last of what was sent"));
        for (way, (count, last)) in &self.sent {
            let way = out.paint.with(Ink::Cyan, &printable(way));
            let times = if *count == 1 {
                "once".to_owned()
            } else {
                format!("{count} times")
            };
            text.push_str(&format!(
                "  {way}, {times}\n    {}\n",
                cut(&printable(last), room)
            ));
        }
        text.push_str(&head("In all"));
        text.push_str(&live::summary(report, out.columns(), out.paint));
        let folder = self.folder.display().to_string();
        text.push_str(&format!(
            "\nThe flow and its data stay in {} until the next demo\nNext: {} writes a flow of your own.\n",
            printable(&folder),
            out.paint.with(Ink::Cyan, "wiredflow init my_service"),
        ));
        self.tool.screen.print(&text)
    }

    fn count(&mut self, arrival: Arrival) {
        let (count, last) = self.sent.entry(arrival.way).or_default();
        *count += 1;
        *last = arrival.body;
    }
}

/// The newest records of a storage, oldest first; none when it cannot be read.
fn newest(plan: &Plan, name: &str) -> Vec<Value> {
    let load = |storage: &StoragePlan| {
        let mut storage = storage.open.opener(Left::InOrder, None)().ok()?;
        storage.load(&Query::newest(SHOWN)).ok()
    };
    let storage = plan.storages.iter().find(|storage| storage.name == name);
    match storage
        .and_then(load)
        .map(wiredflow_core::storage::Loaded::into_document)
    {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    }
}

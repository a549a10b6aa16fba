//! What a test file says: every problem at once, as in a flow file.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use wiredflow_core::config::{FlowConfig, PipelineConfig, StageConfig, TriggerConfig};
use wiredflow_core::fields::{FromNode, Pairs, Reading};
use wiredflow_core::node::{Entry, Node, NodeKind};
use wiredflow_core::problem::{Problem, possible};
use wiredflow_core::schedule::parse_time;
use wiredflow_core::secret::Scrubber;
use wiredflow_core::{Value, config};
use wiredflow_engine::fakes::{Answers, Given, Said, StageName, can_be_answered};
use wiredflow_engine::outline::Outline;

use crate::flow_file::Tree;

use super::pattern::Pattern;

/// Where the clock of a case stands when nobody says otherwise.
const NEW_YEAR: &str = "2026-01-01T00:00:00Z";

config! {
    /// The keys of a test file. All but `cases` hold for each case that says nothing else.
    pub(crate) struct FileKeys {
        /// The cases, by name.
        cases: Pairs<Node>,
        /// The time at the start of a case.
        now: Option<String>,
        /// Values for `${env:NAME}`.
        env: Pairs<String>,
        /// What stages and streams get, by `PIPELINE.STAGE` or `PIPELINE`.
        given: Option<Node>,
        /// What storages hold before, by name.
        storages: Option<Node>,
    }
}

config! {
    /// The keys of a case.
    pub(crate) struct CaseKeys {
        /// The time at the start.
        now: Option<String>,
        /// Values for `${env:NAME}`.
        env: Pairs<String>,
        /// What stages and streams get, by `PIPELINE.STAGE` or `PIPELINE`.
        given: Option<Node>,
        /// What storages hold before, by name.
        storages: Option<Node>,
        /// The pipelines that run, one after the other; a name may come again.
        run: Vec<Node>,
        /// Schedules run for this time of the case's clock.
        r#for: Option<Duration>,
        /// What must be true at the end.
        expect: Option<ExpectKeys>,
    }
}

config! {
    /// What must be true at the end of a case.
    pub(crate) struct ExpectKeys {
        /// What storages hold, by name.
        storages: Option<Node>,
        /// What stages have sent, by `PIPELINE.STAGE`.
        sent: Option<Node>,
        /// The params with which stages were asked, by `PIPELINE.STAGE`.
        asked: Option<Node>,
        /// What was set aside; nothing when left out.
        dead_letters: Option<Node>,
        /// A part of the message with which the flow fails; left out, it must not fail.
        failed: Option<String>,
    }
}

config! {
    /// A dead letter that is expected; what is left out is not compared.
    pub(crate) struct LetterKeys {
        /// Its pipeline.
        pipeline: Option<String>,
        /// Its stage.
        stage: Option<String>,
        /// A part of the reason.
        reason: Option<String>,
        /// What was set aside.
        payload: Option<Node>,
    }
}

config! {
    /// What a stage has sent, and where to.
    pub(crate) struct SentKeys {
        /// The topic or address.
        to: Option<String>,
        /// What, in order.
        payloads: Option<Node>,
    }
}

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) now: Timestamp,
    pub(super) env: BTreeMap<String, String>,
    pub(super) given: Given,
    /// What storages hold before.
    pub(super) before: Vec<(String, Vec<Value>)>,
    pub(super) run: Vec<String>,
    pub(super) limit: Option<Duration>,
    pub(super) expect: Expect,
}

/// What must be true at the end.
#[derive(Debug, Default)]
pub(super) struct Expect {
    pub(super) storages: Vec<(String, Pattern)>,
    pub(super) sent: Vec<SentTo>,
    pub(super) asked: Vec<(StageName, Pattern)>,
    /// None: any.
    pub(super) dead_letters: Option<Vec<Letter>>,
    pub(super) failed: Option<String>,
}

#[derive(Debug)]
pub(super) struct SentTo {
    pub(super) stage: StageName,
    pub(super) to: Option<String>,
    pub(super) payloads: Option<Pattern>,
}

#[derive(Debug)]
pub(super) struct Letter {
    pub(super) pipeline: Option<String>,
    pub(super) stage: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) payload: Option<Pattern>,
}

/// Reads a test file for this flow.
pub(super) fn read(node: &Node, tree: &Tree, reading: &mut Reading) -> Option<Vec<Case>> {
    if node.kind == NodeKind::Null {
        reading.error(node.span, "the test file is empty: it needs `cases`");
        return None;
    }
    let keys = FileKeys::from_node(node, reading);
    let cases = node.entry("cases").map(|entry| &entry.value.kind);
    let cases = match cases {
        Some(NodeKind::Map(cases)) if !cases.is_empty() => cases,
        Some(NodeKind::Map(_) | NodeKind::Null) => {
            reading.error(
                node.span,
                "a test file needs at least one case under `cases`",
            );
            return None;
        }
        _ => return None,
    };
    // What is wrong with the flow is told where it is checked; here its names are wanted.
    let names = Names::of(tree)?;
    let mut read = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    for entry in cases {
        let mut reader = Reader {
            names: &names,
            reading: Reading::at(&format!("cases.{}", entry.key.replace('.', " "))),
        };
        read.push(reader.case(&entry.key, &with_shared(&entry.value, node)));
        for problem in reader.reading.into_problems() {
            // A mistake in what all cases share is met with each of them.
            let same =
                |told: &Problem| (told.span, &told.message) == (problem.span, &problem.message);
            if !problems.iter().any(same) {
                problems.push(problem);
            }
        }
    }
    problems
        .into_iter()
        .for_each(|problem| reading.report(problem));
    keys?;
    read.into_iter().collect()
}

/// A case with what the file says for all: its own words go first, name by name.
fn with_shared(case: &Node, file: &Node) -> Node {
    let mut case = case.clone();
    if case.kind == NodeKind::Null {
        case.kind = NodeKind::Map(Vec::new());
    }
    for key in ["now", "env", "given", "storages"] {
        let Some(shared) = file.entry(key) else {
            continue;
        };
        let NodeKind::Map(entries) = &mut case.kind else {
            return case;
        };
        let Some(own) = entries.iter_mut().find(|entry| entry.key == key) else {
            entries.push(shared.clone());
            continue;
        };
        if let (NodeKind::Map(own), NodeKind::Map(shared)) =
            (&mut own.value.kind, &shared.value.kind)
        {
            let new = |entry: &&Entry| own.iter().all(|one| one.key != entry.key);
            let new: Vec<Entry> = shared.iter().filter(new).cloned().collect();
            own.extend(new);
        }
    }
    case
}

/// What can be named in a test.
struct Names {
    flow: FlowConfig,
    storages: Vec<String>,
}

impl Names {
    fn of(tree: &Tree) -> Option<Self> {
        let flow = tree.names()?;
        let outline = Outline::of(&flow, &tree.folder, &Scrubber::default());
        let storages = outline.storages.into_iter().map(|storage| storage.name);
        Some(Self {
            storages: storages.collect(),
            flow,
        })
    }

    fn stages(&self) -> impl Iterator<Item = (String, &StageConfig)> {
        let pipelines = self.flow.pipelines.iter();
        pipelines.flat_map(|pipeline| {
            let name = |stage: &StageConfig| format!("{}.{}", pipeline.name, stage.name);
            pipeline
                .stages
                .iter()
                .map(move |stage| (name(stage), stage))
        })
    }

    fn streams(&self) -> impl Iterator<Item = &str> {
        let is_stream =
            |pipeline: &&PipelineConfig| matches!(pipeline.trigger, TriggerConfig::Source { .. });
        let streams = self.flow.pipelines.iter().filter(is_stream);
        streams.map(|pipeline| pipeline.name.as_str())
    }
}

struct Reader<'a> {
    names: &'a Names,
    reading: Reading,
}

impl Reader<'_> {
    fn case(&mut self, name: &str, node: &Node) -> Option<Case> {
        let keys = CaseKeys::from_node(node, &mut self.reading)?;
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        let now = keys.now.as_deref().unwrap_or(NEW_YEAR);
        let now = parse_time(now).map_err(|message| self.reading.error(span("now"), message));
        let mut before = Vec::new();
        for entry in entries(keys.storages.as_ref(), "storages", &mut self.reading) {
            self.storage(entry);
            before.push((entry.key.clone(), rows(entry.value.to_value())));
        }
        let given = self.given(keys.given.as_ref());
        let pipelines = || {
            self.names
                .flow
                .pipelines
                .iter()
                .map(|pipeline| pipeline.name.as_str())
        };
        let mut run = Vec::new();
        for one in &keys.run {
            let name = one.as_text().unwrap_or_default();
            if pipelines().all(|known| known != name) {
                let message = format!("there is no pipeline `{name}`");
                let help = possible(name, pipelines());
                self.reading.error_with_help(one.span, message, help);
            }
            run.push(name.to_owned());
        }
        let expect = keys
            .expect
            .map(|expect| self.expect(expect))
            .unwrap_or_else(|| Expect {
                dead_letters: Some(Vec::new()),
                ..Expect::default()
            });
        Some(Case {
            name: name.to_owned(),
            now: now.ok()?,
            env: keys.env.0.into_iter().collect(),
            given,
            before,
            run,
            limit: keys.r#for,
            expect,
        })
    }

    fn given(&mut self, node: Option<&Node>) -> Given {
        let mut given = Given::default();
        for entry in entries(node, "given", &mut self.reading) {
            if let Some(stage) = self.stage(entry, can_be_answered, true) {
                given.answers.insert(stage, self.answers(&entry.value));
            } else if self.names.streams().any(|name| name == entry.key) {
                let messages = match &entry.value.kind {
                    NodeKind::List(items) => items.iter().map(|item| self.said(item)).collect(),
                    NodeKind::Null => VecDeque::new(),
                    _ => VecDeque::from([self.said(&entry.value)]),
                };
                given.messages.insert(entry.key.clone(), messages);
            }
        }
        given
    }

    fn answers(&mut self, node: &Node) -> Answers {
        match &node.kind {
            NodeKind::List(items) => {
                Answers::InTurn(items.iter().map(|item| self.said(item)).collect())
            }
            NodeKind::Map(entries) if entries.len() == 1 && entries[0].key == "$each" => {
                Answers::Always(Said::Json(entries[0].value.to_value()))
            }
            _ => Answers::Always(self.said(node)),
        }
    }

    /// What comes from outside once: JSON, unless a word that begins with `$` says otherwise.
    fn said(&mut self, node: &Node) -> Said {
        const KNOWN: [&str; 4] = ["$away", "$raw", "$status", "$each"];
        if node.as_text() == Some("$away") {
            return Said::Away;
        }
        let json = || Said::Json(node.to_value());
        let NodeKind::Map(entries) = &node.kind else {
            return json();
        };
        let [Entry { key, span, value }] = &entries[..] else {
            return json();
        };
        match key.as_str() {
            "$raw" => String::from_node(value, &mut self.reading).map_or_else(json, Said::Raw),
            "$status" => match u16::from_node(value, &mut self.reading) {
                Some(code @ (100..=199 | 300..=599)) => Said::Status(code),
                Some(_) => {
                    let message = "a `$status` is an answer that is no success, such as 404 or 503";
                    self.reading.error(value.span, message);
                    json()
                }
                None => json(),
            },
            "$each" => {
                let message = "`$each` stands in the place of the list, not in it";
                self.reading.error(*span, message);
                json()
            }
            word if word.starts_with('$') => {
                let message = format!("`{word}` is not possible here");
                self.reading
                    .error_with_help(*span, message, possible(word, KNOWN));
                json()
            }
            _ => json(),
        }
    }

    fn expect(&mut self, keys: ExpectKeys) -> Expect {
        let mut expect = Expect {
            failed: keys.failed,
            dead_letters: Some(Vec::new()),
            ..Expect::default()
        };
        for entry in entries(keys.storages.as_ref(), "expect.storages", &mut self.reading) {
            self.storage(entry);
            let pattern = Pattern::read(&entry.value, &mut self.reading);
            expect.storages.push((entry.key.clone(), pattern));
        }
        for entry in entries(keys.sent.as_ref(), "expect.sent", &mut self.reading) {
            let sends = |stage: &StageConfig| matches!(stage.kind.as_str(), "send" | "store");
            if let Some(stage) = self.stage(entry, sends, false) {
                let sent = self.sent(stage, &entry.value);
                expect.sent.extend(sent);
            }
        }
        for entry in entries(keys.asked.as_ref(), "expect.asked", &mut self.reading) {
            if let Some(stage) = self.stage(entry, can_be_answered, false) {
                let pattern = Pattern::read(&entry.value, &mut self.reading);
                expect.asked.push((stage, pattern));
            }
        }
        if let Some(letters) = &keys.dead_letters {
            expect.dead_letters = self.letters(letters);
        }
        expect
    }

    fn sent(&mut self, stage: StageName, node: &Node) -> Option<SentTo> {
        if !matches!(node.kind, NodeKind::Map(_)) {
            return Some(SentTo {
                stage,
                to: None,
                payloads: Some(Pattern::read(node, &mut self.reading)),
            });
        }
        let keys = SentKeys::from_node(node, &mut self.reading)?;
        let payloads = keys
            .payloads
            .map(|node| Pattern::read(&node, &mut self.reading));
        Some(SentTo {
            stage,
            to: keys.to,
            payloads,
        })
    }

    fn letters(&mut self, node: &Node) -> Option<Vec<Letter>> {
        if node.as_text() == Some("$any") {
            return None;
        }
        let keys = Vec::<LetterKeys>::from_node(node, &mut self.reading).unwrap_or_default();
        let letter = |keys: LetterKeys| Letter {
            pipeline: keys.pipeline,
            stage: keys.stage,
            reason: keys.reason,
            payload: keys
                .payload
                .map(|node| Pattern::read(&node, &mut self.reading)),
        };
        Some(keys.into_iter().map(letter).collect())
    }

    fn storage(&mut self, entry: &Entry) {
        let known = || self.names.storages.iter().map(String::as_str);
        if known().all(|name| name != entry.key) {
            let message = format!("there is no storage `{}`", entry.key);
            let help = possible(&entry.key, known());
            self.reading.error_with_help(entry.span, message, help);
        }
    }

    /// The stage that `PIPELINE.STAGE` names, if it is one that `fits`; else tells what is possible. With
    /// `streams` the name of a pipeline with a source is none, and right too.
    fn stage(
        &mut self,
        entry: &Entry,
        fits: fn(&StageConfig) -> bool,
        streams: bool,
    ) -> Option<StageName> {
        let fitting = || self.names.stages().filter(|(_, stage)| fits(stage));
        if fitting().any(|(name, _)| name == entry.key) {
            let (pipeline, stage) = entry.key.split_once('.')?;
            return Some((pipeline.to_owned(), stage.to_owned()));
        }
        let mut names: Vec<String> = fitting().map(|(name, _)| name).collect();
        if streams {
            if self.names.streams().any(|name| name == entry.key) {
                return None;
            }
            names.extend(self.names.streams().map(str::to_owned));
        }
        let is_stage = self.names.stages().any(|(name, _)| name == entry.key);
        let message = if is_stage {
            format!("`{}` is not of a kind that can stand here", entry.key)
        } else {
            format!("there is no `{}` in the flow", entry.key)
        };
        let help = possible(&entry.key, names.iter().map(String::as_str));
        self.reading.error_with_help(entry.span, message, help);
        None
    }
}

/// The entries of a map; what is no map is reported.
fn entries<'n>(node: Option<&'n Node>, what: &str, reading: &mut Reading) -> &'n [Entry] {
    match node.map(|node| (node, &node.kind)) {
        None | Some((_, NodeKind::Null)) => &[],
        Some((node, _)) => {
            let what = format!("a map of names under `{what}`");
            reading.any_entries(node, &what).unwrap_or_default()
        }
    }
}

/// What a storage holds, row by row.
fn rows(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(rows) => rows,
        row => vec![row],
    }
}

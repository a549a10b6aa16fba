//! All cards of the catalogue, and those of the keys around the components.

use wiredflow_core::config::{Grouping, RateLimit, Retry, StorageOptions};
use wiredflow_core::config_reader::{FlowKeys, PipelineKeys, StageKeys};
use wiredflow_engine::catalogue::Card;
use wiredflow_engine::remotes::REMOTES;
use wiredflow_engine::senders::SENDERS;
use wiredflow_engine::sources::SOURCES;
use wiredflow_engine::stages::STAGES;
use wiredflow_engine::storages::STORAGES;

/// Where a kind stands in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Keys,
    Stage,
    Source,
    Storage,
    Sender,
    Remote,
}

/// A kind and its role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) role: Role,
    pub(super) card: Card,
}

/// One key of a kind, its words on one line.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) doc: String,
    pub(super) expects: &'static str,
    pub(super) default: Option<&'static str>,
    pub(super) required: bool,
}

impl Role {
    /// All, in the order in which they are shown.
    pub(super) const ALL: [Self; 6] = [
        Self::Stage,
        Self::Source,
        Self::Storage,
        Self::Sender,
        Self::Remote,
        Self::Keys,
    ];

    /// The key in JSON, and the head of a list.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Stage => "stages",
            Self::Source => "sources",
            Self::Storage => "storages",
            Self::Sender => "receivers",
            Self::Remote => "remotes",
        }
    }

    /// What it is in the singular.
    pub(super) fn singular(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Stage => "stage",
            Self::Source => "source",
            Self::Storage => "storage",
            Self::Sender => "receiver",
            Self::Remote => "remote",
        }
    }

    /// Where it stands in a flow.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Keys => "what stands around the kinds",
            Self::Stage => "a pipeline's `stages:`",
            Self::Source => "a pipeline's `source:`",
            Self::Storage => "`store:` in a stage, or under `storages:` by name",
            Self::Sender => "`send:` in a stage",
            Self::Remote => "under `remotes:` by name, for `remote:` beside a stage",
        }
    }
}

impl Kind {
    /// What it is for, on one line.
    pub(super) fn doc(&self) -> String {
        one_line(self.card.doc)
    }

    /// The first sentence of it.
    pub(super) fn summary(&self) -> String {
        let doc = self.doc();
        let end = doc.find(". ").map_or(doc.len(), |end| end + 1);
        doc[..end].to_owned()
    }

    /// Its keys.
    pub(super) fn fields(&self) -> Vec<Key> {
        let key = |field: wiredflow_core::fields::Field| Key {
            name: field.name,
            doc: one_line(field.doc),
            expects: field.expects,
            default: field.default,
            required: field.required,
        };
        (self.card.fields)().into_iter().map(key).collect()
    }
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All kinds, by role and in the catalogue's order.
pub(super) fn all() -> Vec<Kind> {
    let of = |role: Role| -> Vec<Card> {
        match role {
            Role::Keys => keys(),
            Role::Stage => STAGES.iter().map(|entry| entry.card).collect(),
            Role::Source => SOURCES.iter().map(|entry| entry.card).collect(),
            Role::Storage => STORAGES.iter().map(|entry| entry.card).collect(),
            Role::Sender => SENDERS.iter().map(|entry| entry.card).collect(),
            Role::Remote => REMOTES.iter().map(|entry| entry.card).collect(),
        }
    };
    let kinds = |role: Role| of(role).into_iter().map(move |card| Kind { role, card });
    Role::ALL.into_iter().flat_map(kinds).collect()
}

fn keys() -> Vec<Card> {
    vec![
        Card::of::<FlowKeys>("flow", FLOW),
        Card::of::<PipelineKeys>("pipeline", PIPELINE),
        Card::of::<StageKeys>("stage", STAGE),
        Card::of::<StorageOptions>("storage", STORAGE),
        Card::of::<Retry>("retry", "retry: {attempts: 3, backoff: 500ms, max: 10s}"),
        Card::of::<Grouping>("batch", "batch: {max: 64, within: 250ms}"),
        Card::of::<RateLimit>("rate_limit", "rate_limit: {per_second: 5}"),
    ]
}

const FLOW: &str = "\
name: sensors
on_failure: restart
storages:
  all_numbers: {sqlite: {path: data/numbers.db, table: numbers}, key: id}
pipelines:
  numbers:
    every: 10s
    stages:
      - http: \"http://localhost:8027\"
      - store: all_numbers";

const PIPELINE: &str = "\
numbers:
  cron: \"*/15 6-18 * * MON-FRI\"
  time_zone: Europe/Berlin
  timeout: 2m
  stages:
    - http: \"http://localhost:8027\"
    - store: sqlite";

const STAGE: &str = "\
- core_logic: {python: \"logic.py:work\"}
  name: work
  timeout: 30s
  retry: {attempts: 3, backoff: 1s}
  on_error: dead_letter
  parallel: 4";

const STORAGE: &str = "\
store: {json: {folder: data}, mapping: update, preprocess: [add_datetime]}";

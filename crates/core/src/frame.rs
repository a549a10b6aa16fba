//! The worker protocol's frames: what a stage that runs elsewhere says to its host, and back.
//!
//! A frame is a big-endian `u32` length and that many bytes of UTF-8 JSON: one object whose `type` names
//! the frame. This file only turns frames into bytes and bytes into frames; `docs/worker-protocol.md`
//! tells what they mean and who sends which.

mod codec;
mod shape;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use codec::{FrameError, check_version, decode, encode};

use crate::charge::Used;
use crate::error::ErrorKind;
use crate::record::{Map, Record, Value};

/// The version of the protocol. Another one is refused, not guessed.
pub const VERSION: u32 = 1;

/// The longest frame that is accepted unless the two sides agree on another limit, in bytes.
pub const FRAME_LIMIT: usize = 64 << 20;

/// How many outputs of a call may be on their way before the host has asked for more.
pub const CREDIT: u32 = 4;

/// One message of the worker protocol.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Frame {
    /// The host's first frame.
    Start(Start),
    /// The worker's answer: it is ready for calls.
    Hello(Hello),
    /// The host asks for one call of a function.
    Call(Call),
    /// One batch that a call gave.
    Output(Output),
    /// The host takes more outputs of a call.
    More(More),
    /// The call has ended well.
    Done(Ended),
    /// The call, or the load or save, has failed; without an id: the worker itself.
    Error(Failure),
    /// The worker reads one of the flow's storages.
    Load(Load),
    /// The host's answer to a load.
    Rows(Rows),
    /// The worker writes to one of the flow's storages.
    Save(Save),
    /// The host's answer to a save: the rows are safe.
    Saved(Done),
    /// A line for the log.
    Log(Log),
    /// How far a long call is.
    Progress(Progress),
    /// A sign of life, in either direction.
    Heartbeat(Heartbeat),
    /// The host no longer wants the call's outputs.
    Cancel(Done),
}

/// The host's first frame: which functions to make ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The host's version of the protocol.
    pub version: u32,
    /// What will be called.
    pub functions: Vec<Function>,
    /// The flow's folder; functions run in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The longest frame that the host reads, in bytes.
    pub limit: usize,
    /// Every how many milliseconds the worker must give a sign of life; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<u64>,
    /// A whole stage to run in the place of functions: only for a worker that is Wiredflow itself, of the same release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errand: Option<Value>,
}

/// A function that will be called, and all that the worker must know to make it ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// The name that calls use.
    pub name: String,
    /// How it is called.
    pub role: Role,
    /// Where a worker that loads code finds it: `FILE:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The pipeline that calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pipeline: String,
    /// The storages that it may read and write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storages: Vec<String>,
}

/// What a function is for, which decides how user code is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user's own logic: `relevant_info`, `db_connectors`, `pipeline_name` and params by name.
    CoreLogic,
    /// Makes params: `pipeline_name`, params, the storages by their names, `db_connectors`.
    Configuration,
    /// A source of its own: params by name.
    Http,
    /// Keeps records: the data first, then params.
    Store,
    /// Delivers records: the data first, then params.
    Send,
    /// Changes records before they are stored: the data first; gives back what to store.
    Preprocess,
}

/// The worker's answer to `start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The worker's version of the protocol.
    pub version: u32,
    /// The functions that are ready, by name.
    pub functions: Vec<String>,
    /// How many calls it works on at once.
    pub slots: u32,
}

/// One call of one function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The host's number for it, used once.
    pub id: u64,
    /// 1 for the first attempt with this batch.
    pub attempt: u32,
    /// The order of owners: a later owner of the pipeline has a higher one.
    pub epoch: u64,
    /// The function's name.
    pub function: String,
    /// Params by name.
    pub params: Map,
    /// What to work on.
    pub batch: Option<Payload>,
    /// How many milliseconds after its receipt nobody waits for it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// What each record of the batch is known by at a peer, where the stage delivers to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    /// How many outputs may be sent before `more` is received, at least 1.
    pub credit: u32,
}

/// A [`Call`] whose parts are borrowed, so that a batch is encoded without a copy.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "call")]
pub struct CallRef<'a> {
    /// See [`Call::id`].
    pub id: u64,
    /// See [`Call::attempt`].
    pub attempt: u32,
    /// See [`Call::epoch`].
    pub epoch: u64,
    /// See [`Call::function`].
    pub function: &'a str,
    /// See [`Call::params`].
    pub params: &'a Map,
    /// See [`Call::batch`].
    pub batch: Option<PayloadRef<'a>>,
    /// See [`Call::deadline`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// See [`Call::keys`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<&'a str>>,
    /// See [`Call::credit`].
    pub credit: u32,
}

/// Records in the shape that user code sees: `{"one": record}` or `{"many": [record, …]}`; none is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Payload {
    /// One record, given to user code as it is.
    One(Value),
    /// A list of records.
    Many(Vec<Value>),
}

/// A [`Payload`] whose records are borrowed.
#[derive(Clone, Debug)]
pub enum PayloadRef<'a> {
    /// One record, given to user code as it is.
    One(&'a Value),
    /// A list of records.
    Many(&'a [Record]),
}

/// One batch that a call gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The call.
    pub id: u64,
    /// 0 for the call's first output, then 1, 2, …
    pub seq: u64,
    /// What it gave.
    pub batch: Option<Payload>,
    /// The params that it gave for the stages after it; the batch is the call's own then, and is not sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Map>,
}

/// The host takes `count` more outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct More {
    /// The call.
    pub id: u64,
    /// How many more.
    pub count: u32,
}

/// A call has ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The call.
    pub id: u64,
    /// Where the stage hands on its input itself: what became of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
    /// What its function has used, if the worker knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
}

/// A stage that hands on its input, and what it says of that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// How many records a peer has confirmed; none where the input went nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<usize>,
    /// How many records had nothing for this stage.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub over: usize,
    /// Why they had nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Only says which call, load or save is meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// The number of the call, load or save.
    pub id: u64,
}

/// What went wrong, and who must act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The call (from the worker), the load or save (from the host); absent when it is the worker itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Who must act.
    #[serde(serialize_with = "kind_word", deserialize_with = "kind_of_word")]
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
    /// The trace of the user's own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The one record of the batch that could not be handled, by its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<usize>,
    /// Whether a peer would answer, were it asked less often.
    #[serde(default, skip_serializing_if = "is_false")]
    pub limited: bool,
    /// How many milliseconds a peer asked to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What the call's function has used, if the worker knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
}

/// The worker reads a storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The worker's number for it, used once for loads and saves.
    pub id: u64,
    /// The call that wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// The storage's name.
    pub storage: String,
    /// What to read: `{}` or `{"limit": N}`.
    pub query: Map,
}

/// What a storage holds: `null` for nothing, `one` for `mapping: update`, else `many`, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// The load's number.
    pub id: u64,
    /// The rows.
    pub batch: Option<Payload>,
}

/// The worker writes to a storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Save {
    /// The worker's number for it, used once for loads and saves.
    pub id: u64,
    /// The call that wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// The storage's name.
    pub storage: String,
    /// The rows.
    pub batch: Option<Payload>,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How much it matters.
    pub level: Level,
    /// One line.
    pub message: String,
    /// The call that said it, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

/// How much a line of a log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For those who look for a mistake.
    Debug,
    /// Worth knowing.
    Info,
    /// Somebody should look at it.
    Warn,
    /// Something failed.
    Error,
}

/// How far a call is, in its own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The call.
    pub id: u64,
    /// For people.
    pub note: String,
}

/// A sign of life; it says nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn kind_word<S: Serializer>(kind: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.word())
}

fn kind_of_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ErrorKind, D::Error> {
    let word = String::deserialize(deserializer)?;
    [
        ErrorKind::Config,
        ErrorKind::Data,
        ErrorKind::Remote,
        ErrorKind::Bug,
    ]
    .into_iter()
    .find(|kind| kind.word() == word.as_str())
    .ok_or_else(|| de::Error::unknown_variant(&word, &["config", "data", "remote", "bug"]))
}

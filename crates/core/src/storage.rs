//! What a storage promises.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use crate::condition::Conditions;
use crate::error::{Error, Result};
use crate::record::{Map, Value};

/// The order of owners: a later owner has a higher epoch, and a storage that can check it refuses
/// the commit of an earlier one. `0` where nothing else can own the storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Keeps an owner out that has been replaced: who commits, and as which of those who owned it one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// The owner's epoch. With `0` nothing is fenced in, and a commit does not look.
    pub epoch: Epoch,
    /// What is owned: `flow/pipeline` of each pipeline concerned. So pipelines of different owners that share a table
    /// do not disturb each other.
    pub of: Vec<Arc<str>>,
}

impl Fence {
    /// Whether there is something to look after.
    pub fn stands(&self) -> bool {
        self.epoch > Epoch::default() && !self.of.is_empty()
    }

    /// The refusal, where `other` owns what is owned here by `owner`.
    pub fn refusal(&self, owner: &str, other: Epoch) -> Error {
        let (ours, theirs) = (self.epoch.0, other.0);
        let message = match ours {
            0 => format!(
                "`{owner}` belongs to a cluster, as epoch {theirs}: stop it there; if it will not run there again, DELETE \
                 FROM _wiredflow_cursors WHERE source = '{FENCE_PREFIX}{owner}'"
            ),
            _ => format!(
                "another owner has taken over `{owner}`: it is at epoch {theirs}, and this one at {ours}, which ends here"
            ),
        };
        Error::fenced(message, other)
    }
}

/// What the names of fences begin with where they stand among those of cursors, which never do.
pub const FENCE_PREFIX: &str = "@";

/// Where a source stands, kept with the rows that came from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Whose position this is: `pipeline/stage`.
    pub source: String,
    /// The position, in the source's own words.
    pub position: String,
}

/// Proof that rows are safe: made by storages after COMMIT or fdatasync and by senders after the
/// peer's confirmation, and by nothing else (a guard in `cargo xtask tidy` looks).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a receipt is what an acknowledgement is made from"]
pub struct CommitReceipt {
    sink: Arc<str>,
    rows: usize,
}

impl CommitReceipt {
    /// States that `rows` rows are safe in `sink`. Call it only after COMMIT, fdatasync or the
    /// peer's confirmation.
    pub fn issue(sink: Arc<str>, rows: usize) -> Self {
        Self { sink, rows }
    }

    /// Adds another receipt of the same sink to this one.
    pub(crate) fn join(&mut self, other: &Self) {
        self.rows += other.rows;
    }

    /// The storage or receiver that holds the rows.
    pub fn sink(&self) -> &str {
        &self.sink
    }

    /// How many rows it holds by this commit.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// What to read from a storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// At most this many rows, the newest of them; all when `None`.
    pub limit: Option<usize>,
    /// Only rows for which these hold; `limit` counts those.
    pub conditions: Conditions,
}

impl Query {
    /// The newest rows, so many at most.
    pub fn newest(limit: usize) -> Self {
        Self {
            limit: Some(limit),
            ..Self::default()
        }
    }

    /// Adds the next row, oldest first, when it is asked for, and forgets one that is older than the newest asked for.
    pub fn keep(&self, rows: &mut VecDeque<Value>, row: Value) {
        if !self.conditions.hold(&row) {
            return;
        }
        rows.push_back(row);
        if self.limit.is_some_and(|limit| rows.len() > limit) {
            rows.pop_front();
        }
    }

    /// The one object of `mapping: update`, when it is asked for.
    pub fn of_object(&self, object: Option<Map>) -> Loaded {
        match object.map(Value::Object) {
            Some(object) if self.conditions.hold(&object) => match object {
                Value::Object(object) => Loaded::Object(object),
                other => Loaded::Rows(vec![other]),
            },
            _ => Loaded::Nothing,
        }
    }
}

/// How a query in SQL reads a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlView {
    /// It loads the rows.
    Rows,
    /// It loads the rows, whose values are texts, of numbers too.
    Texts,
    /// It is a table of an SQLite file, which others may open for reading.
    Table {
        /// The file.
        file: PathBuf,
        /// The table, which may not be there yet.
        table: String,
    },
}

/// What a storage holds, in the shape that its mapping gives to user code.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// Nothing is stored.
    Nothing,
    /// The rows, oldest first.
    Rows(Vec<Value>),
    /// The one merged object of `mapping: update`.
    Object(Map),
}

impl Loaded {
    /// As one JSON document: null, an array or an object.
    pub fn into_document(self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Rows(rows) => Value::Array(rows),
            Self::Object(object) => Value::Object(object),
        }
    }
}

/// How new rows join those that are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Rows are added.
    #[default]
    Extend,
    /// The fields of each row are merged into the one object that is kept.
    Update,
    /// The rows of the last commit replace all others.
    Overwrite,
}

/// A place that keeps rows, on the writer thread of its owner: its methods may block on the disk.
///
/// The engine calls it from one thread at a time, opens it again after a `Remote` error, and never
/// retries inside: a storage holds no retry code. After an error no row of that call counts as
/// stored; a storage takes care that a part of it is not seen later (truncate or roll back).
pub trait Storage: Send {
    /// Makes the rows and the cursors safe, or changes nothing. Cursors of other sources stay as they were.
    ///
    /// A row that can never be stored is `Error::data(…).at_record(index)`; a full or failing disk is
    /// `Error::remote`. Rows arrive as the preprocessing left them, oldest first.
    ///
    /// Where another can own the storage, a commit is [refused](Error::fenced) with all its rows when a later owner
    /// has taken over one of those that the fence names.
    fn commit(
        &mut self,
        rows: &[&Value],
        cursors: &[Cursor],
        fence: &Fence,
    ) -> Result<CommitReceipt>;

    /// Says that an owner begins: from now on commits of earlier ones are refused. What they have committed until now is
    /// seen by whatever is read after it. It is called before the first commit and before cursors are read. With epoch `0`
    /// it only looks whether somebody else is the owner. A file, which is nobody else's, has nothing to do.
    ///
    /// # Errors
    /// [`Error::fenced`], where a later one has begun.
    fn take_over(&mut self, fence: &Fence) -> Result<()> {
        let _nothing_to_do = fence;
        Ok(())
    }

    /// Where a source stood at the last commit that said so: what was made safe with the rows.
    fn cursor(&mut self, source: &str) -> Result<Option<String>>;

    /// Whether the rows of several commits may come as one. Not so where a commit replaces the rows of the
    /// one before.
    fn joins_commits(&self) -> bool {
        true
    }

    /// Reads what is committed.
    fn load(&mut self, query: &Query) -> Result<Loaded>;

    /// How a query in SQL reads it.
    fn sql_view(&self) -> SqlView {
        SqlView::Rows
    }
}

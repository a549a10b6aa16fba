//! `store`: makes records safe in a storage, and hands them on unchanged.

use std::sync::Arc;

use wiredflow_core::charge::Activity;
use wiredflow_core::config_reader::read_storage;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::frame::Role;
use wiredflow_core::node::Node;
use wiredflow_core::problem::possible;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::{CommitReceipt, Mapping};
use wiredflow_core::{Batch, Error, Record, Result, Value, config};

use crate::catalogue::{CheckCx, Prepared, StageEntry, Work};
use crate::check::inline_storage;
use crate::clock::Clock;
use crate::logic::{self, FunctionPlan, Logic};
use crate::resources::Resources;
use crate::storages::{RowsOf, StorageHandle};

config! {
    /// Keeps records. Its value is the name of a shared storage, a kind of storage (see below), or a
    /// function (`python:`, `rust:`, `program:`).
    pub struct StoreKeys {
        /// How new rows join those that are stored.
        mapping: wiredflow_core::config::MappingWord = "extend",
        /// What is done to each record before it is saved: `add_datetime`, or a function.
        preprocess: Vec<Node>,
        /// The field that tells rows apart; a row with a known key replaces the old one.
        key: Option<String>,
        /// `false`: nothing waits for it. Its records go into a queue on the disk, from which they are worked off by
        /// themselves; what fails for good is a dead letter.
        required: bool = "true",
    }
}

/// The line in the catalogue.
pub(crate) const ENTRY: StageEntry = StageEntry::with::<StoreKeys>(
    "store",
    "store: {json: {folder: data}, preprocess: [add_datetime]}",
    Work::Sink,
    prepare,
);

/// What is done to each record before it is saved.
#[derive(Clone, Debug)]
enum StepPlan {
    AddDatetime,
    Function(FunctionPlan),
}

enum Step {
    AddDatetime,
    Function(Logic),
}

fn prepare(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
    if logic::is_function(node) {
        return prepare_function(node, cx);
    }
    let (name, options) = match inline_storage(node, cx) {
        Some(name) => {
            // Its structure has been reported by those who collect the storages of a flow.
            let config = read_storage(&name, node, node.span, &mut Reading::default())?;
            (name, config.options)
        }
        None => {
            let name = node.as_text()?.to_owned();
            let shared = cx
                .flow
                .storages
                .iter()
                .find(|storage| storage.name == name)?;
            (name, shared.options.clone())
        }
    };
    let steps = options.preprocess.iter();
    let steps: Vec<Option<StepPlan>> = steps.map(|step| prepare_step(step, cx)).collect();
    let steps: Vec<StepPlan> = steps.into_iter().collect::<Option<_>>()?;
    let (mapping, required) = (options.mapping, options.required);
    let store = Prepared::new(Work::Sink, move |resources: Resources| {
        let (name, steps) = (name.clone(), steps.clone());
        async move {
            // One that works from an outbox tells its records by the numbers there, and not by the pipeline's.
            let rows_of = RowsOf {
                pipeline: Arc::clone(&resources.pipeline),
                stage: (!required).then(|| Arc::clone(&resources.stage)),
                marks: None,
            };
            Store::open(&name, mapping.into(), (&steps, rows_of), &resources).await
        }
    });
    Some(store.required(required))
}

fn prepare_function(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
    let (function, options) = crate::check::split_options(node, &["required"]);
    let keys = StoreKeys::from_node(&options, cx.reading)?;
    let plan = logic::prepare(&function, Role::Store, cx)?;
    let store = Prepared::new(Work::Function, move |resources: Resources| {
        let plan = plan.clone();
        async move {
            let storage = Arc::clone(&resources.stage);
            Ok(StoreFunction {
                logic: plan.open(&resources).await?,
                storage,
            })
        }
    });
    Some(store.required(keys.required))
}

fn prepare_step(node: &Node, cx: &mut CheckCx<'_>) -> Option<StepPlan> {
    if logic::is_map(node) {
        return logic::prepare(node, Role::Preprocess, cx).map(StepPlan::Function);
    }
    match node.as_text() {
        Some("add_datetime") => Some(StepPlan::AddDatetime),
        word => {
            let message = format!("there is no preprocessing `{}`", word.unwrap_or("?"));
            let known = ["add_datetime"];
            cx.reading
                .error_with_help(node.span, message, possible(word.unwrap_or(""), known));
            None
        }
    }
}

/// Commits to a storage.
struct Store {
    storage: StorageHandle,
    mapping: Mapping,
    steps: Vec<Step>,
    clock: Clock,
    /// Whose deliveries its rows are of.
    rows_of: RowsOf,
}

/// The rows that a batch becomes.
struct Rows {
    batch: Batch,
    /// The place in the input of the record that each row was made of; none where each row is the record
    /// at its own place, counted from `begin`.
    made_of: Option<Vec<usize>>,
    /// The place in the input where they begin.
    begin: usize,
}

impl Rows {
    /// Names the record of the input instead of the row.
    fn told(&self, error: Error) -> Error {
        match error.record() {
            Some(row) => error.at_record(self.record(row)),
            None => error,
        }
    }

    fn record(&self, row: usize) -> usize {
        let place = match &self.made_of {
            Some(made_of) => made_of.get(row).copied().unwrap_or(row),
            None => row,
        };
        self.begin + place
    }
}

impl Store {
    async fn open(
        name: &str,
        mapping: Mapping,
        (plans, rows_of): (&[StepPlan], RowsOf),
        resources: &Resources,
    ) -> Result<Self> {
        let mut steps = Vec::with_capacity(plans.len());
        for plan in plans {
            steps.push(match plan {
                StepPlan::AddDatetime => Step::AddDatetime,
                StepPlan::Function(plan) => Step::Function(plan.open(resources).await?),
            });
        }
        let storage = resources.storages.named(name)?.clone();
        // What cannot be written is told at the start, not when the first record has come.
        storage.open().await?;
        Ok(Self {
            storage,
            mapping,
            steps,
            clock: resources.clock.clone(),
            rows_of,
        })
    }

    async fn preprocessed(&self, batch: &Batch, cx: &Cx) -> Result<Rows> {
        // Of what came in one burst only the last delivery would be left: the others are not even written.
        let begin = match self.mapping {
            Mapping::Overwrite => batch.last_delivery(),
            Mapping::Extend | Mapping::Update => 0,
        };
        let mut rows = Rows {
            batch: batch.from_place(begin),
            made_of: None,
            begin,
        };
        for step in &self.steps {
            match step {
                Step::AddDatetime => self.add_datetime(&mut rows.batch),
                Step::Function(logic) => {
                    let applied = apply(logic, &rows.batch, cx).await;
                    let (batch, of_rows) = applied.map_err(|error| rows.told(error))?;
                    let before = rows.made_of.take();
                    let through = |row| before.as_ref().map_or(row, |before| before[row]);
                    rows.made_of = Some(of_rows.into_iter().map(through).collect());
                    rows.batch = batch;
                }
            }
        }
        Ok(rows)
    }

    /// Adds the local time with its offset to each object.
    fn add_datetime(&self, batch: &mut Batch) {
        let now = self.clock.now().to_zoned(jiff::tz::TimeZone::system());
        let label = Value::String(now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string());
        for record in batch.records_mut() {
            if let Value::Object(fields) = record.value_mut() {
                fields.insert("datetime_label".to_owned(), label.clone());
            }
        }
    }
}

/// The function's word on each record; what it returns takes the record's place. With the rows comes the
/// place of the record that each was made of.
async fn apply(logic: &Logic, batch: &Batch, cx: &Cx) -> Result<(Batch, Vec<usize>)> {
    let mut records: Vec<Record> = Vec::with_capacity(batch.len());
    let mut made_of = Vec::with_capacity(batch.len());
    for (index, record) in batch.records().iter().enumerate() {
        let one = Batch::new(vec![record.clone()]);
        let output = logic
            .call_once(&one, cx)
            .await
            .map_err(|error| error.at_record(index))?;
        records.extend(
            output
                .into_records()
                .into_iter()
                .map(|new| record.with_value(new.into_value())),
        );
        made_of.resize(records.len(), index);
    }
    Ok((Batch::new(records), made_of))
}

impl Stage for Store {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        if batch.is_empty() {
            out.pass(None);
            return Ok(());
        }
        let prepared = self.preprocessed(batch, cx);
        let rows = match self.steps.is_empty() {
            true => prepared.await?,
            false => cx.spend(Activity::Compute, prepared).await?,
        };
        let of = RowsOf {
            marks: cx.marks.clone(),
            ..self.rows_of.clone()
        };
        let commit = self.storage.commit(rows.batch.clone(), of);
        let receipt = commit.await.map_err(|error| rows.told(error))?;
        out.pass(Some(receipt));
        Ok(())
    }
}

/// The user's own storage: done when the function returns.
struct StoreFunction {
    logic: Logic,
    storage: Arc<str>,
}

impl Stage for StoreFunction {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        if batch.is_empty() {
            out.pass(None);
            return Ok(());
        }
        self.logic.call_once(batch, cx).await?;
        out.pass(Some(CommitReceipt::issue(
            Arc::clone(&self.storage),
            batch.len(),
        )));
        Ok(())
    }
}

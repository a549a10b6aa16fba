//! `store`: makes records safe in a storage, and hands them on unchanged.

use std::sync::Arc;

use wiredflow_core::config_reader::read_storage;
use wiredflow_core::fields::Reading;
use wiredflow_core::frame::Role;
use wiredflow_core::node::Node;
use wiredflow_core::problem::possible;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Record, Result, Value, config};

use crate::catalogue::{CheckCx, Prepared, StageEntry, Work};
use crate::check::inline_storage;
use crate::clock::Clock;
use crate::logic::{self, FunctionPlan, Logic};
use crate::resources::Resources;
use crate::storages::StorageHandle;

config! {
    /// Keeps records. Its value is the name of a shared storage, a kind of storage (see below), or a
    /// function (`python:`, `rust:`).
    pub struct StoreKeys {
        /// How new rows join those that are stored.
        mapping: wiredflow_core::config::MappingWord = "extend",
        /// What is done to each record before it is saved: `add_datetime`, or a function.
        preprocess: Vec<Node>,
        /// The field that tells rows apart; a row with a known key replaces the old one.
        key: Option<String>,
        /// `false`: a failure here does not hold the source back; not built yet.
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
        let plan = logic::prepare(node, Role::Store, cx)?;
        return Some(Prepared::new(
            Work::Function,
            move |resources: Resources| {
                let plan = plan.clone();
                async move {
                    let storage = Arc::clone(&resources.stage);
                    Ok(StoreFunction {
                        logic: plan.open(&resources).await?,
                        storage,
                    })
                }
            },
        ));
    }
    let (name, options) = match inline_storage(node, cx) {
        Some(name) => {
            // Its structure has been reported by those who collect the storages of a flow.
            let config = read_storage(&name, node, node.span, &mut Reading::default())?;
            (name, config.options.preprocess)
        }
        None => {
            let name = node.as_text()?.to_owned();
            let shared = cx
                .flow
                .storages
                .iter()
                .find(|storage| storage.name == name)?;
            (name, shared.options.preprocess.clone())
        }
    };
    let steps: Vec<Option<StepPlan>> = options.iter().map(|step| prepare_step(step, cx)).collect();
    let steps: Vec<StepPlan> = steps.into_iter().collect::<Option<_>>()?;
    Some(Prepared::new(Work::Sink, move |resources: Resources| {
        let (name, steps) = (name.clone(), steps.clone());
        async move { Store::open(&name, &steps, &resources).await }
    }))
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
    steps: Vec<Step>,
    clock: Clock,
}

impl Store {
    async fn open(name: &str, plans: &[StepPlan], resources: &Resources) -> Result<Self> {
        let mut steps = Vec::with_capacity(plans.len());
        for plan in plans {
            steps.push(match plan {
                StepPlan::AddDatetime => Step::AddDatetime,
                StepPlan::Function(plan) => Step::Function(plan.open(resources).await?),
            });
        }
        let storage = resources.storages.named(name)?.clone();
        Ok(Self {
            storage,
            steps,
            clock: resources.clock.clone(),
        })
    }

    async fn preprocessed(&self, batch: &Batch, cx: &Cx) -> Result<Batch> {
        let mut batch = batch.clone();
        for step in &self.steps {
            match step {
                Step::AddDatetime => self.add_datetime(&mut batch),
                Step::Function(logic) => batch = apply(logic, &batch, cx).await?,
            }
        }
        Ok(batch)
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

/// The function's word on each record; what it returns takes the record's place.
async fn apply(logic: &Logic, batch: &Batch, cx: &Cx) -> Result<Batch> {
    let mut records: Vec<Record> = Vec::with_capacity(batch.len());
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
    }
    Ok(Batch::new(records))
}

impl Stage for Store {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        if batch.is_empty() {
            out.pass(None);
            return Ok(());
        }
        let rows = if self.steps.is_empty() {
            batch.clone()
        } else {
            self.preprocessed(batch, cx).await?
        };
        let receipt = self.storage.commit(rows, None, cx.epoch).await?;
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

//! Stream sources at work: take what arrives, read it, settle what has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::delivery::{Delivery, Mark, Outcome, Parcel, Payload, Settle, Settled};
use wiredflow_core::stage::AnySource;
use wiredflow_core::{Error, ErrorKind, Params, Record, Result, Value, json};

use crate::observe::repeats;
use crate::plan::TriggerPlan;
use crate::state::{Body, DeadLetter};
use crate::tasks::Tasks;

use super::PipelineShared;
use super::book::Book;
use super::channel::Sender;
use super::port::feed;

/// The most deliveries that one batch takes from a source at a time.
const MOST: usize = 256;

/// How long a source may take to note what has ended, or to close.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Feeds a pipeline from a source until intake ends or the source does. Returns why, if it failed.
pub(crate) async fn take_in(
    source: &dyn AnySource,
    book: &Arc<Book>,
    pipeline: &Arc<PipelineShared>,
    queue: Sender,
) -> Result<()> {
    let (stopping, meter, switch) = (&pipeline.stopping, &pipeline.meter, &pipeline.switch);
    let settle: Arc<dyn Settle> = Arc::clone(book) as Arc<dyn Settle>;
    let outlives_intake = source.outlives_intake();
    let is_over = async || match outlives_intake {
        true => stopping.waits_over().await,
        false => stopping.intake_over().await,
    };
    loop {
        let next = async {
            book.room().await;
            source.next_boxed(MOST).await
        };
        let deliveries = tokio::select! {
            biased;
            () = is_over() => return Ok(()),
            // What the source brings waits with it, and then with its peer.
            () = switch.paused() => {
                tokio::select! {
                    () = stopping.intake_over() => return Ok(()),
                    () = switch.resumed() => continue,
                }
            }
            deliveries = next => deliveries?,
        };
        if deliveries.is_empty() {
            return Ok(());
        }
        // All of them get their shares before the next await: what is dropped there is settled as lost.
        book.opened(deliveries.len());
        let mut groups: Vec<Group> = Vec::new();
        let mut unreadable = Vec::new();
        for mut delivery in deliveries {
            book.begins(delivery.token);
            let mark = Mark {
                token: delivery.token,
                identity: delivery.identity,
            };
            let manner = Manner::taken_from(&mut delivery.payload);
            match read(delivery) {
                Ok(values) => match groups.last_mut() {
                    Some(group) if group.takes(&manner, &values) => {
                        group.deliveries.push((mark, values));
                    }
                    Some(_) | None => groups.push(Group {
                        manner,
                        deliveries: vec![(mark, values)],
                    }),
                },
                Err(reason) => {
                    let parcel = Parcel::arrived([(mark, None)].into_iter(), &settle);
                    unreadable.push((parcel, reason));
                }
            }
        }
        let parcels = groups.into_iter().map(|group| group.parcel(&settle));
        let parcels: Vec<Parcel> = parcels.collect();
        for (parcel, reason) in unreadable {
            // Boxed: it is seldom, and takes no room while the pipeline rests.
            Box::pin(set_aside(parcel, reason, pipeline)).await?;
        }
        for parcel in parcels {
            let records = parcel.batch.len() as u64;
            meter.records_in.fetch_add(records, Ordering::Relaxed);
            tokio::select! {
                biased;
                // The queue may be full for good; what waits to enter it is dropped as what is in it.
                () = stopping.failed() => return Ok(()),
                () = feed(&queue, &pipeline.first_stage, Some(&pipeline.meter), parcel) => {}
            }
        }
    }
}

/// Deliveries that go into the pipeline as one parcel.
struct Group {
    manner: Manner,
    deliveries: Vec<(Mark, Values)>,
}

/// What is the same for all records of a parcel.
#[derive(Default, PartialEq)]
struct Manner {
    /// None where nothing was said.
    params: Option<Params>,
    is_list: bool,
}

impl Manner {
    /// What a payload that was handed over says of it. The records stay there.
    fn taken_from(payload: &mut Payload) -> Self {
        let Payload::Handed(batch, params) = payload else {
            return Self::default();
        };
        let is_list = batch.is_marked_list();
        let params = Some(std::mem::take(params));
        Self { params, is_list }
    }
}

impl Group {
    /// Whether a delivery may join. A list is one by itself; so is nothing, of which nothing would be left among others.
    fn takes(&self, manner: &Manner, values: &Values) -> bool {
        let is_empty = |values: &Values| values.size_hint().1 == Some(0);
        let is_alone = manner.is_list || is_empty(values);
        let first = self.deliveries.first();
        let joins = first.is_none_or(|(_, first)| !is_empty(first));
        joins && !is_alone && self.manner == *manner
    }

    fn parcel(self, settle: &Arc<dyn Settle>) -> Parcel {
        let Manner { params, is_list } = self.manner;
        let mut parcel = Parcel::arrived(self.deliveries.into_iter(), settle);
        parcel.batch = std::mem::take(&mut parcel.batch).as_list(is_list);
        parcel.params = params.unwrap_or_default();
        parcel
    }
}

/// Tells a source how its deliveries ended, beside its intake and after it.
pub(crate) struct Settler {
    source: Arc<dyn AnySource>,
    book: Arc<Book>,
    pipeline: Arc<PipelineShared>,
    task: Tasks,
    all_settled: CancellationToken,
}

impl Settler {
    /// Starts to tell.
    pub(crate) fn start(
        source: &Arc<dyn AnySource>,
        book: &Arc<Book>,
        pipeline: &Arc<PipelineShared>,
    ) -> Self {
        let settler = Self {
            source: Arc::clone(source),
            book: Arc::clone(book),
            pipeline: Arc::clone(pipeline),
            task: pipeline.tasks.child(),
            all_settled: CancellationToken::new(),
        };
        let (source, book) = (Arc::clone(source), Arc::clone(book));
        let (pipeline, until) = (Arc::clone(pipeline), settler.all_settled.clone());
        settler.task.spawn("settle", async move {
            loop {
                let ended = tokio::select! {
                    biased;
                    ended = book.ended() => ended,
                    () = until.cancelled() => return,
                };
                tell(source.as_ref(), ended, &pipeline).await;
            }
        });
        settler
    }

    /// Closes the source to new deliveries, waits for the work on those it has given, and tells how
    /// the last of them ended.
    pub(crate) async fn close(self, work: impl Future<Output = ()>) {
        within(self.source.close_boxed(), &self.pipeline).await;
        work.await;
        self.book.all_settled().await;
        self.all_settled.cancel();
        self.task.finished().await;
        let left = self.book.take_ended();
        if !left.is_empty() {
            tell(self.source.as_ref(), left, &self.pipeline).await;
        }
    }
}

async fn tell(source: &dyn AnySource, ended: Vec<Settled>, pipeline: &PipelineShared) {
    // What could not be acknowledged comes again; a lost connection shows at the next intake.
    if let Some(Err(error)) = within(source.settle_boxed(ended), pipeline).await {
        let error = pipeline.shared.scrubber.scrub(error.message());
        tracing::warn!(pipeline = %pipeline.name, "not acknowledged: {error}");
    }
}

/// What a source answers in time.
async fn within<T>(answer: impl Future<Output = T>, pipeline: &PipelineShared) -> Option<T> {
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = pipeline.shared.clock.sleep(ANSWER_WITHIN) => {
            tracing::warn!(pipeline = %pipeline.name, "the source did not answer and is left alone");
            None
        }
    }
}

pub(super) struct Unreadable {
    pub(super) body: Body,
    pub(super) reason: String,
    /// Where it came from.
    origin: Option<Arc<str>>,
}

/// The values of one delivery: mostly one, for which no list is made.
pub(super) type Values = std::iter::Chain<std::option::IntoIter<Value>, std::vec::IntoIter<Value>>;

fn one_or_many(one: Option<Value>, many: Vec<Value>) -> Values {
    one.into_iter().chain(many)
}

/// Reads what has arrived.
pub(super) fn read(delivery: Delivery) -> Result<Values, Unreadable> {
    let (bytes, reason) = match delivery.payload {
        Payload::Empty => return Ok(one_or_many(None, Vec::new())),
        Payload::Values(values) => return Ok(one_or_many(None, values)),
        Payload::Handed(batch, _) => {
            let values = batch.into_records().into_iter().map(Record::into_value);
            return Ok(one_or_many(None, values.collect()));
        }
        Payload::Json(bytes) => match json::parse(&bytes, json::MAX_PAYLOAD) {
            Ok(Value::Array(values)) => return Ok(one_or_many(None, values)),
            Ok(value) => return Ok(one_or_many(Some(value), Vec::new())),
            Err(reason) => (bytes, reason),
        },
        Payload::Unreadable { bytes, reason } => (bytes, reason),
    };
    let reason = match &delivery.origin {
        Some(origin) => format!("the payload {} cannot be read: {reason}", from(origin)),
        None => format!("the payload cannot be read: {reason}"),
    };
    Err(Unreadable {
        body: Body::Bytes(bytes),
        reason,
        origin: delivery.origin,
    })
}

/// Where a payload came from, in the words of its reason.
fn from(origin: &str) -> String {
    format!("from `{origin}`")
}

async fn set_aside(
    parcel: Parcel,
    unreadable: Unreadable,
    pipeline: &PipelineShared,
) -> Result<()> {
    let kind = match &pipeline.trigger {
        TriggerPlan::Source { kind, .. } => kind.as_str(),
        TriggerPlan::Schedule(..) | TriggerPlan::Once => "source",
    };
    pipeline.meter.error(&unreadable.reason);
    // Its like are counted together, wherever they came from.
    let alike = match &unreadable.origin {
        Some(origin) => unreadable
            .reason
            .replacen(&format!("{} ", from(origin)), "", 1),
        None => unreadable.reason.clone(),
    };
    let failure = repeats::Failure {
        pipeline: &pipeline.name,
        stage: &kind.into(),
        what: "to the dead letters",
        kind: ErrorKind::Data.word(),
        message: &alike,
        attempt: None,
    };
    if pipeline.shared.is_news(&failure) {
        tracing::warn!(pipeline = %pipeline.name, stage = kind, "to the dead letters: {}", unreadable.reason);
    } else {
        tracing::debug!(pipeline = %pipeline.name, stage = kind, "to the dead letters: {}", unreadable.reason);
    }
    parcel.lineage.explain(&unreadable.reason.as_str().into());
    let of = parcel.lineage.identity(None);
    let letter = DeadLetter {
        pipeline: pipeline.name.to_string(),
        stage: kind.to_owned(),
        kind: ErrorKind::Data,
        reason: unreadable.reason,
        trace: None,
        time: pipeline.shared.clock.now(),
        delivery: of.map(|identity| identity.to_string()),
        again: of.is_some_and(|identity| identity.again),
        attempts: 1,
        origin: unreadable.origin.as_deref().map(str::to_owned),
        params: None,
        secrets: None,
        body: unreadable.body,
    };
    let shared = &pipeline.shared;
    shared.dead_letter(letter, &pipeline.stopping).await?;
    parcel.lineage.close(Outcome::DeadLettered);
    Ok(())
}

/// Whether a source that failed so is opened again after a while.
pub(crate) fn is_away(error: &Error) -> bool {
    error.kind() == ErrorKind::Remote
}

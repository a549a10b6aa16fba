//! The outbox of a sender: its records are on the disk before the peer gets them, and leave when it has confirmed them.
//!
//! ```text
//!   parcel ─> keep: state.db ─> call ─> confirmed ─> left ─> … written with the next parcel, or at rest
//!   start ──> what waits from before ─> call ─> left, and goes nowhere further
//! ```
//!
//! A record has one key for as long as it is sent again, in this process and after a crash, so that the peer can tell.

mod order;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{MutexGuard as MutexGuardOfAll, Notify};
use wiredflow_core::delivery::{Identity, Mark, Parcel, Settle, Settled, Token};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Error, Params, Record, Result, Value};

use crate::state::{OutboxRow, TakenOut};

use super::{PipelineShared, Shared};
use order::{Leaves, Order, Seen};

/// How many rows of an earlier session are read at a time, and about how many bytes.
const READ: (usize, usize) = (256, 4 << 20);

/// How long a sender rests before the disk is told what has left: else it is told with what comes.
const REST: Duration = Duration::from_millis(50);

/// The outbox of one stage, while a session of its pipeline lasts.
pub(super) struct Outbox {
    pipeline: Arc<PipelineShared>,
    stage: Arc<str>,
    /// What stands before each key: `pipeline/stage/`.
    prefix: String,
    opened: Mutex<Option<Opened>>,
    /// Held while what waits from before is worked off; true when that is over.
    from_before: tokio::sync::Mutex<bool>,
    /// Rows have left.
    changed: Notify,
}

struct Opened {
    id: i64,
    session: u64,
    order: Order,
}

/// A part of a parcel, and its rows in the outbox, if it has any.
pub(super) struct Part {
    pub(super) parcel: Parcel,
    pub(super) rows: Vec<Row>,
    /// The peer has it already: it is only to be handed on.
    pub(super) is_sent: bool,
}

/// A record in the outbox.
#[derive(Clone, Debug)]
pub(super) struct Row {
    number: u64,
    /// Pipeline, stage and key.
    pub(super) key: Arc<str>,
    bytes: usize,
}

impl Part {
    /// A part without an outbox.
    pub(super) fn of(parcel: Parcel) -> Self {
        Self {
            parcel,
            rows: Vec::new(),
            is_sent: false,
        }
    }

    /// One part for each record.
    pub(super) fn split_by_record(self) -> Vec<Self> {
        let mut rows = self.rows.into_iter();
        let parcels = self.parcel.split_by_record().into_iter();
        let part = |parcel| Self {
            rows: rows.by_ref().take(1).collect(),
            ..Self::of(parcel)
        };
        parcels.map(part).collect()
    }

    /// One part for each delivery, or the part as it is.
    pub(super) fn split_by_delivery(self) -> Vec<Self> {
        let records = self.parcel.batch.records().iter();
        let of: Vec<Option<usize>> = records.map(Record::delivery).collect();
        let mut rows = self.rows;
        let parcels = self.parcel.split_by_delivery();
        if parcels.len() == 1 {
            let part = |parcel| Self {
                rows: std::mem::take(&mut rows),
                ..Self::of(parcel)
            };
            return parcels.into_iter().map(part).collect();
        }
        let part = |(place, parcel)| {
            let mine = rows.iter().zip(&of).filter(|(_, of)| **of == Some(place));
            Self {
                rows: mine.map(|(row, _)| row.clone()).collect(),
                ..Self::of(parcel)
            }
        };
        parcels.into_iter().enumerate().map(part).collect()
    }

    /// What its records are known by at the peer.
    pub(super) fn keys(&self) -> Option<Arc<[Arc<str>]>> {
        let keys = || self.rows.iter().map(|row| Arc::clone(&row.key)).collect();
        (!self.rows.is_empty()).then(keys)
    }
}

/// A record that is to be put in.
struct New {
    key: Option<String>,
    digest: Option<u64>,
    delivery: Option<Token>,
    body: Vec<u8>,
    seen: Seen,
}

impl Outbox {
    pub(super) fn new(pipeline: &Arc<PipelineShared>, stage: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            prefix: format!("{}/{stage}/", pipeline.name),
            pipeline: Arc::clone(pipeline),
            stage: Arc::clone(stage),
            opened: Mutex::default(),
            from_before: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn shared(&self) -> &Shared {
        &self.pipeline.shared
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the outbox, which is opened.
    fn with<T>(&self, look: impl FnOnce(&mut Opened) -> T) -> Result<T> {
        let mut opened = self.lock();
        let opened = opened.as_mut();
        opened
            .map(look)
            .ok_or_else(|| Error::bug("an outbox is used before it is opened"))
    }

    /// Asks the disk what waits from before.
    async fn open(&self) -> Result<()> {
        let shared = self.shared();
        let fresh = (rand::random(), order::REMEMBERED);
        let (pipeline, stage) = (&self.pipeline.name, &self.stage);
        let ask = || shared.state.open_outbox(pipeline, stage, fresh);
        let found = shared.patiently(&self.pipeline.stopping, ask).await?;
        let (waiting, _) = found.waiting;
        if waiting > 0 {
            tracing::info!(%pipeline, %stage, waiting, "records of the last start are sent first");
        }
        *self.lock() = Some(Opened {
            id: found.id,
            session: found.session,
            order: Order::new(&found),
        });
        Ok(())
    }

    /// Opens it. The first gets a hold on what waits from before, and works it off; those who come second wait until
    /// that is done.
    pub(super) async fn begin(&self) -> Result<Option<FromBefore<'_>>> {
        let is_over = self.from_before.lock().await;
        if *is_over {
            return Ok(None);
        }
        // One that has given up has left it open.
        if self.lock().is_none() {
            self.open().await?;
        }
        Ok(Some(FromBefore {
            outbox: self,
            is_over,
            from: 0,
        }))
    }

    /// Puts the records of a parcel in, and gives its parts in order: those that are to be sent, and those that have
    /// been before. Returns when the disk has them.
    pub(super) async fn keep(&self, parcel: Parcel) -> Result<VecDeque<Part>> {
        let news = self.look_at(&parcel).await?;
        let prefix = &self.prefix;
        let first = self.with(|opened| opened.order.next())?;
        let params = (!parcel.params.is_empty()).then(|| {
            let params = self.shared().scrubber.scrub_map(&parcel.params);
            Arc::from(Value::Object(params).to_string())
        });
        let list = parcel.batch.is_list();
        let mut of: Option<(Option<Token>, u64)> = None;
        let mut kept: Vec<OutboxRow> = Vec::with_capacity(news.len());
        let (id, taken, next) = self.with(|opened| {
            for new in news.iter().filter(|new| new.seen == Seen::New) {
                let number = opened.order.number();
                let key = new.key.clone();
                let key = key.unwrap_or_else(|| format!("{:016x}-{number}", opened.session));
                let delivery = match of {
                    Some((token, first)) if token == new.delivery => first,
                    _ => number,
                };
                of = Some((new.delivery, delivery));
                kept.push(OutboxRow {
                    number,
                    key: key.into(),
                    digest: new.digest,
                    parcel: first,
                    delivery,
                    list,
                    params: params.clone(),
                    body: new.body.as_slice().into(),
                });
            }
            for row in &kept {
                let bytes = row.body.len();
                opened.order.put(row.number, &row.key, row.digest, bytes);
            }
            (opened.id, opened.order.taken(), opened.order.next())
        })?;
        let of_row = |row: &OutboxRow| Row {
            number: row.number,
            key: format!("{prefix}{}", row.key).into(),
            bytes: row.body.len(),
        };
        let mut rows: Vec<Row> = kept.iter().map(of_row).collect();
        if !kept.is_empty() {
            let written = self.write(id, kept.into(), taken, next).await;
            if let Err(error) = written {
                self.leave(&rows, Leaves::Unsent);
                return Err(error);
            }
        } else {
            self.with(|opened| opened.order.not_told(taken))?;
        }
        // Runs of records that are to be sent, and that have been.
        let mut runs: Vec<(bool, usize)> = Vec::new();
        for new in &news {
            let is_sent = new.seen == Seen::Sent;
            match runs.last_mut() {
                Some((same, length)) if *same == is_sent => *length += 1,
                _ => runs.push((is_sent, 1)),
            }
        }
        let whole = |parcel, is_sent| Part {
            parcel,
            rows: Vec::new(),
            is_sent,
        };
        let parts = match &runs[..] {
            [] => vec![whole(parcel, false)],
            [(is_sent, _)] => vec![whole(parcel, *is_sent)],
            _ => {
                let lengths: Vec<usize> = runs.iter().map(|(_, length)| *length).collect();
                let parcels = parcel.split_by_lengths(&lengths).into_iter();
                let parts = parcels.zip(&runs);
                parts
                    .map(|(parcel, (is_sent, _))| whole(parcel, *is_sent))
                    .collect()
            }
        };
        let mut rows = rows.drain(..);
        let with_rows = |mut part: Part| {
            if !part.is_sent {
                part.rows = rows.by_ref().take(part.parcel.batch.len()).collect();
            }
            part
        };
        Ok(parts.into_iter().map(with_rows).collect())
    }

    /// What each record of a parcel is known by, and whether it has come before. One that is being sent at this moment
    /// is waited for.
    async fn look_at(&self, parcel: &Parcel) -> Result<Vec<New>> {
        let mut news = Vec::with_capacity(parcel.batch.len());
        let mut may_be_known = false;
        for (index, record) in parcel.batch.records().iter().enumerate() {
            let body = serde_json::to_vec(record.value()).map_err(|error| {
                Error::data(format!("cannot be written as JSON: {error}")).at_record(index)
            })?;
            let mark = parcel.lineage.mark_of(Some(record));
            let named = mark.and_then(|mark| Some((mark.token, mark.identity?)));
            let (mut key, mut digest) = (None, None);
            if let Some((token, identity)) = named {
                let place = self.with(|opened| opened.order.place(token))?;
                key = Some(format!("{identity}/{place}"));
                digest = Some(digest_of(&body));
                may_be_known |= identity.again;
            }
            news.push(New {
                key,
                digest,
                delivery: mark.map(|mark| mark.token),
                body,
                seen: Seen::New,
            });
        }
        if may_be_known {
            self.recognise(parcel, &mut news).await?;
        }
        Ok(news)
    }

    /// Says of each record that may have come before whether it has.
    async fn recognise(&self, parcel: &Parcel, news: &mut [New]) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            self.with(|opened| {
                for (new, record) in news.iter_mut().zip(parcel.batch.records()) {
                    let identity = parcel.lineage.identity(Some(record));
                    if let (Some(key), Some(digest), Some(Identity { again: true, .. })) =
                        (&new.key, new.digest, identity)
                    {
                        new.seen = opened.order.seen(key, digest);
                    }
                }
            })?;
            if news.iter().all(|new| new.seen != Seen::Waiting) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.pipeline.stopping.waits_over() => {
                    return Err(Error::remote("the run ended while a record was sent that has come again"));
                }
                () = changed => {}
            }
        }
    }

    async fn write(
        &self,
        id: i64,
        rows: Arc<[OutboxRow]>,
        taken: TakenOut,
        next: u64,
    ) -> Result<()> {
        let shared = self.shared();
        let mut telling = Telling {
            outbox: self,
            taken,
        };
        let write = || {
            let (rows, taken) = (Arc::clone(&rows), telling.taken.clone());
            let now = shared.clock.now();
            shared.state.write_outbox(id, rows, taken, (next, now))
        };
        shared.patiently(&self.pipeline.stopping, write).await?;
        telling.taken = TakenOut::default();
        Ok(())
    }

    /// The records of a part are with the peer, or set aside: they leave.
    pub(super) fn sent(&self, rows: &[Row]) {
        self.leave(rows, Leaves::Sent);
    }

    /// The records of a part have failed: they leave, and are new when they come again.
    pub(super) fn not_sent(&self, rows: &[Row]) {
        self.leave(rows, Leaves::Unsent);
    }

    fn leave(&self, rows: &[Row], leaves: Leaves) {
        if let Some(opened) = self.lock().as_mut() {
            for row in rows {
                let key = &row.key[self.prefix.len()..];
                opened.order.take_out(row.number, key, row.bytes, leaves);
            }
        }
        self.changed.notify_waiters();
    }

    /// Tells the disk what has left, when nothing has come for a while. Does not end.
    pub(super) async fn rest(&self) {
        loop {
            self.shared().clock.sleep(REST).await;
            if !self.tell_taken().await {
                return std::future::pending().await;
            }
        }
    }

    /// Tells the disk what has left; false when there was nothing to tell. A failure is passed over: it is told again.
    pub(super) async fn tell_taken(&self) -> bool {
        let taken = self.with(|opened| {
            let has_taken = opened.order.has_taken();
            has_taken.then(|| (opened.id, opened.order.taken(), opened.order.next()))
        });
        let Ok(Some((id, taken, next))) = taken else {
            return false;
        };
        let shared = self.shared();
        let mut telling = Telling {
            outbox: self,
            taken,
        };
        let (told, now) = (telling.taken.clone(), shared.clock.now());
        let written = shared
            .state
            .write_outbox(id, Arc::default(), told, (next, now));
        match written.await {
            Ok(()) => telling.taken = TakenOut::default(),
            Err(error) => tracing::debug!("the state cannot be told what was sent: {error}"),
        }
        true
    }

    /// The session ends: the disk is told what has left, and the log how many wait.
    pub(super) async fn end(&self) {
        self.tell_taken().await;
        let waiting = self.with(|opened| opened.order.waiting());
        if let Ok((waiting @ 1.., _)) = waiting {
            let (pipeline, stage) = (&self.pipeline.name, &self.stage);
            tracing::info!(%pipeline, %stage, waiting, "records wait in the outbox: they are sent first at the next start");
        }
    }

    /// A receipt for a part that the peer has had before.
    pub(super) fn receipt(&self, records: usize) -> CommitReceipt {
        // Issued here: the peer's confirmation is what made the row leave.
        CommitReceipt::issue(Arc::clone(&self.stage), records)
    }
}

/// What waits from before, to be worked off by one.
pub(super) struct FromBefore<'a> {
    outbox: &'a Outbox,
    is_over: MutexGuardOfAll<'a, bool>,
    /// The number of the next row to be read.
    from: u64,
}

impl FromBefore<'_> {
    /// The next parts of it; none when all is worked off.
    pub(super) async fn next(&mut self, together: Together) -> Result<Option<VecDeque<Part>>> {
        let (outbox, from) = (self.outbox, self.from);
        let (id, session) = outbox.with(|opened| (opened.id, opened.session))?;
        let shared = outbox.shared();
        let ask = || shared.state.read_outbox(id, from, READ);
        let rows = shared.patiently(&outbox.pipeline.stopping, ask).await?;
        let Some(last) = rows.last() else {
            outbox.tell_taken().await;
            *self.is_over = true;
            return Ok(None);
        };
        self.from = last.number + 1;
        Ok(Some(parts(rows, &outbox.prefix, session, together)))
    }
}

/// What the disk is being told; what it was not told, or nobody knows, is told again.
struct Telling<'a> {
    outbox: &'a Outbox,
    taken: TakenOut,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if let Some(opened) = self.outbox.lock().as_mut() {
            opened.order.not_told(std::mem::take(&mut self.taken));
        }
    }
}

/// Tells of outboxes in which records wait, and that no stage sends any more.
pub(super) async fn tell_left(shared: Arc<Shared>, known: Vec<(Arc<str>, Arc<str>)>) {
    let ask = || shared.state.waiting_outboxes();
    let waiting = shared.patiently(&shared.stopping, ask).await;
    for (pipeline, stage, waiting) in waiting.unwrap_or_default() {
        let mut known = known.iter();
        if !known.any(|(its, name)| **its == *pipeline && **name == *stage) {
            tracing::warn!(
                %pipeline, %stage, waiting,
                "records wait in the outbox of a stage that is not in the flow any more: they are kept; with a stage of \
                 this name, or `name:` at the new one, they are sent"
            );
        }
    }
}

/// Which rows of several parcels may go into one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Together {
    /// All that have the same params.
    Any,
    /// Those that came together.
    AsTheyCame,
}

/// Rows as the parts of work that they were.
fn parts(rows: Vec<OutboxRow>, prefix: &str, session: u64, together: Together) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    let mut rows = rows.into_iter().peekable();
    while let Some(first) = rows.next() {
        let mut part = vec![first];
        while let Some(row) = rows.next_if(|row| {
            let last = &part[part.len() - 1];
            let same = row.parcel == last.parcel;
            same || (together == Together::Any && row.params == last.params)
        }) {
            part.push(row);
        }
        parts.push_back(part_of(&part, prefix, session));
    }
    parts
}

/// One part of rows that are to be sent with the same params.
fn part_of(rows: &[OutboxRow], prefix: &str, session: u64) -> Part {
    let settle: Arc<dyn Settle> = Arc::new(Nobody);
    let deliveries = rows.chunk_by(|a, b| a.delivery == b.delivery);
    let deliveries: Vec<(Mark, Vec<Value>)> = deliveries
        .map(|rows| {
            let number = rows[0].number;
            let identity = Identity {
                session,
                place: number as u32,
                print: number >> 32,
                again: true,
            };
            let mark = Mark {
                token: Token {
                    epoch: 0,
                    id: number,
                },
                identity: Some(identity),
            };
            (mark, rows.iter().map(|row| value(&row.body)).collect())
        })
        .collect();
    let mut parcel = Parcel::arrived(deliveries.into_iter(), &settle);
    let list = rows.first().is_some_and(|row| row.list);
    parcel.batch = std::mem::take(&mut parcel.batch).as_list(list);
    let params = rows.first().and_then(|row| row.params.as_deref());
    if let Some(Value::Object(params)) = params.and_then(|text| serde_json::from_str(text).ok()) {
        parcel.params = Params::new(params);
    }
    let row = |row: &OutboxRow| Row {
        number: row.number,
        key: format!("{prefix}{}", row.key).into(),
        bytes: row.body.len(),
    };
    Part {
        parcel,
        rows: rows.iter().map(row).collect(),
        is_sent: false,
    }
}

/// A record as it was. One that is nested deeper than is read is a text.
fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into()))
}

fn digest_of(body: &[u8]) -> u64 {
    let digest = Sha256::digest(body);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// Deliveries of an earlier start have no source that waits for them.
struct Nobody;

impl Settle for Nobody {
    fn settled(&self, _: Vec<Settled>) {}
}

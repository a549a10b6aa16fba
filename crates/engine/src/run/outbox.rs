//! The outbox of a sender: its records are on the disk before the peer gets them, and leave when it has confirmed them.
//!
//! ```text
//!   parcel ─> keep: state.db ─> call ─> confirmed ─> left ─> … written with the next parcel, or at rest
//!   start ──> what waits from before ─> call ─> left, and goes nowhere further
//! ```
//!
//! A record has one key for as long as it is sent again, in this process and after a crash, so that the peer can tell.
//!
//! A stage that nothing waits for has one too, whatever it is, and is called with what is read from it: see [`Line`].

mod from_before;
mod line;
mod order;
mod part;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use wiredflow_core::delivery::{Identity, Parcel, Token};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Error, Result, Value};

use crate::state::{OutboxRow, TakenOut};

use super::{PipelineShared, Shared};
use order::{Leaves, Order, Seen};
use part::Owner;

pub(super) use line::Line;
pub(super) use part::{Part, Row, Together};

/// How many rows are read at a time, and about how many bytes.
const READ: usize = 256;
const READ_BYTES: usize = 4 << 20;

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
    /// Whether a record that waits is as good as sent: it is on the disk.
    waiting_is_enough: bool,
}

struct Opened {
    id: i64,
    session: u64,
    /// Tells what is handed out from now on from what was before.
    epoch: u64,
    order: Order,
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
    /// The outbox of a stage. `waiting_is_enough`: a record that waits in it is done with for its source.
    pub(super) fn new(
        pipeline: &Arc<PipelineShared>,
        stage: &Arc<str>,
        waiting_is_enough: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            prefix: format!("{}/{stage}/", pipeline.name),
            pipeline: Arc::clone(pipeline),
            stage: Arc::clone(stage),
            opened: Mutex::default(),
            from_before: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            waiting_is_enough,
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
            epoch: u64::from(rand::random::<u32>()),
            order: Order::new(&found),
        });
        Ok(())
    }

    /// Puts the records of a parcel in, and gives its parts in order: those that are to be sent, and those that have
    /// been before. Returns when the disk has them.
    pub(super) async fn keep(&self, parcel: Parcel) -> Result<VecDeque<Part>> {
        let (rows, sent) = self.put_in(&parcel).await?;
        let mut rows = rows.into_iter();
        let parts = Part::by_what_is_sent(parcel, &sent).into_iter();
        let with_rows = |mut part: Part| {
            if !part.is_sent {
                part.rows = rows.by_ref().take(part.parcel.batch.len()).collect();
            }
            part
        };
        Ok(parts.map(with_rows).collect())
    }

    /// Puts the records of a parcel in: gives the new rows, and of each record whether it has been there before. Returns
    /// when the disk has them.
    pub(super) async fn put_in(&self, parcel: &Parcel) -> Result<(Vec<Row>, Vec<bool>)> {
        let news = self.look_at(parcel).await?;
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
        let rows: Vec<Row> = kept.iter().map(|row| Row::of(row, &self.prefix)).collect();
        if kept.is_empty() {
            self.with(|opened| opened.order.not_told(taken))?;
        } else if let Err(error) = self.write(id, kept.into(), taken, next).await {
            self.leave(&rows, Leaves::Unsent);
            return Err(error);
        }
        let sent = news.iter().map(|new| new.seen != Seen::New).collect();
        Ok((rows, sent))
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
            let waits = |new: &New| new.seen == Seen::Waiting && !self.waiting_is_enough;
            if !news.iter().any(waits) {
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

    /// How many records wait, and their bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let waiting = self.with(|opened| opened.order.waiting());
        waiting.unwrap_or_default()
    }

    /// Whether a row of this number or a later one was put in; none before it is opened.
    fn has_from(&self, number: u64) -> bool {
        let next = self.with(|opened| opened.order.next());
        next.is_ok_and(|next| next > number)
    }

    /// Reads rows that wait, from number `from` on, about `most` of them: whole parcels, as parts of work. With them the
    /// number behind the last.
    async fn read(
        &self,
        from: u64,
        most: usize,
        together: Together,
    ) -> Result<Option<(VecDeque<Part>, u64)>> {
        let (id, session, epoch) = self.with(|opened| (opened.id, opened.session, opened.epoch))?;
        let shared = self.shared();
        let ask = || shared.state.read_outbox(id, from, (most, READ_BYTES));
        let rows = shared.patiently(&self.pipeline.stopping, ask).await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let next = last.number + 1;
        let owner = Owner {
            prefix: &self.prefix,
            session,
            epoch,
        };
        Ok(Some((owner.parts(rows, together), next)))
    }

    /// The session ends: the disk is told what has left, and the log how many wait.
    pub(super) async fn end(&self) {
        self.tell_taken().await;
        if let (waiting @ 1.., _) = self.waiting() {
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
                "records wait in the outbox of a stage that is not in the flow any more, or has none now: they are kept; with \
                 a stage of this name, or `required: false` at the `store`, they are worked off"
            );
        }
    }
}

fn digest_of(body: &[u8]) -> u64 {
    let digest = Sha256::digest(body);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

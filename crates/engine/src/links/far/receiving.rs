//! The side that takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use wiredflow_core::delivery::{Mark, Parcel, Settle, Settled, Token};
use wiredflow_core::engine::{Asked, Name};
use wiredflow_core::{Error, Result};

use super::super::{Link, Sends};
use super::words::{
    Body, Done, Ends, Handing, LONGEST, Place, Settlements, Taken, VERSION, pack, unpack, written,
};
use super::{ANSWER_WITHIN, Far, LOOK_EACH, address_of_receiver, address_of_sender};
use crate::held::Held;
use crate::tasks::Tasks;

/// How long an answer is held while there is no room in the link.
const HOLD: Duration = Duration::from_secs(1);

/// After a stop: how long nothing may come before nothing more is waited for, and how long it is waited at most.
const QUIET: Duration = Duration::from_secs(1);
const MOST_QUIET: Duration = Duration::from_secs(3);

/// How many settled items are told at once.
const TOLD: usize = 1000;

/// When a sender that does not listen is given up: it has gone, and another goes on with its pipelines.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Takes what other processes hand over, and tells them what is settled.
#[derive(Clone)]
pub(super) struct Receiving {
    far: Far,
    link: Arc<Link>,
    name: Name,
    /// The pipelines elsewhere that hand over.
    senders: Arc<BTreeSet<String>>,
    tasks: Tasks,
    known: Arc<Mutex<Known>>,
    /// Something came, ended or was told.
    changed: Arc<Notify>,
}

/// What is known of the senders.
#[derive(Default)]
struct Known {
    sessions: HashMap<String, Arc<Sender>>,
    /// The newest owner of each pipeline that has handed over.
    epochs: BTreeMap<String, u64>,
    ended: BTreeSet<String>,
    stopped: BTreeSet<String>,
    /// When something came last.
    last: Option<Instant>,
}

/// A session of a sender.
struct Sender {
    address: Name,
    /// The next item that is wanted; locked while items are taken in, so that they come in order.
    next: tokio::sync::Mutex<Option<u64>>,
    /// The sender has said that all before it is settled.
    heard: AtomicU64,
    book: Arc<Book>,
}

/// What of one sender's items is settled and not told.
#[derive(Default)]
struct Book {
    state: Mutex<Told>,
    news: Notify,
}

#[derive(Default)]
struct Told {
    /// Items that are in the link or behind it.
    under_way: usize,
    settled: Vec<Done>,
    /// Items that are told at the moment.
    telling: usize,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        let told = self.lock();
        told.under_way == 0 && told.settled.is_empty() && told.telling == 0
    }
}

impl Settle for Book {
    fn settled(&self, ended: Vec<Settled>) {
        let mut told = self.lock();
        for one in ended {
            told.under_way = told.under_way.saturating_sub(1);
            // What was lost here stays with the sender, who gives it to the next receiver.
            if one.outcome.is_acknowledged() {
                let receipt = |receipt: &wiredflow_core::storage::CommitReceipt| {
                    (receipt.sink().to_owned(), receipt.rows())
                };
                told.settled.push(Done {
                    number: one.token.id,
                    outcome: one.outcome.word().to_owned(),
                    receipts: one.proof.iter().map(receipt).collect(),
                    reason: one.reason.as_ref().map(ToString::to_string),
                });
            }
        }
        drop(told);
        self.news.notify_one();
    }
}

impl Receiving {
    pub(super) fn new(
        far: Far,
        link: Arc<Link>,
        name: Name,
        senders: BTreeSet<String>,
        tasks: Tasks,
    ) -> Self {
        Self {
            far,
            link,
            name,
            senders: Arc::new(senders),
            tasks,
            known: Arc::default(),
            changed: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes until all who hand over have ended for good, or the run stops; and goes on to tell what is settled. `sends` holds the
    /// link open until then, and since before the pipeline began to take from it.
    pub(super) async fn run(self, sends: Sends) {
        let over = async {
            self.intake_over().await;
            // What waits is taken now, and then the pipeline ends.
            drop(sends);
            self.all_told().await;
        };
        tokio::pin!(over);
        let mut told = false;
        loop {
            let taken = tokio::select! {
                biased;
                () = &mut over => return,
                taken = Held::take(&self.far.engine, &self.name, &self.far.me, &self.far.clock) => taken,
            };
            match taken {
                Ok(Some(held)) => {
                    told = false;
                    let lost = held.lost().clone();
                    tokio::select! {
                        biased;
                        () = &mut over => {
                            held.release().await;
                            return;
                        }
                        () = lost.cancelled() => {}
                        never = self.listen() => match never {},
                    }
                }
                Ok(None) if !std::mem::replace(&mut told, true) => {
                    tracing::info!(
                        link = %self.link.name,
                        "another process takes from it, or did seconds ago: waiting for its lease"
                    );
                }
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(link = %self.link.name, "the engine is away: {error}; trying again");
                }
                Ok(None) | Err(_) => {}
            }
            tokio::select! {
                biased;
                () = &mut over => return,
                () = self.far.clock.sleep(LOOK_EACH) => {}
            }
        }
    }

    /// Waits until nothing more comes.
    async fn intake_over(&self) {
        let all_ended = async {
            loop {
                let changed = self.changed.notified();
                if self.senders.is_subset(&self.lock().ended) {
                    return;
                }
                changed.await;
            }
        };
        let stopped = async {
            self.far.stopping.intake_over().await;
            let clock = &self.far.clock;
            let begun = clock.monotonic();
            loop {
                let changed = self.changed.notified();
                let quiet_since = {
                    let known = self.lock();
                    let gone =
                        |name: &String| known.ended.contains(name) || known.stopped.contains(name);
                    if self.senders.iter().all(gone) {
                        return;
                    }
                    known.last.map_or(begun, |last| last.max(begun))
                };
                let until = (quiet_since + QUIET).min(begun + MOST_QUIET);
                if clock.monotonic() >= until {
                    return;
                }
                tokio::select! {
                    () = changed => {}
                    () = clock.sleep_until(until) => {}
                }
            }
        };
        tokio::select! {
            () = all_ended => {}
            () = stopped => {}
        }
    }

    /// Waits until all that was taken is settled and told; after a stop it is told for a moment only.
    async fn all_told(&self) {
        let mut settled_since = None;
        loop {
            let changed = self.changed.notified();
            let books: Vec<Arc<Book>> = {
                let known = self.lock();
                known
                    .sessions
                    .values()
                    .map(|sender| Arc::clone(&sender.book))
                    .collect()
            };
            if books.iter().all(|book| book.is_idle()) {
                return;
            }
            if books.iter().all(|book| book.lock().under_way == 0) {
                let now = self.far.clock.monotonic();
                let since = *settled_since.get_or_insert(now);
                if self.far.stopping.is_intake_over() && now - since > MOST_QUIET {
                    return;
                }
            }
            tokio::select! {
                () = changed => {}
                () = self.far.clock.sleep(LOOK_EACH) => {}
            }
        }
    }

    async fn listen(&self) -> std::convert::Infallible {
        loop {
            let listened = async {
                let address = address_of_receiver(&self.name, &self.far.me)?;
                let mut listener = self.far.engine.listen(&address).await?;
                loop {
                    let asked = listener.next().await?;
                    let this = self.clone();
                    self.tasks
                        .spawn("handed over", async move { this.answer(asked).await });
                }
            };
            let listened: Result<std::convert::Infallible> = listened.await;
            let Err(error) = listened;
            tracing::debug!(link = %self.link.name, "not listening: {error}");
            self.far.clock.sleep(LOOK_EACH).await;
        }
    }

    async fn answer(&self, asked: Asked) {
        let answer = match unpack::<Handing>(&asked.body) {
            Ok((words, rest)) => self.take(words, rest).await,
            Err(error) => Ok(Taken::Refused(error.message().to_owned())),
        };
        let answer = match answer {
            Ok(answer) => answer,
            // The sender asks again.
            Err(error) if error.kind() == wiredflow_core::ErrorKind::Remote => {
                tracing::debug!(link = %self.link.name, "{error}");
                return;
            }
            Err(error) => Taken::Refused(error.message().to_owned()),
        };
        let Ok(answer) = written(&answer) else {
            return;
        };
        drop(asked.reply.send(answer).await);
    }

    /// Takes in what is new.
    async fn take(&self, words: Handing, rest: Bytes) -> Result<Taken> {
        let sender = match self.sender(&words)? {
            Ok(sender) => sender,
            Err(newer) => return Ok(Taken::Replaced(newer)),
        };
        sender.heard.fetch_max(words.oldest, Ordering::Relaxed);
        let mut wanted = sender.next.lock().await;
        let next = wanted.get_or_insert(words.oldest);
        let mut rest = &rest[..];
        for (number, place) in (words.first..).zip(&words.items) {
            let here = match place {
                Place::Here(length) => {
                    let (body, after) = rest
                        .split_at_checked(*length)
                        .ok_or_else(|| Error::data("its items are shorter than it says"))?;
                    rest = after;
                    Some(body)
                }
                Place::Blob(_) => None,
            };
            if number < *next {
                continue;
            }
            if number > *next {
                break;
            }
            tokio::select! {
                biased;
                room = self.link.room() => room?,
                () = self.far.clock.sleep(HOLD) => break,
            }
            let body = match (here, place) {
                (Some(body), _) => Body::read(body)?,
                (None, Place::Blob(part)) => self.fetch(part).await?,
                (None, Place::Here(_)) => break,
            };
            self.put(&sender, number, body, number < words.again_below);
            *next += 1;
        }
        let answer = Taken::Before(*next);
        let has_all = *next >= words.first + words.items.len() as u64;
        drop(wanted);
        let mut known = self.lock();
        if !words.items.is_empty() {
            known.last = Some(self.far.clock.monotonic());
        }
        match words.ends.filter(|_| has_all) {
            Some(Ends::ForGood) => known.ended.extend(words.pipelines),
            Some(Ends::Stopped) => known.stopped.extend(words.pipelines),
            None => {}
        }
        drop(known);
        self.changed.notify_waiters();
        Ok(answer)
    }

    /// The session of who hands over, or the epoch of who does so in its place.
    fn sender(&self, words: &Handing) -> Result<Result<Arc<Sender>, u64>> {
        let mut known = self.lock();
        let newer = words
            .pipelines
            .iter()
            .filter_map(|pipeline| known.epochs.get(pipeline).copied())
            .find(|epoch| *epoch > words.epoch);
        if let Some(newer) = newer {
            return Ok(Err(newer));
        }
        for pipeline in &words.pipelines {
            let before = known.epochs.insert(pipeline.clone(), words.epoch);
            if before.is_some_and(|before| before < words.epoch) {
                known.stopped.remove(pipeline);
                known.ended.remove(pipeline);
            }
        }
        if let Some(sender) = known.sessions.get(&words.from) {
            return Ok(Ok(Arc::clone(sender)));
        }
        let sender = Arc::new(Sender {
            address: address_of_sender(&self.name, &words.from)
                .map_err(|error| Error::data(error.message()))?,
            next: tokio::sync::Mutex::default(),
            heard: AtomicU64::new(0),
            book: Arc::default(),
        });
        known
            .sessions
            .insert(words.from.clone(), Arc::clone(&sender));
        drop(known);
        let (this, from, telling) = (self.clone(), words.from.clone(), Arc::clone(&sender));
        self.tasks.spawn("settled elsewhere", async move {
            this.tell(&from, &telling).await
        });
        Ok(Ok(sender))
    }

    async fn fetch(&self, part: &str) -> Result<Body> {
        let name = self
            .name
            .and(part)
            .map_err(|error| Error::data(error.message()))?;
        let bytes = self.far.engine.get_blob_within(&name, LONGEST).await?;
        let bytes = bytes.ok_or_else(|| Error::remote("a long item is not at the engine"))?;
        Body::read(&bytes)
    }

    fn put(&self, sender: &Sender, number: u64, body: Body, again: bool) {
        let Body {
            records,
            list,
            params,
            identity,
        } = body;
        let mark = Mark {
            token: Token {
                epoch: 0,
                id: number,
            },
            identity: identity.map(|known| known.identity(again)),
        };
        let settle: Arc<dyn Settle> = Arc::<Book>::clone(&sender.book);
        sender.book.lock().under_way += 1;
        let mut parcel = Parcel::arrived(std::iter::once((mark, records)), &settle);
        parcel.batch = parcel.batch.as_list(list);
        parcel.params = Arc::new(params);
        self.link.put(vec![parcel]);
    }

    /// Tells a sender what is settled, until he has gone.
    async fn tell(&self, from: &str, sender: &Sender) {
        let book = &sender.book;
        let mut unheard: Option<Instant> = None;
        loop {
            let settled: Vec<Done> = {
                let mut told = book.lock();
                let number = told.settled.len().min(TOLD);
                told.telling = number;
                told.settled.drain(..number).collect()
            };
            if settled.is_empty() {
                self.changed.notify_waiters();
                book.news.notified().await;
                continue;
            }
            let words = Settlements {
                version: VERSION,
                settled,
            };
            let clock = &self.far.clock;
            loop {
                let heard = sender.heard.load(Ordering::Relaxed);
                if words.settled.iter().all(|done| done.number < heard) {
                    unheard = None;
                    break;
                }
                let Ok(packed) = pack(&words, std::iter::empty()) else {
                    return;
                };
                let asked = self.far.engine.ask(&sender.address, packed, ANSWER_WITHIN);
                let Err(error) = asked.await else {
                    unheard = None;
                    break;
                };
                tracing::debug!(link = %self.link.name, "a sender does not hear what is settled: {error}");
                let since = *unheard.get_or_insert_with(|| clock.monotonic());
                if clock.monotonic() - since > FORGOTTEN {
                    self.lock().sessions.remove(from);
                    return;
                }
                clock.sleep(LOOK_EACH).await;
            }
        }
    }
}

impl Link {
    /// Holds it open for those who hand over from elsewhere, until that is dropped.
    pub(super) fn hold_open(self: &Arc<Self>) -> Sends {
        self.lock().senders += 1;
        Sends(vec![Arc::clone(self)])
    }
}

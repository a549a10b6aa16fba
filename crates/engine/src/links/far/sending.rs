//! The side that hands over.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use wiredflow_core::delivery::{Identity, Lineage};
use wiredflow_core::engine::{Asked, Name};
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Error, ErrorKind, Result};

use super::super::{Item, Link, Takes};
use super::words::{
    Body, Ends, Handing, LONGEST, Place, Settlements, Taken, VERSION, pack, unpack,
};
use super::{ANSWER_WITHIN, Far, LOOK_EACH, SIGN_EACH, address_of_receiver, address_of_sender};

/// How many records may be with the receiver and not settled: as many as may be under way from a broker.
const WINDOW: usize = 2048;

/// The most of one question, in bytes of items; a single item may be longer.
const QUESTION: usize = 256 << 10;

/// What an engine wants for itself of each message, and the head of ours.
const SPARE: usize = 64 << 10;

/// Hands over what comes out of a link to the process that takes from it.
pub(super) struct Sending {
    far: Far,
    link: Arc<Link>,
    name: Name,
    me: Name,
    pipelines: BTreeSet<String>,
    /// For the identities of items that have none of their own.
    session: u64,
    held: Held,
}

/// What is not settled.
#[derive(Default)]
struct Held {
    items: Mutex<Items>,
    settled: Notify,
}

#[derive(Default)]
struct Items {
    /// In order, without gaps; settled ones leave from the front.
    items: VecDeque<HeldItem>,
    /// The number of the next item.
    next: u64,
    records: usize,
}

struct HeldItem {
    /// The sender's shares; none when it is settled.
    lineage: Option<Lineage>,
    weight: usize,
    body: Bytes,
    blob: Option<Name>,
}

impl Items {
    fn oldest(&self) -> u64 {
        self.next - self.items.len() as u64
    }

    fn get(&mut self, number: u64) -> Option<&mut HeldItem> {
        let index = number.checked_sub(self.oldest())?;
        self.items.get_mut(usize::try_from(index).ok()?)
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the receiver at the other end knows.
struct Peer {
    session: Arc<str>,
    /// The next item that it wants.
    next: u64,
}

impl Sending {
    pub(super) fn new(
        far: Far,
        link: Arc<Link>,
        name: Name,
        pipelines: BTreeSet<String>,
    ) -> Result<Self> {
        let print = Sha256::digest(far.me.as_bytes());
        let session = print
            .iter()
            .take(8)
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self {
            me: address_of_sender(&name, &far.me)?,
            far,
            link,
            name,
            pipelines,
            session,
            held: Held::default(),
        })
    }

    /// Hands over until the pipelines here have ended and all is settled. Dropping it drops what is not: it is lost, and their
    /// sources bring it again.
    pub(super) async fn run(self) {
        let _takes = Takes(vec![Arc::clone(&self.link)]);
        tokio::select! {
            biased;
            () = self.hear() => {}
            () = self.hand_over() => {}
        }
    }

    /// Hears what is settled, for ever.
    async fn hear(&self) {
        loop {
            if let Ok(mut listener) = self.far.engine.listen(&self.me).await {
                while let Ok(asked) = listener.next().await {
                    self.settle(asked).await;
                }
            }
            self.far.clock.sleep(LOOK_EACH).await;
        }
    }

    async fn settle(&self, asked: Asked) {
        let Ok((words, _)) = unpack::<Settlements>(&asked.body) else {
            tracing::warn!(link = %self.link.name, "what is said to be settled cannot be read, and is left");
            return;
        };
        let mut blobs = Vec::new();
        let mut ended = Vec::new();
        {
            let mut held = self.held.lock();
            for done in &words.settled {
                let Some(outcome) = done.outcome() else {
                    continue;
                };
                let Some(item) = held.get(done.number) else {
                    continue;
                };
                let Some(mut lineage) = item.lineage.take() else {
                    continue;
                };
                item.body = Bytes::new();
                blobs.extend(item.blob.take());
                let weight = item.weight;
                held.records -= weight;
                for receipt in done.receipts() {
                    lineage.add_receipt(receipt);
                }
                if let Some(reason) = &done.reason {
                    lineage.explain(&reason.as_str().into());
                }
                ended.push((lineage, outcome));
            }
            while held
                .items
                .front()
                .is_some_and(|item| item.lineage.is_none())
            {
                held.items.pop_front();
            }
        }
        // Outside the lock: their books hear of it.
        for (lineage, outcome) in ended {
            lineage.close(outcome);
        }
        self.held.settled.notify_one();
        // It may be lost: then the same is said again.
        drop(asked.reply.send(Bytes::new()).await);
        for blob in blobs {
            // One that stays is in nobody's way.
            drop(self.far.engine.remove_blob(&blob).await);
        }
    }

    async fn hand_over(&self) {
        let mut peer: Option<Peer> = None;
        // What was given to any receiver at all.
        let mut given = 0;
        let mut is_over = false;
        let mut said = None;
        // Whether the last word was on its way; its answer may have been lost.
        let mut tried = false;
        let mut complaint = None;
        loop {
            if is_over && self.held.lock().items.is_empty() && said.is_some() {
                return;
            }
            let Some(known) = &mut peer else {
                // Nobody is there who would wait for that word, and nothing is missing.
                if self.is_stopped_with_nothing_left(is_over) {
                    return;
                }
                peer = self.find(&mut complaint).await;
                if peer.is_none() && tried {
                    return;
                }
                continue;
            };
            let has_more = known.next < self.held.lock().next;
            let is_due = is_over && said.is_none() && self.held.lock().items.is_empty();
            if !has_more && !is_due && !self.wait(&mut is_over).await {
                continue;
            }
            let ends = is_over.then(|| match self.far.stopping.is_intake_over() {
                true => Ends::Stopped,
                false => Ends::ForGood,
            });
            let words = self.words(known.next, given, ends);
            given = given.max(words.1);
            tried |= ends.is_some() && words.2;
            match self.say(known, words.0).await {
                Ok(()) => {
                    // The last word says that all is settled: nobody need tell it again.
                    said = ends.filter(|_| words.2);
                    complaint = None;
                }
                Err(_) if self.is_stopped_with_nothing_left(is_over) => return,
                Err(error) => {
                    self.complain(&error, &mut complaint);
                    let before = peer.take();
                    self.far.clock.sleep(LOOK_EACH).await;
                    peer = self.find(&mut complaint).await;
                    if peer.is_none() && tried {
                        return;
                    }
                    if let (Some(before), Some(now)) = (before, &mut peer)
                        && before.session == now.session
                    {
                        now.next = before.next;
                    }
                }
            }
        }
    }

    fn is_stopped_with_nothing_left(&self, is_over: bool) -> bool {
        is_over && self.far.stopping.is_intake_over() && self.held.lock().items.is_empty()
    }

    /// Waits until there is something to say: items, that there will be no more, or a sign of life. False where something was
    /// settled meanwhile, so that it may be over, or more can be taken.
    async fn wait(&self, is_over: &mut bool) -> bool {
        let has_room = self.held.lock().records < WINDOW;
        tokio::select! {
            biased;
            items = self.link.take(WINDOW), if has_room && !*is_over => {
                *is_over = items.is_empty();
                for item in items {
                    self.hold(item).await;
                }
                true
            }
            () = self.held.settled.notified(), if !has_room || *is_over => false,
            () = self.far.clock.sleep(SIGN_EACH) => true,
        }
    }

    /// Keeps an item until it is settled.
    async fn hold(&self, item: Item) {
        let weight = item.weight();
        let Item {
            parcel,
            identity,
            number,
        } = item;
        // Nobody else can tell that it comes again from a receiver that has died.
        let identity = identity.unwrap_or(Identity {
            session: self.session,
            place: (number & 0x7fff_ffff) as u32,
            print: number,
            again: false,
        });
        let written = Body::write(&parcel.batch, &parcel.params, Some(identity));
        let too_long = |bytes: &Bytes| {
            (bytes.len() > LONGEST).then(|| {
                Error::data(format!(
                    "{} MiB are more than goes over link `{}` to another process at once; use smaller batches",
                    bytes.len() >> 20,
                    self.link.name
                ))
            })
        };
        let written = written.and_then(|bytes| match too_long(&bytes) {
            Some(error) => Err(error),
            None => Ok(bytes),
        });
        let (body, lineage) = match written {
            Ok(body) => (body, Some(parcel.lineage)),
            Err(error) => {
                tracing::error!(link = %self.link.name, "{error}");
                parcel.lineage.explain(&error.message().into());
                (Bytes::new(), None)
            }
        };
        let mut blob = None;
        if body.len() + SPARE > self.far.engine.about().longest {
            blob = self.name.and(&format!("{}-{number}", self.far.me)).ok();
        }
        while let Some(name) = &blob {
            match self.far.engine.put_blob(name, body.clone()).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(link = %self.link.name, "a long item is not at the engine yet: {error}");
                    self.far.clock.sleep(LOOK_EACH).await;
                }
            }
        }
        let mut held = self.held.lock();
        held.records += if lineage.is_some() { weight } else { 0 };
        held.next += 1;
        held.items.push_back(HeldItem {
            lineage,
            weight,
            body,
            blob,
        });
    }

    /// The next question, the number behind its last item, and whether it says that all is settled.
    fn words(&self, next: u64, given: u64, ends: Option<Ends>) -> (Result<Bytes>, u64, bool) {
        let mut held = self.held.lock();
        let first = next.max(held.oldest());
        let mut places = Vec::new();
        let mut bodies = Vec::new();
        let (mut number, mut bytes) = (first, 0);
        let most = QUESTION.min(self.far.engine.about().longest.saturating_sub(SPARE));
        while let Some(item) = held.get(number) {
            let place = match &item.blob {
                Some(name) => Place::Blob(name.parts().last().unwrap_or_default().to_owned()),
                None => Place::Here(item.body.len()),
            };
            let length = if item.blob.is_some() {
                0
            } else {
                item.body.len()
            };
            if !places.is_empty() && bytes + length > most {
                break;
            }
            bytes += length;
            if item.blob.is_none() {
                bodies.push(item.body.clone());
            }
            places.push(place);
            number += 1;
        }
        let head = Handing {
            version: VERSION,
            from: self.far.me.to_string(),
            pipelines: self.pipelines.iter().cloned().collect(),
            epoch: self.far.epoch().0,
            oldest: held.oldest(),
            first,
            again_below: given,
            items: places,
            ends,
        };
        let all_settled = held.items.is_empty();
        drop(held);
        (pack(&head, bodies.iter()), number, all_settled)
    }

    /// Says it, and takes in what the receiver answers.
    async fn say(&self, peer: &mut Peer, words: Result<Bytes>) -> Result<()> {
        let address = address_of_receiver(&self.name, &peer.session)?;
        let answer = self.far.engine.ask(&address, words?, ANSWER_WITHIN);
        let answer = answer.await?;
        let answer: Taken = serde_json::from_slice(&answer)
            .map_err(|error| Error::remote(format!("its answer cannot be read: {error}")))?;
        match answer {
            Taken::Before(next) => {
                peer.next = next.min(self.held.lock().next);
                Ok(())
            }
            Taken::Replaced(epoch) => {
                let names: Vec<&str> = self.pipelines.iter().map(String::as_str).collect();
                let error = Error::fenced(
                    format!(
                        "another owner has taken over `{}`: it hands over to link `{}` as epoch {epoch}, and this one is {}",
                        names.join("`, `"),
                        self.link.name,
                        self.far.epoch().0
                    ),
                    Epoch(epoch),
                );
                self.far.ownership.note(&error);
                Err(error)
            }
            Taken::Refused(why) => Err(Error::config(why)),
        }
    }

    /// Looks who takes; none where nobody does at the moment.
    async fn find(&self, complaint: &mut Option<String>) -> Option<Peer> {
        match self.far.engine.holder(&self.name).await {
            Ok(Some(session)) => {
                let next = self.held.lock().oldest();
                return Some(Peer { session, next });
            }
            Ok(None) => {
                let nobody = "its pipeline does not run at the moment; what is handed over waits";
                self.complain(&Error::remote(nobody), complaint);
            }
            Err(error) => self.complain(&error, complaint),
        }
        self.far.clock.sleep(LOOK_EACH).await;
        None
    }

    /// Says what is in the way, once.
    fn complain(&self, error: &Error, known: &mut Option<String>) {
        if known.as_deref() == Some(error.message()) {
            return;
        }
        *known = Some(error.message().to_owned());
        let link = &self.link.name;
        match error.kind() {
            ErrorKind::Remote => {
                tracing::info!(%link, "pipeline `{}` is not reached: {error}", self.link.receiver);
            }
            _ => tracing::error!(%link, "{error}"),
        }
    }
}

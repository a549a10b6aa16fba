//! What carries work, small state, leases and words between processes: the contract of an engine.
//!
//! An engine exists outside and is operated by others (NATS JetStream). It is *not* the source of truth: it may lose what it
//! has acknowledged, so whoever publishes keeps what he has published until its result has come back, and publishes
//! again what has none. Every method may be called from many tasks at once, and dropping a future loses nothing but its
//! answer: what it asked for may have been done.
//!
//! Errors: `Remote` while the engine is away, slow or without a leader; `Config` where it refuses us or lacks what we
//! need; `Data` where a message is too long. An engine holds no retry code: it answers within [`ANSWER_WITHIN`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::stage::BoxFuture;
use crate::storage::Epoch;

/// How long an engine may take to answer before that is an error of kind `Remote`.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a lease is good without being renewed, and how long an entry of [`Shelf::Presence`] is seen. One TTL for all:
/// an engine sets it for a whole bucket.
pub const LEASE: Duration = Duration::from_secs(10);

/// How often a lease is renewed.
pub const RENEW_EACH: Duration = Duration::from_secs(3);

/// When its holder gives a lease up that he could not renew, counted by his monotonic clock from *before* the last
/// renewal that succeeded was sent: early enough that he has stopped before another can have it.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(7);

/// A name of several parts, each of `[A-Za-z0-9_-]{1,64}`; shown with dots between them. No part can be a wildcard or
/// reach into another name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Joins parts.
    ///
    /// # Errors
    /// `Config`, where a part has another letter, none, or more than 64.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut name = String::new();
        for part in parts {
            let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if part.is_empty() || part.len() > 64 || !part.bytes().all(usual) {
                let part = part.escape_debug();
                return Err(Error::config(format!(
                    "`{part}` is no name: 1 to 64 of the letters A-Z, a-z, 0-9, `_` and `-`"
                )));
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(part);
        }
        match name.is_empty() {
            true => Err(Error::config("a name has at least one part")),
            false => Ok(Self(name.into())),
        }
    }

    /// The name with another part at its end.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn and(&self, part: &str) -> Result<Self> {
        Self::new(self.parts().chain([part]))
    }

    /// Its parts.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// The parts with dots between them.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an engine is, for those who look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its kind and version in words: `nats-server 2.12.1`.
    pub server: String,
    /// How many servers keep each message.
    pub replicas: usize,
    /// The longest message and entry, in bytes, headers of the engine's own not counted; longer ones go by
    /// [`Engine::put_blob`].
    pub longest: usize,
    /// What it cannot do or does worse than newer ones, each in a sentence that says what to upgrade to.
    pub weaknesses: Vec<String>,
}

/// How a queue treats its messages. All who open a queue must agree; who opens it later changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    /// How long a message that was taken may be without a sign of life from its taker before it is given to another.
    pub sign_within: Duration,
    /// How often a message is given at most, the first time counted. After that it stays in the queue, unseen, until
    /// [`Engine::spent`] finds it.
    pub attempts: u32,
    /// How many messages it holds at most; more are refused with [`Published::Full`].
    pub holds: u64,
    /// How many may be taken and not settled at a time, by all takers together.
    pub taken: u64,
}

/// What became of a message that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The queue has it.
    New,
    /// The queue has, or lately had, one of the same id.
    Again,
    /// The queue is full; nothing was kept, and the id is still free.
    Full,
}

/// A message that was taken from a queue. It is the taker's until he settles it or gives no sign of life.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What was published.
    pub body: Bytes,
    /// Its id, as its publisher named it.
    pub id: Arc<str>,
    /// How often it was given, from 1. An engine that lost its memory counts anew.
    pub attempt: u32,
    /// What the engine knows it by while it is taken.
    pub token: TakenToken,
}

/// What an engine knows a taken message by; of no meaning to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TakenToken(pub Arc<str>);

/// How a taken message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done with, and gone. Answered only when the engine has said so. A late one may end a message that another
    /// has taken meanwhile: what is right must not hang on it.
    Done,
    /// It is to be given again, after this time.
    Again(Duration),
    /// It is poison: it is gone, and given to nobody.
    Never,
}

/// A place for entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shelf {
    /// Entries stay until they are removed.
    Kept,
    /// Entries go [`LEASE`] after they were last put: who is there puts his again and again.
    Presence,
}

/// An entry, and which change of its shelf has put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was put.
    pub value: Bytes,
    /// Grows with every change of the shelf, over all names: a later change has a higher one.
    pub revision: u64,
}

/// On what condition an entry is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// In any case.
    Any,
    /// There is none.
    Absent,
    /// It is the one of this revision.
    Revision(u64),
}

/// What a watch has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An entry was put; at the beginning of a watch each one that is there.
    Put(Name, Entry),
    /// An entry was removed. Entries of [`Shelf::Presence`] may go without a word.
    Removed(Name, u64),
    /// All that was there at the beginning has been told.
    UpToDate,
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it is of.
    pub name: Name,
    /// Who holds it.
    pub holder: Arc<str>,
    /// Grows with every acquisition and every renewal: what a later holder does has a higher one.
    pub fence: Epoch,
}

/// Tells of changes, oldest first.
pub trait Watch: Send + fmt::Debug {
    /// The next change. Dropping the future loses nothing. After an error the watch is over: begin another, which tells
    /// of all entries anew.
    fn next(&mut self) -> BoxFuture<'_, Result<Seen>>;
}

/// Takes what is asked at an address. Dropping it ends that; what was asked and not answered is answered by nobody.
pub trait Listener: Send + fmt::Debug {
    /// The next question. Dropping the future loses nothing. After an error the listener is over.
    fn next(&mut self) -> BoxFuture<'_, Result<Asked>>;
}

/// A question, and the way back.
#[derive(Debug)]
pub struct Asked {
    /// What was asked.
    pub body: Bytes,
    /// Takes the answer; dropping it answers nothing, and who asks hears so by its time limit.
    pub reply: Box<dyn Reply>,
}

/// The way back of one question.
pub trait Reply: Send + fmt::Debug {
    /// Sends the answer. It may be lost.
    fn send(self: Box<Self>, answer: Bytes) -> BoxFuture<'static, Result<()>>;
}

/// See the module.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// What it is, as it was found when it was connected.
    fn about(&self) -> &About;

    /// Makes a queue, or changes its rules; what is in it stays.
    fn open_queue<'a>(&'a self, queue: &'a Name, rules: QueueRules) -> BoxFuture<'a, Result<()>>;

    /// Puts a message into an open queue, and answers when the engine has it. One of an `id` that was published there in
    /// the last two minutes is not put there again.
    fn publish<'a>(
        &'a self,
        queue: &'a Name,
        id: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Published>>;

    /// Takes messages: one at least, unless none comes `within` this time, and `most` at most.
    fn pull<'a>(
        &'a self,
        queue: &'a Name,
        most: usize,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>>>;

    /// Gives a sign of life for a taken message.
    fn extend<'a>(&'a self, taken: &'a TakenToken) -> BoxFuture<'a, Result<()>>;

    /// Ends a taken message. Doing it twice is as doing it once.
    fn settle<'a>(&'a self, taken: &'a TakenToken, how: Settlement) -> BoxFuture<'a, Result<()>>;

    /// Takes messages out of the queue that were given as often as its rules allow and not settled: `most` at most, each
    /// with the attempts that were made. It looks, and does not rely on having been told.
    fn spent<'a>(&'a self, queue: &'a Name, most: usize) -> BoxFuture<'a, Result<Vec<Taken>>>;

    /// How many messages are in a queue, taken ones counted.
    fn waiting<'a>(&'a self, queue: &'a Name) -> BoxFuture<'a, Result<u64>>;

    /// Removes a queue and all that is in it. One that is not there is no error.
    fn remove_queue<'a>(&'a self, queue: &'a Name) -> BoxFuture<'a, Result<()>>;

    /// An entry as its leader has it, if it is there: what was put before is seen.
    fn get<'a>(&'a self, shelf: Shelf, name: &'a Name) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// Puts an entry, and gives its revision; none where the condition does not hold.
    fn put<'a>(
        &'a self,
        shelf: Shelf,
        name: &'a Name,
        value: Bytes,
        condition: If,
    ) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Removes an entry; false where the condition does not hold. One that is not there is no error with [`If::Any`].
    fn remove<'a>(
        &'a self,
        shelf: Shelf,
        name: &'a Name,
        condition: If,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Tells of the entries whose names begin with these parts, and then of every change; all of the shelf without them. Of
    /// changes to one entry that follow each other faster than they are told, the last is told.
    fn watch<'a>(
        &'a self,
        shelf: Shelf,
        below: Option<&'a Name>,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>>>;

    /// Takes a lease, unless another holds it. The same holder may not take it twice: he renews.
    fn acquire<'a>(
        &'a self,
        name: &'a Name,
        holder: &'a str,
    ) -> BoxFuture<'a, Result<Option<Lease>>>;

    /// Makes a lease good for [`LEASE`] from now on, with a higher fence; none where it is another's by now, or gone.
    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>>>;

    /// Gives a lease back, so that another need not wait. One that is lost is no error.
    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>>;

    /// Who holds a lease, if anybody does.
    fn holder<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Arc<str>>>>;

    /// Keeps bytes of any length under a name, whole or not at all; what was there is replaced.
    fn put_blob<'a>(&'a self, name: &'a Name, bytes: Bytes) -> BoxFuture<'a, Result<()>>;

    /// Bytes that were kept, checked against the digest that was kept with them; none where there are none.
    fn get_blob<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// As [`Engine::get_blob`], for bytes of somebody who may not be trusted: more than `most` are an error of kind `Data`. An
    /// engine that knows the length before does not read them.
    fn get_blob_within<'a>(
        &'a self,
        name: &'a Name,
        most: usize,
    ) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move {
            let bytes = self.get_blob(name).await?;
            if let Some(bytes) = bytes.as_ref().filter(|bytes| bytes.len() > most) {
                return Err(Error::data(format!(
                    "{} bytes came where {most} are the most",
                    bytes.len()
                )));
            }
            Ok(bytes)
        })
    }

    /// Forgets bytes. None there is no error.
    fn remove_blob<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>>;

    /// Asks whoever listens at an address and waits for his answer. Nothing is kept: where nobody listens, or he has gone,
    /// that is an error of kind `Remote`, [unsent](Error::is_unsent) where the engine knows that nobody has it.
    fn ask<'a>(
        &'a self,
        address: &'a Name,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes>>;

    /// Listens at an address. Of several listeners at one address one gets a question.
    fn listen<'a>(&'a self, address: &'a Name) -> BoxFuture<'a, Result<Box<dyn Listener>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_parts_that_are_no_wildcards() {
        let name = Name::new(["work", "a-b_C1"]).unwrap();
        assert_eq!(name.as_str(), "work.a-b_C1");
        assert_eq!(name.and("x").unwrap().parts().count(), 3);
        let long = "x".repeat(65);
        for part in ["", "*", ">", "a.b", "a b", "ä", "$JS", &long] {
            assert!(Name::new(["a", part]).is_err(), "{part}");
        }
        assert!(Name::new([]).is_err());
    }

    #[test]
    fn a_holder_stops_before_another_can_begin() {
        assert!(GIVE_UP_AFTER + Duration::from_secs(2) < LEASE);
        assert!(GIVE_UP_AFTER > 2 * RENEW_EACH, "one renewal may fail");
    }
}

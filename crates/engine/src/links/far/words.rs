//! What the two sides say: a head as JSON with its length before it, and the bodies of the items behind it.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wiredflow_core::delivery::{Identity, Outcome};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Map, Result, Value};

/// The version of the words. Another one is refused, not guessed.
pub(super) const VERSION: u32 = 1;

/// The longest item, in bytes.
pub(super) const LONGEST: usize = 64 << 20;

/// Items that are handed over, or none: a sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handing {
    pub version: u32,
    /// The sender's session.
    pub from: String,
    /// The pipelines that hand over there, and as which owner of them.
    pub pipelines: Vec<String>,
    pub epoch: u64,
    /// The oldest item that is not settled; where there is none, the next that will come.
    pub oldest: u64,
    /// The number of the first item here; the others follow.
    pub first: u64,
    /// Items below it may have been given before.
    pub again_below: u64,
    pub items: Vec<Place>,
    pub ends: Option<Ends>,
}

/// Where the body of an item is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// The next so many bytes behind the head.
    Here(usize),
    /// A blob below the link's name.
    Blob(String),
}

/// That a sender ends when all of this is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ends {
    /// Its pipelines have come to their end.
    ForGood,
    /// It was stopped, and another may go on with its pipelines.
    Stopped,
}

/// The answer to [`Handing`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Taken {
    /// All before this number are taken.
    Before(u64),
    /// A later owner of its pipelines hands over.
    Replaced(u64),
    /// Why it cannot be read.
    Refused(String),
}

/// What is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settlements {
    pub version: u32,
    pub settled: Vec<Done>,
}

/// One item that is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    pub number: u64,
    /// One that is acknowledged.
    pub outcome: String,
    pub receipts: Vec<(String, usize)>,
    pub reason: Option<String>,
}

impl Done {
    /// How it ended; none where the word is unknown, or not one by which a source may forget it.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let acknowledged = [Outcome::Committed, Outcome::Skipped, Outcome::DeadLettered];
        acknowledged
            .into_iter()
            .find(|outcome| outcome.word() == self.outcome)
    }

    /// What the receiver's sinks have confirmed.
    pub(super) fn receipts(&self) -> impl Iterator<Item = CommitReceipt> + '_ {
        self.receipts
            .iter()
            .map(|(sink, rows)| CommitReceipt::issue(sink.as_str().into(), *rows))
    }
}

/// An item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Body {
    pub records: Vec<Value>,
    /// Whether one record is a list of one.
    pub list: bool,
    pub params: Map,
    pub identity: Option<Known>,
}

/// What it is known by when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    session: u64,
    place: u32,
    print: u64,
    again: bool,
}

impl Known {
    /// That of a delivery of the sender.
    pub(super) fn of(identity: Identity) -> Self {
        let Identity {
            session,
            place,
            print,
            again,
        } = identity;
        Self {
            session,
            place,
            print,
            again,
        }
    }

    /// That of a delivery of the receiver.
    pub(super) fn identity(self, again: bool) -> Identity {
        Identity {
            session: self.session,
            place: self.place,
            print: self.print,
            again: self.again || again,
        }
    }
}

impl Body {
    pub(super) fn write(batch: &Batch, params: &Map, identity: Option<Identity>) -> Result<Bytes> {
        #[derive(Serialize)]
        struct Borrowed<'b> {
            records: Vec<&'b Value>,
            list: bool,
            params: &'b Map,
            identity: Option<Known>,
        }
        let body = Borrowed {
            records: batch.values().collect(),
            list: batch.is_marked_list(),
            params,
            identity: identity.map(Known::of),
        };
        written(&body)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| odd(&error.to_string()))
    }
}

/// A head, and what follows it.
pub(super) fn pack<'b>(
    head: &impl Serialize,
    bodies: impl Iterator<Item = &'b Bytes>,
) -> Result<Bytes> {
    let head = written(head)?;
    let mut packed = BytesMut::with_capacity(4 + head.len());
    packed.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
    packed.put_slice(&head);
    bodies.for_each(|body| packed.put_slice(body));
    Ok(packed.freeze())
}

/// Takes apart what was packed. A version that is not ours is refused before anything else is looked at.
///
/// # Errors
/// `Config` for another version, `Data` for what is none of these words.
pub(super) fn unpack<H: DeserializeOwned>(packed: &Bytes) -> Result<(H, Bytes)> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let (length, after) = packed
        .split_first_chunk::<4>()
        .ok_or_else(|| odd("it is short"))?;
    let length = u32::from_be_bytes(*length) as usize;
    let (head, rest) = after
        .split_at_checked(length)
        .ok_or_else(|| odd("it is short"))?;
    let unread = |error: serde_json::Error| odd(&error.to_string());
    let Versioned { version } = serde_json::from_slice(head).map_err(unread)?;
    if version != VERSION {
        return Err(Error::config(format!(
            "it is of version {version} of the words of links, and this is version {VERSION}: use the same release of \
             Wiredflow on both sides"
        )));
    }
    let head = serde_json::from_slice(head).map_err(unread)?;
    Ok((head, packed.slice_ref(rest)))
}

pub(super) fn written(document: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(document);
    let text =
        text.map_err(|error| Error::bug(format!("words of a link cannot be written: {error}")))?;
    Ok(text.into())
}

fn odd(what: &str) -> Error {
    Error::data(format!("that is not what is said over a link: {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_comes_out_as_it_went_in() {
        for list in [false, true] {
            let batch = Batch::of_values(vec![json!({"a": 1.5}), json!(null)]).as_list(list);
            let identity = Identity {
                session: u64::MAX,
                place: 7,
                print: 1 << 63,
                again: false,
            };
            let params = json!({"p": [1]}).as_object().cloned().unwrap();
            let bytes = Body::write(&batch, &params, Some(identity)).unwrap();
            let body = Body::read(&bytes).unwrap();
            assert_eq!(body.records, [json!({"a": 1.5}), json!(null)]);
            assert_eq!((body.list, &body.params), (list, &params));
            let again = Identity {
                again: true,
                ..identity
            };
            assert_eq!(body.identity.unwrap().identity(false), identity);
            assert_eq!(body.identity.unwrap().identity(true), again);
        }
    }

    #[test]
    fn g13_other_versions_and_damaged_words_are_refused() {
        let words = Settlements {
            version: VERSION,
            settled: Vec::new(),
        };
        let packed = pack(&words, [Bytes::from_static(b"rest")].iter()).unwrap();
        let (read, rest) = unpack::<Settlements>(&packed).unwrap();
        assert_eq!((read, &rest[..]), (words, &b"rest"[..]));
        for cut in 0..packed.len() - 4 {
            let cut = packed.slice(..cut);
            assert!(unpack::<Settlements>(&cut).is_err());
        }
        let other = pack(&json!({"version": 2, "what": "new"}), [].iter()).unwrap();
        let refused = unpack::<Settlements>(&other).unwrap_err();
        assert!(refused.message().contains("version 2"), "{refused}");
        let done = |word: &str| Done {
            number: 1,
            outcome: word.to_owned(),
            receipts: Vec::new(),
            reason: None,
        };
        for outcome in [Outcome::Committed, Outcome::Skipped, Outcome::DeadLettered] {
            assert_eq!(done(outcome.word()).outcome(), Some(outcome));
        }
        for outcome in ["lost", "failed", "new word"] {
            assert_eq!(done(outcome).outcome(), None);
        }
    }
}

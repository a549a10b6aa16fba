//! How words travel: a head, and after it what is too long for an engine's messages, here or at a place of its own.
//!
//! `0`, `u32` length of the head, the head as JSON, the rest. Or `1`, the same head, and a JSON object that names the blob
//! with the rest: such a blob has a name below its task, so that no word leads to another's.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wiredflow_core::engine::{Engine, Name};
use wiredflow_core::frame::{self, FRAME_LIMIT, Frame};
use wiredflow_core::{Error, ErrorKind, Result};

use super::words::Versioned;
use super::{VERSION, unwritten};

/// The most that may follow a head, in bytes: one frame of the longest kind and some small ones.
pub const MOST: usize = FRAME_LIMIT + (1 << 20);

/// What an engine wants for itself of each message.
const SPARE: usize = 1 << 10;

/// What follows a head.
#[derive(Clone, Debug, PartialEq)]
pub enum Rest {
    /// It is here.
    Here(Bytes),
    /// It lies as a blob.
    There(Place),
}

/// Where a blob lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    part: String,
    length: u64,
}

/// A letter on its way, and the blob that it needs.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What is sent.
    pub body: Bytes,
    /// What is to be removed when nobody needs it any more.
    pub blob: Option<Name>,
}

/// Writes a letter about a task. What is too long is kept as a blob, whose name ends in `part`.
///
/// # Errors
/// Those of the engine; `Data` for what is longer than [`MOST`].
pub async fn pack(
    engine: &dyn Engine,
    head: &impl Serialize,
    rest: Bytes,
    (task, part): (&str, &str),
) -> Result<Packed> {
    if rest.len() > MOST {
        return Err(Error::data(format!(
            "{} MiB are more than goes to a pool at once; use smaller batches",
            rest.len() >> 20
        )));
    }
    let head = serde_json::to_vec(head).map_err(|error| unwritten(&error))?;
    if 5 + head.len() + rest.len() + SPARE <= engine.about().longest {
        let body = written(0, &head, &rest);
        return Ok(Packed { body, blob: None });
    }
    let place = Place {
        part: part.to_owned(),
        length: rest.len() as u64,
    };
    let name = place.name(task)?;
    engine.put_blob(&name, rest).await?;
    let place = serde_json::to_vec(&place).map_err(|error| unwritten(&error))?;
    Ok(Packed {
        body: written(1, &head, &place),
        blob: Some(name),
    })
}

fn written(flag: u8, head: &[u8], rest: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(5 + head.len() + rest.len());
    body.put_u8(flag);
    body.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
    body.put_slice(head);
    body.put_slice(rest);
    body.freeze()
}

/// Takes a letter apart. A version that is not ours is refused before anything else is looked at.
///
/// # Errors
/// `Config` for another version, `Data` for what is no letter.
pub fn read<H: DeserializeOwned>(body: &Bytes) -> Result<(H, Rest)> {
    let odd = |what: &str| Error::data(format!("that is no letter of a pool: {what}"));
    let (&flag, after) = body.split_first().ok_or_else(|| odd("it is empty"))?;
    let (length, after) = after
        .split_first_chunk::<4>()
        .ok_or_else(|| odd("it is short"))?;
    let length = u32::from_be_bytes(*length) as usize;
    let (head, rest) = after
        .split_at_checked(length)
        .ok_or_else(|| odd("it is short"))?;
    if let Ok(Versioned { version }) = serde_json::from_slice(head)
        && version != VERSION
    {
        return Err(Error::config(format!(
            "it is of version {version} of the words of pools, and this is version {VERSION}: use the same release of \
             Wiredflow on both sides"
        )));
    }
    let unread = |error: serde_json::Error| odd(&error.to_string());
    let head = serde_json::from_slice(head).map_err(unread)?;
    let rest = match flag {
        0 => Rest::Here(body.slice_ref(rest)),
        1 => Rest::There(serde_json::from_slice(rest).map_err(unread)?),
        _ => return Err(odd("it begins with nothing known")),
    };
    Ok((head, rest))
}

impl Place {
    fn name(&self, task: &str) -> Result<Name> {
        // Whoever wrote it has made a mistake, and not the user's file.
        let name = Name::new(["pool", task, &self.part]);
        name.map_err(|error| error.as_kind(ErrorKind::Data))
    }
}

impl Rest {
    /// The bytes. What lay as a blob of the task is fetched, and is gone then where it is `once`.
    ///
    /// # Errors
    /// Those of the engine; `Remote` where nothing lies there: who has put it there puts it anew when he gets no answer; `Data`
    /// for more than [`MOST`].
    pub async fn take(self, engine: &dyn Engine, task: &str, once: bool) -> Result<Bytes> {
        let place = match self {
            Self::Here(bytes) => return Ok(bytes),
            Self::There(place) => place,
        };
        if place.length > MOST as u64 {
            return Err(Error::data(format!(
                "{} MiB came where {} are the most; use smaller batches",
                place.length >> 20,
                MOST >> 20
            )));
        }
        let name = place.name(task)?;
        let bytes = engine.get_blob_within(&name, MOST).await?;
        let bytes = bytes.ok_or_else(|| Error::remote("what a letter names is not there"))?;
        if once {
            // One that stays is in nobody's way, and goes with the task.
            drop(engine.remove_blob(&name).await);
        }
        Ok(bytes)
    }
}

/// The frames that bytes are, all of them.
///
/// # Errors
/// `Data`, where they are none.
pub fn frames(bytes: Bytes) -> Result<Vec<Frame>> {
    let mut bytes = BytesMut::from(bytes);
    let mut frames = Vec::new();
    let odd = |what: &str| Error::data(format!("its words cannot be read: {what}"));
    while let Some(frame) =
        frame::decode(&mut bytes, FRAME_LIMIT).map_err(|error| odd(&error.to_string()))?
    {
        frames.push(frame);
    }
    match bytes.is_empty() {
        true => Ok(frames),
        false => Err(odd("they end in the middle of a frame")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::words::Answer;

    #[test]
    fn g13_another_version_is_refused_before_anything_else_is_read() {
        let body = written(0, br#"{"version":2,"what":{"new":"words"}}"#, b"");
        let error = read::<super::super::words::Task>(&body).unwrap_err();
        assert_eq!(error.kind(), wiredflow_core::ErrorKind::Config);
        assert!(error.message().contains("version 2"), "{error}");
    }

    #[test]
    fn damaged_letters_are_refused() {
        let good = written(0, br#""not_wanted""#, b"rest");
        let (head, rest) = read::<Answer>(&good).unwrap();
        assert_eq!((head, rest), (Answer::NotWanted, Rest::Here("rest".into())));
        for cut in 0..10 {
            assert!(read::<Answer>(&good.slice(..cut)).is_err(), "{cut}");
        }
        let mut long = good.to_vec();
        long[1] = 255;
        assert!(read::<Answer>(&long.into()).is_err());
        assert!(frames(Bytes::from_static(b"\0\0\0\x09{}")).is_err());
    }

    #[test]
    fn g12_the_name_of_a_blob_leads_nowhere_else() {
        for part in ["*", ">", "../x", "a.b", ""] {
            let place = Place {
                part: part.to_owned(),
                length: 1,
            };
            assert!(place.name("t").is_err(), "{part}");
        }
    }
}

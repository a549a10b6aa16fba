//! Putting messages into streams: with patience while a stream has no leader, and with conditions that hold.

use async_nats::HeaderMap;
use bytes::Bytes;
use wiredflow_core::{Error, Result};

use crate::api::{Found, Put};
use crate::objects::Objects;

/// The header of the condition on the newest message of a subject.
const LAST_OF_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence";

/// The header of the condition on the newest message of the whole stream.
const LAST_OF_STREAM: &str = "Nats-Expected-Last-Sequence";

/// How often a message is put into a stream that is there and does not take it: one that was just made, or has just lost
/// its leader, is known to all servers of a cluster a moment later.
pub(crate) const PATIENCE: usize = 20;

/// How often a condition is tried at a server that cannot look at one subject alone.
const HASTY_TRIES: usize = 50;

/// Where a message is put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) stream: &'a str,
    /// When that stream was made.
    pub(crate) made: u64,
    pub(crate) subject: &'a str,
}

impl Objects {
    /// Puts a message; [`Put::Nowhere`] where the stream has gone, or another one is in its place.
    pub(crate) async fn put_at(
        &self,
        place: Place<'_>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Put> {
        for _ in 0..PATIENCE {
            match self
                .link
                .put(place.subject, headers.clone(), body.clone())
                .await?
            {
                Put::Nowhere => {}
                put => return Ok(put),
            }
            if !self.is_still_there(place.stream, place.made).await? {
                return Ok(Put::Nowhere);
            }
            self.link.moment().await;
        }
        Err(no_leader(place.stream).as_unsent())
    }

    /// Whether it is the stream that it was. Where it is not, it is looked for anew.
    pub(crate) async fn is_still_there(&self, stream: &str, made: u64) -> Result<bool> {
        let told = self.look(stream).await?;
        let is_there = told.is_some_and(|told| told.made == made);
        if !is_there {
            self.doubt(stream);
        }
        Ok(is_there)
    }

    /// Puts a message over the newest one of its subject, where that has this number; 0 is none.
    pub(crate) async fn put_over(
        &self,
        place: Place<'_>,
        mut headers: HeaderMap,
        body: Bytes,
        over: u64,
    ) -> Result<Put> {
        headers.insert(LAST_OF_SUBJECT, over.to_string());
        if over == 0 || !self.is_hasty {
            return self.put_at(place, headers, body).await;
        }
        // The newest number of the whole stream is what such a server looks at when it keeps a message.
        for _ in 0..HASTY_TRIES {
            let Some(told) = self.look(place.stream).await? else {
                return Ok(Put::Nowhere);
            };
            match self.link.last(place.stream, place.subject).await? {
                Found::Message(stored) if stored.sequence == over => {}
                Found::Message(_) | Found::None => return Ok(Put::Other),
                Found::NoStream => return Ok(Put::Nowhere),
            }
            headers.insert(LAST_OF_STREAM, told.last.to_string());
            match self.put_at(place, headers.clone(), body.clone()).await? {
                Put::Other => {}
                put => return Ok(put),
            }
        }
        let stream = place.stream;
        Err(Error::remote(format!(
            "`{stream}` is changed by others all the time"
        )))
    }
}

/// What is said where a stream is there, and nobody takes what is meant for it.
pub(crate) fn no_leader(stream: &str) -> Error {
    Error::remote(format!("`{stream}` has no leader just now"))
}

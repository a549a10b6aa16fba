//! Blobs: pieces under an id of their own, and one message that says which make the blob of a name.

use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wiredflow_core::engine::Name;
use wiredflow_core::{Error, Result};

use crate::api::{Found, Put};
use crate::failure;
use crate::objects::Objects;
use crate::put::Place;

/// The longest piece.
const PIECE: usize = 256 * 1024;

/// How many pieces are on their way at a time.
const AT_A_TIME: usize = 8;

/// How often a blob is read anew that is replaced while it is read, and a change tried anew that others were faster with.
const TRIES: usize = 8;

/// What makes a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    id: String,
    pieces: usize,
    bytes: usize,
    sha256: String,
}

impl Objects {
    pub(crate) async fn put_blob(&self, name: &Name, bytes: Bytes, longest: usize) -> Result<()> {
        let subject = self.names.blob(name)?;
        let inbox = self.link.client.new_inbox();
        let id = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let piece = PIECE.min(longest);
        let table = Table {
            pieces: bytes.len().div_ceil(piece),
            bytes: bytes.len(),
            sha256: digest(&bytes),
            id,
        };
        let kept = self.keep(&subject, &table, &bytes, piece).await;
        if kept.is_err() {
            // As well as it can be done: nothing names them.
            drop(self.drop_pieces(&table).await);
        }
        kept
    }

    async fn keep(&self, subject: &str, table: &Table, bytes: &Bytes, piece: usize) -> Result<()> {
        let (stream, known) = self.blobs().await?;
        let table_place = Place {
            stream: &stream,
            made: known.made,
            subject,
        };
        stream::iter(0..table.pieces)
            .map(|number| {
                let part = bytes.slice(number * piece..bytes.len().min((number + 1) * piece));
                async move {
                    let to = self.names.piece(&table.id, number);
                    let place = Place {
                        subject: &to,
                        ..table_place
                    };
                    let put = self.put_at(place, HeaderMap::new(), part);
                    self.is_kept(put.await?)
                }
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect::<Vec<bool>>()
            .await?;
        let written = serde_json::to_vec(table);
        let written: Bytes = written
            .map_err(|error| Error::bug(error.to_string()))?
            .into();
        for _ in 0..TRIES {
            let (before, over) = self.table(subject).await?;
            let put = self.put_over(table_place, HeaderMap::new(), written.clone(), over);
            if !self.is_kept(put.await?)? {
                continue;
            }
            if let Some(before) = before {
                self.drop_pieces(&before).await?;
            }
            return Ok(());
        }
        Err(Error::remote("the blob is changed by others all the time"))
    }

    /// Whether a message was kept; false where its condition does not hold.
    fn is_kept(&self, put: Put) -> Result<bool> {
        match put {
            Put::At(..) => Ok(true),
            Put::Other => Ok(false),
            Put::Refused(refusal) => Err(failure::refused(&refusal)),
            Put::Nowhere => {
                // It is made again for the next one; of this one pieces may be missing.
                self.doubt(&self.names.blobs().0);
                Err(Error::remote("the store of blobs was lost meanwhile"))
            }
        }
    }

    pub(crate) async fn get_blob(&self, name: &Name) -> Result<Option<Bytes>> {
        let subject = self.names.blob(name)?;
        let mut missed: Option<Table> = None;
        for _ in 0..TRIES {
            let (Some(table), _) = self.table(&subject).await? else {
                return Ok(None);
            };
            if missed.as_ref() == Some(&table) {
                return Err(Error::remote(format!(
                    "pieces of the blob `{name}` are lost: keep it again"
                )));
            }
            let Some(bytes) = self.pieces(&table).await? else {
                // It was replaced: what is named now is looked for.
                missed = Some(table);
                continue;
            };
            if bytes.len() != table.bytes || digest(&bytes) != table.sha256 {
                return Err(Error::remote(format!(
                    "the blob `{name}` is damaged: keep it again"
                )));
            }
            return Ok(Some(bytes));
        }
        Err(Error::remote(format!(
            "the blob `{name}` is replaced faster than it is read"
        )))
    }

    /// The bytes; none where a piece is not there.
    async fn pieces(&self, table: &Table) -> Result<Option<Bytes>> {
        let stream = self.names.blobs().0;
        let stream = &stream;
        let mut parts = stream::iter(0..table.pieces)
            .map(|number| async move {
                let subject = self.names.piece(&table.id, number);
                self.link.last(stream, &subject).await
            })
            .buffered(AT_A_TIME);
        let mut bytes = BytesMut::with_capacity(table.bytes);
        while let Some(part) = parts.next().await {
            match part? {
                Found::Message(stored) => bytes.extend_from_slice(&stored.body),
                Found::None | Found::NoStream => return Ok(None),
            }
        }
        Ok(Some(bytes.freeze()))
    }

    pub(crate) async fn remove_blob(&self, name: &Name) -> Result<()> {
        let subject = self.names.blob(name)?;
        for _ in 0..TRIES {
            let (Some(table), sequence) = self.table(&subject).await? else {
                return Ok(());
            };
            if self.link.delete(&self.names.blobs().0, sequence).await? {
                return self.drop_pieces(&table).await;
            }
        }
        Err(Error::remote(format!(
            "the blob `{name}` is changed by others all the time"
        )))
    }

    /// What makes the blob at a subject, and the number of the message that says so; 0 where there is none.
    async fn table(&self, subject: &str) -> Result<(Option<Table>, u64)> {
        let (stream, _) = self.blobs().await?;
        match self.link.last(&stream, subject).await? {
            Found::Message(stored) => {
                let table = serde_json::from_slice(&stored.body);
                let table = table
                    .map_err(|_| Error::remote("the table of a blob is damaged: keep it again"))?;
                Ok((Some(table), stored.sequence))
            }
            Found::None => Ok((None, 0)),
            Found::NoStream => {
                self.doubt(&stream);
                self.blobs().await?;
                Ok((None, 0))
            }
        }
    }

    async fn drop_pieces(&self, table: &Table) -> Result<()> {
        let all = self.names.piece(&table.id, "*");
        self.link.purge(&self.names.blobs().0, &all).await
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").ok();
    }
    text
}

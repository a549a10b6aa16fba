//! What a peer answered: read within limits, understood as JSON.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use encoding_rs::Encoding;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use reqwest::{Response, StatusCode};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use wiredflow_core::units::format_size;
use wiredflow_core::{Batch, Error, Record, Result, Value, json};

use super::failure;

/// The most records of one answer.
const MOST_RECORDS: usize = 100_000;

/// How much room a peer gets by its word alone.
const BELIEVED: u64 = 64 * 1024;

/// How long is read from a peer whose words are not needed.
const PATIENCE: Duration = Duration::from_secs(1);

/// An answer of success.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// Who answered, for messages.
    place: String,
}

impl Answer {
    /// Reads the whole body. One that is longer than `most` bytes when unpacked is given up at the limit.
    pub(super) async fn whole(
        mut response: Response,
        most: usize,
        idle: Duration,
        place: String,
    ) -> Result<Self> {
        let too_long = || {
            let most = format_size(most as u64);
            Error::data(format!(
                "{place}: the answer is longer than {most}: ask for less, or raise `max_bytes`"
            ))
        };
        let promised = response.content_length().unwrap_or_default();
        if promised > most as u64 {
            return Err(too_long());
        }
        let mut body = Vec::with_capacity(promised.min(BELIEVED) as usize);
        loop {
            let piece = tokio::time::timeout(idle, response.chunk())
                .await
                .map_err(|_| failure::silent(&place, idle))?
                .map_err(|error| failure::broken(&error, &place))?;
            let Some(piece) = piece else { break };
            if body.len() + piece.len() > most {
                return Err(too_long());
            }
            body.extend_from_slice(&piece);
        }
        Ok(Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: body.into(),
            place,
        })
    }

    /// Reads at most the first bytes of a body; less when the peer breaks off or is slow.
    pub(super) async fn beginning(mut response: Response, most: usize) -> Vec<u8> {
        let mut body = Vec::new();
        let reading = async {
            while let Ok(Some(piece)) = response.chunk().await {
                let room = most - body.len();
                body.extend_from_slice(&piece[..piece.len().min(room)]);
                if piece.len() >= room {
                    break;
                }
            }
        };
        // What came within the time is used.
        drop(tokio::time::timeout(PATIENCE, reading).await);
        body
    }

    /// Its status: of success, or one that was waited for.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A header's text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as one JSON document; null where it has none.
    pub fn into_value(self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        let text = self.text();
        json::parse(text.as_bytes(), usize::MAX).map_err(|why| {
            let kind = self.kind();
            Error::data(format!(
                "{}: the answer ({kind}) cannot be read: {why}",
                self.place
            ))
        })
    }

    /// How many bytes the body has.
    pub fn length(&self) -> usize {
        self.body.len()
    }

    /// The body as records: an array is many, no content none, anything else one. The type that the
    /// peer states does not matter; its character set does where the body is no UTF-8.
    pub fn into_batch(self) -> Result<Batch> {
        if self.body.is_empty()
            && matches!(
                self.status,
                StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT
            )
        {
            return Ok(Batch::default());
        }
        let text = self.text();
        parse(text.as_bytes()).map_err(|why| {
            let beginning = match failure::excerpt(text.as_bytes()) {
                excerpt if excerpt.is_empty() => String::new(),
                excerpt => format!("; it begins with: {excerpt}"),
            };
            Error::data(format!(
                "{}: the answer ({}) cannot be read: {why}{beginning}",
                self.place,
                self.kind()
            ))
        })
    }

    /// The body as text without a byte order mark.
    fn text(&self) -> Cow<'_, str> {
        if let Some((encoding, mark)) = Encoding::for_bom(&self.body) {
            return encoding.decode_without_bom_handling(&self.body[mark..]).0;
        }
        if let Ok(text) = std::str::from_utf8(&self.body) {
            return Cow::Borrowed(text);
        }
        let encoding = self.charset().unwrap_or(encoding_rs::UTF_8);
        encoding.decode_without_bom_handling(&self.body).0
    }

    fn charset(&self) -> Option<&'static Encoding> {
        let kind = self.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let parameter = |part: &str| {
            let (name, value) = part.split_once('=')?;
            let named = name.trim().eq_ignore_ascii_case("charset");
            named.then(|| value.trim().trim_matches('"').to_owned())
        };
        Encoding::for_label(kind.split(';').find_map(parameter)?.as_bytes())
    }

    /// What the peer says that it is.
    fn kind(&self) -> String {
        let header = |name| {
            let value = self.headers.get(name)?;
            Some(failure::excerpt(value.as_bytes()))
        };
        let mut kind = header(CONTENT_TYPE).map_or_else(
            || "no content type".to_owned(),
            |kind| format!("content type `{kind}`"),
        );
        if let Some(coding) = header(CONTENT_ENCODING) {
            kind.push_str(&format!(", packed as `{coding}`"));
        }
        kind
    }
}

/// Reads one JSON document.
fn parse(bytes: &[u8]) -> Result<Batch, String> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'[') {
        return json::parse(bytes, usize::MAX).map(Batch::of_document);
    }
    match serde_json::from_slice(bytes) {
        Ok(Records(records)) => json::exact(bytes).map(|()| Batch::new(records)),
        Err(error) if error.is_data() => Err(error.to_string()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

/// The records of an array, refused while they are read when they are too many.
struct Records(Vec<Record>);

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Counting)
    }
}

struct Counting;

impl<'de> Visitor<'de> for Counting {
    type Value = Records;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Records, A::Error> {
        let mut records = Vec::new();
        while let Some(value) = items.next_element::<Value>()? {
            if records.len() == MOST_RECORDS {
                return Err(serde::de::Error::custom(format!(
                    "more than {MOST_RECORDS} records: ask for fewer at a time"
                )));
            }
            records.push(Record::new(value));
        }
        Ok(Records(records))
    }
}

//! What the server answers: proper replies, and the many ways to misbehave.

use std::{io::Write, time::Duration};

use flate2::{Compress, Compression, Crc, FlushCompress, write::GzEncoder};
use serde_json::Value;

/// One answer to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    pub(crate) delay: Duration,
}

/// What follows the head of an answer, or stands in its place.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Sent with its length.
    Whole(Vec<u8>),
    /// Sent with its length, one byte, then a pause, and so on.
    Drip(Vec<u8>, Duration),
    /// The length says more than comes; then the connection is closed.
    Truncated(Vec<u8>, usize),
    /// This piece in chunks, so many times; without a number, without end.
    Repeated {
        head: Vec<u8>,
        piece: Vec<u8>,
        times: Option<u64>,
        tail: Vec<u8>,
    },
    /// So many header lines, without end when there is no number, and no body.
    HeaderFlood(Option<usize>),
    /// Nothing at all, for as long as the client waits.
    Never,
    /// The connection is closed without a byte.
    HangUp,
    /// These bytes in place of head and body; then the connection is closed.
    Raw(Vec<u8>),
}

impl Reply {
    /// 200 with a JSON body.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "reads better where `json!` is written"
    )]
    pub fn json(value: Value) -> Self {
        Self::bytes("application/json", value.to_string())
    }

    /// 200 with a body of text.
    pub fn text(text: &str) -> Self {
        Self::bytes("text/plain; charset=utf-8", text)
    }

    /// 200 with a body of any kind.
    pub fn bytes(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::of(Body::Whole(body.into())).header("content-type", content_type)
    }

    /// An empty body with this status.
    pub fn code(status: u16) -> Self {
        Self::of(Body::Whole(Vec::new())).status(status)
    }

    /// 302 to another address. To the path itself it is a loop.
    pub fn redirect(location: &str) -> Self {
        Self::code(302).header("location", location)
    }

    /// No answer, for as long as the client waits.
    pub fn never() -> Self {
        Self::of(Body::Never)
    }

    /// The connection is closed without an answer.
    pub fn hang_up() -> Self {
        Self::of(Body::HangUp)
    }

    /// 200, and the body byte by byte with this pause between two.
    pub fn drip(body: &str, pause: Duration) -> Self {
        Self::of(Body::Drip(body.into(), pause)).header("content-type", "application/json")
    }

    /// 200 with a JSON body of which so many bytes are missing at the end; then the connection is closed.
    pub fn truncated(body: &str, missing: usize) -> Self {
        Self::of(Body::Truncated(body.into(), missing)).header("content-type", "application/json")
    }

    /// 200, and a JSON array in chunks that does not end.
    pub fn endless() -> Self {
        let body = Body::Repeated {
            head: b"[0".to_vec(),
            piece: b",0".repeat(8192),
            times: None,
            tail: Vec::new(),
        };
        Self::of(body).header("content-type", "application/json")
    }

    /// 200 with a JSON body, compressed.
    pub fn gzip(body: &str) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body.as_bytes()).unwrap();
        Self::bytes("application/json", encoder.finish().unwrap())
            .header("content-encoding", "gzip")
    }

    /// 200 with a gzip body of about a thousandth of the size that it has when unpacked: so many MiB of zeros.
    pub fn gzip_bomb(mebibytes: u64) -> Self {
        let zeros = vec![0_u8; 1024 * 1024];
        let mut packer = Compress::new(Compression::best(), false);
        let mut piece = Vec::with_capacity(64 * 1024);
        packer
            .compress_vec(&zeros, &mut piece, FlushCompress::Full)
            .unwrap();
        assert_eq!(packer.total_in(), 1024 * 1024, "one call packs all");
        let mut one = Crc::new();
        one.update(&zeros);
        let mut crc = Crc::new();
        for _ in 0..mebibytes {
            crc.combine(&one);
        }
        let mut tail = vec![3, 0]; // the empty last block of a deflate stream
        tail.extend(crc.sum().to_le_bytes());
        tail.extend(crc.amount().to_le_bytes());
        let head = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
        let body = Body::Repeated {
            head,
            piece,
            times: Some(mebibytes),
            tail,
        };
        Self::of(body)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
    }

    /// 200 with so many headers of a hundred bytes; without a number they do not end.
    pub fn header_flood(count: Option<usize>) -> Self {
        Self::of(Body::HeaderFlood(count))
    }

    /// These very bytes in place of an HTTP answer; then the connection is closed.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Body::Raw(bytes.into()))
    }

    /// With another status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Only after this time.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn of(body: Body) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body,
            delay: Duration::ZERO,
        }
    }
}

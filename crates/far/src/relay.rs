//! A byte stream that outlives its connections: each side keeps what the other has not confirmed, and a new connection
//! goes on where the old one broke.
//!
//! ```text
//! greeting   WFRELAY1, a token of 16 bytes, the u64 count of bytes received so far
//! 1  u32 length, bytes      data, following what was sent before
//! 2  u64 count              so many bytes were received and handed on
//! 3                         a sign of life
//! 4                         nothing follows: the stream ends
//! ```
//!
//! Numbers are big-endian. Both sides greet first; what a shell may print before a greeting is passed over.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use wiredflow_engine::clock::Clock;

use crate::ledger::Ledger;

/// What tells one stream from another.
pub type Token = [u8; 16];

const MAGIC: &[u8; 8] = b"WFRELAY1";

/// How much a shell may print before the greeting, in bytes.
const NOISE: usize = 64 << 10;

/// How long the other side may take to greet.
const GREETING: Duration = Duration::from_secs(15);

/// How often each side gives a sign of life, and how long a silence breaks a connection.
const BEAT: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(10);

/// How many unconfirmed bytes are kept before no more are taken.
const WINDOW: u64 = 8 << 20;

/// Received bytes are confirmed when there are so many, and with each sign of life.
const CONFIRM: u64 = 256 << 10;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// The longest frame that is read, in bytes: what is sent is shorter.
const LONGEST: usize = 1 << 20;

/// How long the other side may take to agree that the stream ends.
const PARTING: Duration = Duration::from_secs(3);

const DATA: u8 = 1;
const RECEIVED: u8 = 2;
const ALIVE: u8 = 3;
const END: u8 = 4;

/// One side of a stream.
#[derive(Debug)]
pub struct Relay {
    token: Token,
    clock: Clock,
    state: Mutex<State>,
    /// There may be something to send.
    changed: Notify,
    /// The other side has just greeted.
    greeting: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What was taken here and not confirmed there.
    ledger: Ledger,
    /// How much of it this connection has sent.
    sent: u64,
    /// How much was received and handed on, and how much of that was said.
    received: u64,
    confirmed: u64,
    /// What is taken here has ended.
    over: bool,
    /// Whether a sign of life is due.
    beat: bool,
    /// Whether the other side was told that nothing follows.
    ended: bool,
    /// Whether the other side has greeted: ever, and since somebody asked.
    greeted: bool,
    greeted_since: bool,
}

impl State {
    /// How much was received that the other side was not told of.
    fn unsaid(&self) -> u64 {
        self.received - self.confirmed
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum Carried {
    /// It broke; another one can go on.
    Broken(io::Error),
    /// The stream has ended, on either side.
    Over,
}

/// What the writer does next.
enum Turn {
    Data(bytes::Bytes),
    Received(u64),
    Alive,
    End,
}

impl Relay {
    /// A stream at its start.
    pub fn new(token: Token, clock: Clock) -> Self {
        Self {
            token,
            clock,
            state: Mutex::default(),
            changed: Notify::new(),
            greeting: Notify::new(),
        }
    }

    /// Carries the stream over one connection until that breaks or the stream ends: what `input` gives goes there, what
    /// comes from there goes to `output`.
    ///
    /// Dropping the future is like a broken connection: nothing that was taken from `input` is lost, nor anything that
    /// was confirmed. `input` and `output` are the same for each connection.
    pub async fn carry<I, O, R, W>(
        &self,
        input: &mut I,
        output: &mut O,
        mut reader: R,
        mut writer: W,
    ) -> Carried
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut bytes = BytesMut::with_capacity(CHUNK);
        // At once: neither waits for the other to listen.
        let greet = async {
            let greeted = self.be_greeted(&mut reader, &mut bytes);
            tokio::try_join!(self.greet(&mut writer), greeted)
        };
        let greeted = tokio::select! {
            greeted = greet => greeted.map(drop),
            () = self.clock.sleep(GREETING) => Err(io::Error::new(io::ErrorKind::TimedOut, "no greeting")),
        };
        if let Err(error) = greeted {
            return Carried::Broken(error);
        }
        let result = tokio::select! {
            biased;
            result = self.receive(&mut reader, &mut bytes, output) => result,
            result = self.send(&mut writer) => result,
            never = self.take(input) => match never {},
            never = self.beat() => match never {},
        };
        match result {
            Ok(()) => {
                // The other side may have begun to end it, and must not take that for a broken connection.
                let parting = async {
                    writer.write_all(&[END]).await?;
                    writer.shutdown().await
                };
                tokio::select! {
                    _ = parting => {}
                    () = self.clock.sleep(PARTING) => {}
                }
                Carried::Over
            }
            Err(_) if self.state().ended => Carried::Over,
            Err(error) => Carried::Broken(error),
        }
    }

    async fn greet(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let received = self.state().received;
        let mut greeting = Vec::with_capacity(32);
        greeting.extend_from_slice(MAGIC);
        greeting.extend_from_slice(&self.token);
        greeting.extend_from_slice(&received.to_be_bytes());
        writer.write_all(&greeting).await?;
        writer.flush().await?;
        self.state().confirmed = received;
        Ok(())
    }

    async fn be_greeted(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        bytes: &mut BytesMut,
    ) -> io::Result<()> {
        let mut noise = 0;
        loop {
            if let Some(at) = bytes.windows(MAGIC.len()).position(|part| part == MAGIC) {
                drop(bytes.split_to(at));
                if bytes.len() >= 32 {
                    break;
                }
            } else {
                let keep = bytes.len().min(MAGIC.len() - 1);
                noise += bytes.len() - keep;
                drop(bytes.split_to(bytes.len() - keep));
                if noise > NOISE {
                    return Err(broken("it speaks, and not as the other side of a stream"));
                }
            }
            more(reader, bytes).await?;
        }
        let greeting = bytes.split_to(32);
        if greeting[8..24] != self.token {
            return Err(broken("it is the other side of another stream"));
        }
        let has = number(&greeting[24..]);
        let mut state = self.state();
        if !state.ledger.forget_before(has) {
            return Err(broken("it has not got what it had"));
        }
        state.sent = has;
        (state.greeted, state.greeted_since) = (true, true);
        drop(state);
        self.greeting.notify_waiters();
        Ok(())
    }

    /// Nothing more is taken: the stream ends when all of it is sent.
    pub fn close(&self) {
        self.state().over = true;
        self.changed.notify_waiters();
    }

    /// Waits until the other side greets.
    pub async fn greeting(&self) {
        self.greeting.notified().await;
    }

    /// Whether the other side was ever there.
    pub fn was_greeted(&self) -> bool {
        self.state().greeted
    }

    /// Whether the other side was there since this was asked last.
    pub fn take_greeted(&self) -> bool {
        std::mem::take(&mut self.state().greeted_since)
    }

    /// Takes what is to be sent, as long as there is room.
    async fn take(&self, input: &mut (impl AsyncRead + Unpin)) -> std::convert::Infallible {
        let mut chunk = BytesMut::new();
        loop {
            if self.state().over {
                return std::future::pending().await;
            }
            while self.state().ledger.kept() >= WINDOW {
                self.changed.notified().await;
            }
            chunk.reserve(CHUNK);
            // Nothing is between the read and the ledger: dropping the future loses nothing.
            let read = input.read_buf(&mut chunk).await;
            let mut state = self.state();
            match read {
                Ok(0) | Err(_) => state.over = true,
                Ok(_) => state.ledger.push(chunk.split().freeze()),
            }
            drop(state);
            self.changed.notify_waiters();
        }
    }

    async fn beat(&self) -> std::convert::Infallible {
        loop {
            self.clock.sleep(BEAT).await;
            self.state().beat = true;
            self.changed.notify_waiters();
        }
    }

    async fn send(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.turn() {
                None => {
                    writer.flush().await?;
                    changed.await;
                }
                Some(Turn::Data(bytes)) => {
                    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let mut head = [DATA, 0, 0, 0, 0];
                    head[1..].copy_from_slice(&length.to_be_bytes());
                    // One write: a small answer is one packet.
                    let mut frame = Vec::with_capacity(head.len() + bytes.len());
                    frame.extend_from_slice(&head);
                    frame.extend_from_slice(&bytes);
                    writer.write_all(&frame).await?;
                }
                Some(Turn::Received(count)) => {
                    let mut frame = [RECEIVED; 9];
                    frame[1..].copy_from_slice(&count.to_be_bytes());
                    writer.write_all(&frame).await?;
                }
                Some(Turn::Alive) => writer.write_all(&[ALIVE]).await?,
                Some(Turn::End) => {
                    writer.write_all(&[END]).await?;
                    writer.flush().await?;
                    self.state().ended = true;
                    // The other side agrees by ending too.
                    self.clock.sleep(PARTING).await;
                    return Ok(());
                }
            }
        }
    }

    fn turn(&self) -> Option<Turn> {
        let mut state = self.state();
        let bytes = state.ledger.from(state.sent);
        let beat = std::mem::take(&mut state.beat);
        let unsaid = state.unsaid();
        if unsaid >= CONFIRM || (beat && unsaid > 0) {
            state.confirmed = state.received;
            return Some(Turn::Received(state.received));
        }
        if !bytes.is_empty() {
            state.sent += bytes.len() as u64;
            return Some(Turn::Data(bytes));
        }
        if state.over {
            return Some(Turn::End);
        }
        beat.then_some(Turn::Alive)
    }

    async fn receive(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        bytes: &mut BytesMut,
        output: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        loop {
            while let Some((frame, length)) = frame_of(bytes)? {
                match frame {
                    DATA => {
                        let mut data = bytes.split_to(length).split_off(5);
                        // Counted as it is handed on, piece by piece: a connection that is given up in between
                        // neither loses nor doubles a byte.
                        while !data.is_empty() {
                            let written = output.write(&data).await?;
                            if written == 0 {
                                return Ok(());
                            }
                            drop(data.split_to(written));
                            self.state().received += written as u64;
                        }
                        if self.state().unsaid() >= CONFIRM {
                            self.changed.notify_waiters();
                        }
                    }
                    RECEIVED => {
                        let count = number(&bytes.split_to(length)[1..]);
                        let known = self.state().ledger.forget_before(count);
                        if !known {
                            return Err(broken("it confirms what was not sent"));
                        }
                        self.changed.notify_waiters();
                    }
                    ALIVE => drop(bytes.split_to(length)),
                    END => {
                        output.flush().await?;
                        output.shutdown().await.ok();
                        return Ok(());
                    }
                    _ => return Err(broken("it speaks, and not as the other side of a stream")),
                }
            }
            output.flush().await?;
            tokio::select! {
                biased;
                read = more(reader, bytes) => read?,
                () = self.clock.sleep(SILENCE) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it gives no sign of life"));
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first frame's sort and length, once it is there as a whole.
fn frame_of(bytes: &[u8]) -> io::Result<Option<(u8, usize)>> {
    let length = match bytes {
        [] | [DATA] | [DATA, _] | [DATA, _, _] | [DATA, _, _, _] => return Ok(None),
        [DATA, rest @ ..] => 5 + number(&rest[..4]),
        [RECEIVED, ..] => 9,
        [_, ..] => 1,
    };
    match usize::try_from(length) {
        Ok(length) if length <= LONGEST => {
            Ok((bytes.len() >= length).then_some((bytes[0], length)))
        }
        _ => Err(broken("it sends more at once than it may")),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

async fn more(reader: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> io::Result<()> {
    bytes.reserve(CHUNK);
    match reader.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

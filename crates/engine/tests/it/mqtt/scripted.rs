//! A broker that does what it is told, byte by byte: for what a good broker does not do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::bench::SOON;

/// CONNACK without a session, in each version.
pub(crate) const WELCOME_311: &[u8] = &[0x20, 2, 0, 0];
pub(crate) const WELCOME_5: &[u8] = &[0x20, 3, 0, 0, 0];
/// CONNACK with one.
pub(crate) const RESUMED_311: &[u8] = &[0x20, 2, 1, 0];
pub(crate) const RESUMED_5: &[u8] = &[0x20, 3, 1, 0, 0];

/// The broker; each connection is given to the script, one after the other.
pub(crate) struct Scripted {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One connection of a client.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Which it is, from 0.
    pub(crate) number: usize,
}

/// One packet of the client.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

impl Scripted {
    pub(crate) fn start(script: impl Fn(&mut Connection) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                stream.set_nodelay(true).unwrap();
                script(&mut Connection { stream, number });
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends it; panics when the script has.
    pub(crate) fn end(mut self) {
        self.over.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Connection {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // The client may have hung up by now.
        drop(self.stream.write_all(bytes));
    }

    /// The next packet; panics when none comes.
    pub(crate) fn read(&mut self) -> Sent {
        self.try_read().expect("the client says something")
    }

    /// The next packet; `None` when the client hangs up.
    pub(crate) fn try_read(&mut self) -> Option<Sent> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).ok()?;
        let first = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.stream.read_exact(&mut byte).ok()?;
            length |= usize::from(byte[0] & 0x7F) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some(Sent { first, body })
    }

    /// The next packet of a kind; pings before it are answered.
    pub(crate) fn read_kind(&mut self, kind: u8) -> Sent {
        loop {
            let sent = self.read();
            if sent.first >> 4 == 12 {
                self.write(&[0xD0, 0]);
            }
            if sent.first >> 4 == kind {
                return sent;
            }
        }
    }

    /// All packets until the client hangs up; pings are answered.
    pub(crate) fn read_to_end(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Some(sent) = self.try_read() {
            match sent.first >> 4 {
                12 => self.write(&[0xD0, 0]),
                14 => return all,
                _ => all.push(sent),
            }
        }
        all
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Sent {
    pub(crate) fn protocol_level(&self) -> u8 {
        assert_eq!(self.first, 0x10);
        self.body[6]
    }

    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }
}

pub(crate) fn suback_311(subscribe: &Sent, codes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x90, 2 + codes.len() as u8];
    bytes.extend(&subscribe.body[..2]);
    bytes.extend(codes);
    bytes
}

pub(crate) fn suback_5(subscribe: &Sent, codes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x90, 3 + codes.len() as u8];
    bytes.extend(&subscribe.body[..2]);
    bytes.push(0);
    bytes.extend(codes);
    bytes
}

/// A message at QoS 1 in 3.1.1; short.
pub(crate) fn publish_311(topic: &str, id: u16, duplicate: bool, payload: &[u8]) -> Vec<u8> {
    let rest = 4 + topic.len() + payload.len();
    assert!(rest < 128);
    let mut bytes = vec![
        0x32 | (u8::from(duplicate) << 3),
        rest as u8,
        0,
        topic.len() as u8,
    ];
    bytes.extend(topic.as_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}

//! A small MQTT 3.1.1 client that shares no code with the clients under test.

use std::{
    io::{self, BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// How long one answer of the broker may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How many messages `publish_all` sends before it waits for their acknowledgements, by QoS. Brokers bound those of
/// QoS 2 that are on their way, often to 20.
const WINDOWS: [usize; 3] = [usize::MAX, 500, 10];

/// A connection to a broker for publishing in tests.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    next_id: u16,
}

/// A name and password for a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// One message as a subscriber got it.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Vec<u8>,
    /// The QoS at which it was published.
    pub qos: u8,
    /// Whether it was kept by the broker from before the subscription.
    pub retained: bool,
    /// Whether the broker says that it may have delivered it before.
    pub duplicate: bool,
    /// When it arrived.
    pub at: Instant,
}

/// What a subscriber gets from the broker.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Message),
    Subscribed,
    Nothing,
}

#[derive(Debug)]
struct Packet {
    kind: u8,
    flags: u8,
    body: Vec<u8>,
}

impl Client {
    /// Connects to a broker on 127.0.0.1. A broker that refuses gives `PermissionDenied`, with its code in the text.
    pub fn connect(
        port: u16,
        client_id: &str,
        clean_session: bool,
        login: Option<&Login>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut client = Self {
            stream,
            reader,
            next_id: 0,
        };
        let mut flags = if clean_session { 0b10 } else { 0 };
        let mut texts = vec![client_id];
        if let Some(login) = login {
            flags |= 0b1100_0000;
            texts.extend([login.username.as_str(), login.password.as_str()]);
        }
        let mut body = text("MQTT");
        body.extend([4, flags, 0, 0]); // no keep-alive: the kit sends no pings
        body.extend(texts.into_iter().flat_map(text));
        client.write(0x10, &body)?;
        let answer = client.expect(2)?;
        match answer.body.get(1) {
            Some(0) => Ok(client),
            code => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the broker refused the connection with code {code:?}"),
            )),
        }
    }

    /// Publishes one message and waits until the broker has taken it (at QoS 1 and 2).
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> io::Result<()> {
        self.publish_all(topic, [payload], qos)
    }

    /// Publishes many messages as fast as the broker takes them, and waits until it has taken the last.
    pub fn publish_all<P: AsRef<[u8]>>(
        &mut self,
        topic: &str,
        payloads: impl IntoIterator<Item = P>,
        qos: u8,
    ) -> io::Result<()> {
        let mut sent = Vec::new();
        let mut waiting = 0;
        for payload in payloads {
            let mut body = text(topic);
            if qos > 0 {
                body.extend(self.new_id().to_be_bytes());
                waiting += 1;
            }
            body.extend(payload.as_ref());
            frame(0x30 | (qos << 1), &body, &mut sent);
            if waiting == WINDOWS[usize::from(qos)] || sent.len() > 64 * 1024 {
                self.stream.write_all(&sent)?;
                sent.clear();
                self.taken(&mut waiting, qos)?;
            }
        }
        self.stream.write_all(&sent)?;
        self.taken(&mut waiting, qos)?;
        if qos == 0 {
            self.write(0xC0, &[])?; // a ping: its answer comes after the broker has read what was sent before
            self.expect(13)?;
        }
        Ok(())
    }

    /// Publishes a message that the broker keeps for later subscribers; an empty payload removes it.
    pub fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> io::Result<()> {
        let mut body = text(topic);
        body.extend(self.new_id().to_be_bytes());
        body.extend(payload.as_ref());
        self.write(0x33, &body)?;
        self.expect(4).map(drop)
    }

    /// Asks for a subscription at QoS 2, so that each message arrives at the QoS at which it was published. The answer comes
    /// by `next`: a resumed session may deliver before it.
    pub(crate) fn subscribe(&mut self, topics: &[String]) -> io::Result<()> {
        let mut body = self.new_id().to_be_bytes().to_vec();
        for topic in topics {
            body.extend(text(topic));
            body.push(2);
        }
        self.write(0x82, &body)
    }

    /// Subscribes, waits for the answer, and goes.
    pub(crate) fn subscribe_and_leave(&mut self, topic: &str) -> io::Result<()> {
        self.subscribe(&[topic.to_owned()])?;
        self.expect(9).map(drop)
    }

    /// Reads one packet and acknowledges it. `half_done` holds the ids of QoS 2 messages that were delivered, but not
    /// released. Waits for ever when nothing comes: the caller shuts the socket down to end it.
    pub(crate) fn next(&mut self, half_done: &mut Vec<u16>) -> io::Result<Arrival> {
        let packet = self.read()?;
        match packet.kind {
            3 => {
                let (message, id) = packet.message()?;
                match message.qos {
                    1 => self.write(0x40, &id.to_be_bytes())?,
                    2 => {
                        self.write(0x50, &id.to_be_bytes())?;
                        if half_done.contains(&id) {
                            return Ok(Arrival::Nothing);
                        }
                        half_done.push(id);
                    }
                    _ => {}
                }
                Ok(Arrival::Message(message))
            }
            6 => {
                let id = u16::from_be_bytes([packet.body[0], packet.body[1]]);
                half_done.retain(|half| *half != id);
                self.write(0x70, &id.to_be_bytes())?;
                Ok(Arrival::Nothing)
            }
            9 if packet.body[2..].contains(&0x80) => Err(io::Error::other("subscription refused")),
            9 => Ok(Arrival::Subscribed),
            _ => Ok(Arrival::Nothing),
        }
    }

    /// A second handle on the socket, to shut it down from another thread.
    pub(crate) fn socket(&self) -> io::Result<TcpStream> {
        self.stream.set_read_timeout(None)?;
        self.stream.try_clone()
    }

    fn taken(&mut self, waiting: &mut usize, qos: u8) -> io::Result<()> {
        for _ in 0..std::mem::take(waiting) {
            if qos == 2 {
                let received = self.expect(5)?;
                self.write(0x62, &received.body[..2])?;
            } else {
                self.expect(4)?;
            }
        }
        if qos == 2 { self.completed() } else { Ok(()) }
    }

    /// Waits for the last of the completions of QoS 2, by a ping behind them.
    fn completed(&mut self) -> io::Result<()> {
        self.write(0xC0, &[])?;
        loop {
            if self.read()?.kind == 13 {
                return Ok(());
            }
        }
    }

    fn new_id(&mut self) -> u16 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }

    fn expect(&mut self, kind: u8) -> io::Result<Packet> {
        loop {
            let packet = self.read()?;
            match packet.kind {
                found if found == kind => return Ok(packet),
                7 => {} // the completion of an earlier QoS 2 message
                found => {
                    return Err(io::Error::other(format!(
                        "packet {found} instead of {kind}"
                    )));
                }
            }
        }
    }

    fn write(&mut self, head: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = Vec::new();
        frame(head, body, &mut packet);
        self.stream.write_all(&packet)
    }

    fn read(&mut self) -> io::Result<Packet> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        let head = byte[0];
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            self.reader.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7F) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok(Packet {
            kind: head >> 4,
            flags: head & 0xF,
            body,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.write(0xE0, &[])); // it may be gone already
    }
}

impl Message {
    /// The payload as text; panics when it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload is UTF-8")
    }

    /// The payload as JSON; panics when it is not.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|error| panic!("not JSON: {:?}: {error}", self.text()))
    }
}

impl Packet {
    /// A PUBLISH: the message, and its id (0 at QoS 0).
    fn message(&self) -> io::Result<(Message, u16)> {
        let short = || io::Error::other("a PUBLISH that is too short");
        let take = |from: usize, to: usize| self.body.get(from..to).ok_or_else(short);
        let number = |at: usize| take(at, at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        let topic_end = 2 + usize::from(number(0)?);
        let topic = String::from_utf8_lossy(take(2, topic_end)?).into_owned();
        let qos = (self.flags >> 1) & 3;
        let (id, start) = if qos > 0 {
            (number(topic_end)?, topic_end + 2)
        } else {
            (0, topic_end)
        };
        let payload = take(start, self.body.len())?.to_vec();
        let (retained, duplicate) = (self.flags & 1 == 1, self.flags & 8 == 8);
        Ok((
            Message {
                topic,
                payload,
                qos,
                retained,
                duplicate,
                at: Instant::now(),
            },
            id,
        ))
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a text of MQTT is shorter than 64 KiB");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn frame(head: u8, body: &[u8], packet: &mut Vec<u8>) {
    packet.push(head);
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).expect("seven bits");
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
}

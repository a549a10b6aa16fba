//! The load: a publisher that is never the limit. It speaks MQTT 3.1.1 by itself; the packets are made before
//! the first one is sent.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::message::{TOPIC, now, payload};
use crate::{Options, Result};

/// How many bytes are written at once.
const CHUNK: usize = 32 << 10;

/// How many messages the broker may leave unacknowledged: it acknowledges what it has taken, so that
/// this bounds its reading, not the subscriber's.
const WINDOW: usize = 1000;

/// How often the broker hears of an idle connection, in seconds.
const KEEP_ALIVE: u16 = 600;

/// Says `ready BYTES`, what the stored lines will have in all, waits for a line, and publishes.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let stream = connect(options.text("--broker")?)?;
    let (qos, messages) = (options.number("--qos")?, options.number("--messages")?);
    if options.find("--per-second").is_some() {
        start(0)?;
        return paced(stream, qos, messages, options.number("--per-second")?);
    }
    let (mut packets, mut ends, mut bytes) = (Vec::new(), Vec::new(), 0);
    for sequence in 0..messages {
        let text = payload(sequence, 0);
        bytes += text.len() + 1;
        write_packet(&mut packets, qos, sequence, &text);
        ends.push(packets.len());
    }
    start(bytes)?;
    if qos == 0 {
        send_all(stream, &packets)
    } else {
        send_in_window(&stream, &packets, &ends)
    }
}

fn start(bytes: usize) -> Result {
    println!("ready {bytes}");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(())
}

fn connect(broker: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    let id = b"bench-publish";
    let mut hello = vec![0x10, 12 + id.len() as u8, 0, 4];
    hello.extend_from_slice(b"MQTT\x04\x02");
    hello.extend_from_slice(&KEEP_ALIVE.to_be_bytes());
    hello.extend_from_slice(&[0, id.len() as u8]);
    hello.extend_from_slice(id);
    stream.write_all(&hello)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer == [0x20, 2, 0, 0] {
        Ok(stream)
    } else {
        Err(format!("the broker refuses the publisher: {answer:?}").into())
    }
}

fn write_packet(packets: &mut Vec<u8>, qos: u64, sequence: u64, payload: &str) {
    let mut rest = 2 + TOPIC.len() + payload.len() + if qos > 0 { 2 } else { 0 };
    packets.push(0x30 | (u8::from(qos > 0) << 1));
    while rest > 0x7F {
        packets.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    packets.push(rest as u8);
    packets.extend_from_slice(&(TOPIC.len() as u16).to_be_bytes());
    packets.extend_from_slice(TOPIC.as_bytes());
    if qos > 0 {
        let id = (sequence % 65_535) as u16 + 1;
        packets.extend_from_slice(&id.to_be_bytes());
    }
    packets.extend_from_slice(payload.as_bytes());
}

/// Waits until the broker has read everything and hangs up.
fn goodbye(mut stream: &TcpStream) -> Result {
    stream.write_all(&[0xE0, 0])?;
    std::io::copy(&mut stream, &mut std::io::sink())?;
    Ok(())
}

fn send_all(mut stream: TcpStream, packets: &[u8]) -> Result {
    for chunk in packets.chunks(CHUNK) {
        stream.write_all(chunk)?;
    }
    goodbye(&stream)
}

/// How many messages the broker has acknowledged.
#[derive(Default)]
struct Acknowledged {
    count: Mutex<usize>,
    more: Condvar,
}

impl Acknowledged {
    fn wait_for(&self, wanted: usize) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = self.more.wait_while(count, |count| *count < wanted);
        drop(enough.unwrap_or_else(PoisonError::into_inner));
    }

    fn add(&self, more: usize) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += more;
        self.more.notify_one();
    }
}

/// Sends half a window at a time, so that the threads wake each other seldom.
fn send_in_window(stream: &TcpStream, packets: &[u8], ends: &[usize]) -> Result {
    let (mut writer, mut reader) = (stream.try_clone()?, stream.try_clone()?);
    let (acknowledged, all) = (Acknowledged::default(), ends.len());
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| -> Result {
            let (mut bytes, mut buffer) = (0, [0; 4096]);
            while bytes / 4 < all {
                let before = bytes / 4;
                bytes += match reader.read(&mut buffer)? {
                    0 => return Err("the broker hung up".into()),
                    read => read,
                };
                acknowledged.add(bytes / 4 - before);
            }
            Ok(())
        });
        let mut from = 0;
        for (index, group) in ends.chunks(WINDOW / 2).enumerate() {
            acknowledged.wait_for((index * (WINDOW / 2)).saturating_sub(WINDOW / 2));
            let to = group.last().copied().unwrap_or(from);
            writer.write_all(&packets[from..to])?;
            from = to;
        }
        reading.join().map_err(|_| "the reader panicked")?
    })?;
    goodbye(stream)
}

/// Sends each message at its time. At QoS 1 its acknowledgement is read by another thread.
fn paced(mut stream: TcpStream, qos: u64, messages: u64, per_second: u64) -> Result {
    let mut reader = stream.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let each = Duration::from_secs(1) / u32::try_from(per_second.max(1))?;
    let mut due = Instant::now();
    let mut packet = Vec::new();
    for sequence in 0..messages {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += each;
        packet.clear();
        write_packet(&mut packet, qos, sequence, &payload(sequence, now()));
        stream.write_all(&packet)?;
    }
    // The connection stays until the driver ends it.
    start(0)
}

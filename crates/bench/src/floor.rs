//! The floor: a loop by hand that makes the promise of a flow `mqtt` to `jsonl`, or to `sqlite`, with the
//! same MQTT crates.
//!
//! One thread only polls the connection; one parses, appends, syncs once for all that has come
//! meanwhile, and then acknowledges. It has no limits, no counters, no retries, no second pipeline.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::message::TOPIC;
use crate::{Options, Result};

/// How many messages wait between the threads, and how many acknowledgements for the connection: more
/// than the broker ever leaves open, so that none is refused.
const AHEAD: usize = 8192;
const REQUESTS: usize = 65_535;

/// The largest message, as the tool takes it.
const MOST_BYTES: u32 = 1 << 20;

/// The storage's end of the loop.
enum Sink {
    Lines(Lines),
    Table(rusqlite::Connection),
}

impl Sink {
    /// Makes all of them safe together.
    fn store<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) -> Result {
        match self {
            Self::Lines(lines) => {
                for payload in payloads {
                    lines.add(payload)?;
                }
                lines.commit()
            }
            Self::Table(connection) => insert(connection, payloads),
        }
    }
}

/// What a careful person would write for this one kind of message.
fn insert<'a>(
    connection: &mut rusqlite::Connection,
    payloads: impl Iterator<Item = &'a [u8]>,
) -> Result {
    let transaction = connection.transaction()?;
    let mut row = transaction.prepare_cached(
        "INSERT INTO numbers (sequence, sensor, celsius, valid, sent) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for payload in payloads {
        let value: serde_json::Value = serde_json::from_slice(payload)?;
        row.execute((
            value["sequence"].as_i64(),
            value["sensor"].as_str(),
            value["celsius"].as_f64(),
            value["valid"].as_bool(),
            value["sent"].as_i64(),
        ))?;
    }
    drop(row);
    transaction.commit()?;
    Ok(())
}

fn table(path: &str) -> Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(path)?;
    connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("CREATE TABLE numbers (sequence, sensor, celsius, valid, sent)")?;
    Ok(connection)
}

/// The file's end of the loop.
struct Lines {
    file: File,
    sync: bool,
    buffer: Vec<u8>,
}

impl Lines {
    fn add(&mut self, payload: &[u8]) -> Result {
        let value: serde_json::Value = serde_json::from_slice(payload)?;
        serde_json::to_writer(&mut self.buffer, &value)?;
        self.buffer.push(b'\n');
        Ok(())
    }

    fn commit(&mut self) -> Result {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        if self.sync {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// The two crates are twins, down to their names.
macro_rules! subscribe {
    ($name:ident, $mqtt:ident, $setup:expr) => {
        fn $name(host: &str, port: u16, acknowledges: bool, mut sink: Sink) -> Result {
            use $mqtt::{AckMode, AsyncClient, Event, MqttOptions, Packet, Publish, QoS};

            let mut options = MqttOptions::new("bench-floor", (host, port));
            options.set_ack_mode(AckMode::Manual);
            let setup: fn(&mut MqttOptions) = $setup;
            setup(&mut options);
            let (client, mut connection) = AsyncClient::builder(options).capacity(REQUESTS).build();
            let qos = if acknowledges {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            };
            client.try_subscribe(TOPIC, qos)?;

            let (arrived, mut waiting) = mpsc::channel(AHEAD);
            let acknowledge = Arc::new(client);
            let writer = std::thread::Builder::new().name("floor-write".to_owned());
            let writer = writer.spawn(move || -> Result {
                let mut taken: Vec<Publish> = Vec::with_capacity(AHEAD);
                while waiting.blocking_recv_many(&mut taken, AHEAD) > 0 {
                    sink.store(taken.iter().map(|publish| &publish.payload[..]))?;
                    for publish in taken.drain(..) {
                        acknowledge.try_ack(&publish)?;
                    }
                }
                Ok(())
            })?;

            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let polled: Result = runtime.block_on(async move {
                loop {
                    if let Event::Incoming(Packet::Publish(publish)) = connection.poll().await? {
                        if arrived.send(publish).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            });
            match writer.join() {
                Ok(written) => written.and(polled),
                Err(_) => Err("the writer panicked".into()),
            }
        }
    };
}

subscribe!(version_4, rumqttc, |options| {
    options.set_clean_session(false);
    options.set_max_packet_size(MOST_BYTES as usize, MOST_BYTES as usize);
});

subscribe!(version_5, rumqttc_v5, |options| {
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(24 * 60 * 60));
    options.set_max_packet_size(Some(MOST_BYTES));
});

/// Stores what is published until it is ended from outside.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let (host, port) = options
        .text("--broker")?
        .split_once(':')
        .ok_or("`--broker` wants HOST:PORT")?;
    let path = options.text("--file")?;
    let sink = if options.has("--table") {
        Sink::Table(table(path)?)
    } else {
        Sink::Lines(Lines {
            file: File::options().append(true).create(true).open(path)?,
            sync: !options.has("--no-sync"),
            buffer: Vec::new(),
        })
    };
    let acknowledges = options.number("--qos")? > 0;
    match options.number("--version")? {
        4 => version_4(host, port.parse()?, acknowledges, sink),
        _ => version_5(host, port.parse()?, acknowledges, sink),
    }
}

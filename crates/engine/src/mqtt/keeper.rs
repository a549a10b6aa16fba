//! The thread of a connection: it connects, connects again, and says what happens to its role.

use std::future::poll_fn;
use std::io::ErrorKind as ErrorKindOfIo;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use wiredflow_core::{Error, ErrorKind, Result};

use super::access::Settings;
use super::link::{Connected, Link, NoLink, connect};
use super::packets::{Bye, Garbled, Packet, Version, Welcome, write_ping};
use super::rest::Rest;
use super::tls;
use crate::clock::{Clock, Dice};

/// The time from one attempt to connect to the next, which doubles up to the second figure: a broker that is back
/// is found within that.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// How long the end of a connection may take: the last acknowledgements are on their way.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// What a lost connection weighs, by how likely the same happens again; so much within so long is
/// final.
const FINAL: (u32, Duration) = (12, Duration::from_secs(60));

/// A connection that lived for so long has proved that it can.
const PROVED: Duration = Duration::from_secs(15);

/// What a connection is for: the source's or the sender's side. All its calls come from the
/// connection's thread and must not block.
pub(super) trait Role: Send + 'static {
    /// A connection stands; the role writes what it says first.
    fn connected(&mut self, welcome: &Welcome, version: Version, out: &mut BytesMut) -> Result<()>;

    /// Whether the role has come to work since it began: then a lost connection is made again.
    fn stands(&self) -> bool;

    /// Writes what there is to write. Ready when the owner has gone and nothing more will come.
    fn poll_write(
        &mut self,
        version: Version,
        out: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<()>;

    /// Everything written has left.
    fn flushed(&mut self) {}

    /// Whether more may be read now.
    fn may_read(&self) -> bool {
        true
    }

    /// Whether what comes may lie for a moment, to be read together with what follows: where nobody waits
    /// for our word.
    fn may_rest(&self) -> bool {
        false
    }

    /// The broker said something.
    fn read(&mut self, packet: Packet) -> Result<()>;

    /// All that had arrived has been read.
    fn read_all(&mut self) {}

    /// There is no connection at the moment, and why.
    fn lost(&mut self, error: &Error);

    /// Ready when the owner has gone. Called while there is no connection.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether somebody waits for a connection, so that the pause ends.
    fn hurries(&self) -> bool {
        false
    }

    /// It is over, and this is why.
    fn failed(&mut self, error: Error);
}

/// The thread. Dropping it waits until the thread has said goodbye to the broker, 2 s at most: its role
/// must know by then that its owner has gone.
#[derive(Debug)]
pub(super) struct Keeper(Option<JoinHandle<()>>);

impl Keeper {
    /// Starts the thread with the first attempt to connect.
    pub(super) fn start(
        settings: Arc<Settings>,
        role: impl Role,
        clock: Clock,
        dice: Dice,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| cannot_start(&error))?;
        let keep = move || {
            let keeping = Keeping {
                settings,
                role,
                clock,
                dice,
                agreed: None,
                pause: BACKOFF.0,
                losses: Vec::new(),
            };
            runtime.block_on(keeping.run());
            // A name may still be looked up: nobody waits for it.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("wf-mqtt".to_owned());
        Ok(Self(Some(
            thread.spawn(keep).map_err(|error| cannot_start(&error))?,
        )))
    }
}

fn cannot_start(error: &std::io::Error) -> Error {
    Error::remote(format!("cannot start the thread of a connection: {error}"))
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic on the thread has been told by the process's hook.
            drop(thread.join());
        }
    }
}

/// How a connection ended.
enum End {
    /// The owner has gone: goodbye is to be said.
    Gone,
    Lost(Error, Again),
}

/// Whether a loss will repeat itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Networks fail, and heal.
    No,
    /// The broker hung up without a word: it ended, or let another client of our name in.
    Perhaps,
    /// It said why, or broke the rules: three times are enough.
    Likely,
}

fn lost(reason: &str, again: Again) -> End {
    let message = format!("the connection was lost: {reason}");
    End::Lost(Error::remote(message), again)
}

struct Keeping<R> {
    settings: Arc<Settings>,
    role: R,
    clock: Clock,
    dice: Dice,
    /// The version that the broker told us to speak.
    agreed: Option<Version>,
    pause: Duration,
    /// When connections were lost in a way that may repeat itself, and what that weighs.
    losses: Vec<(Instant, u32)>,
}

impl<R: Role> Keeping<R> {
    async fn run(mut self) {
        let mut away = false;
        loop {
            let mut since = self.clock.monotonic();
            let role = &mut self.role;
            let attempt = reach(&self.settings, &mut self.agreed, &self.clock);
            let attempt = tokio::select! {
                biased;
                () = poll_fn(|cx| role.poll_gone(cx)) => return,
                attempt = attempt => attempt,
            };
            let error = match attempt {
                Ok(connected) => {
                    if away {
                        tracing::info!(
                            broker = self.settings.broker(),
                            client_id = self.settings.client_id,
                            "mqtt: connected again"
                        );
                    }
                    let begun = self.clock.monotonic();
                    let mut link = connected.link;
                    let end = converse(
                        &mut link,
                        &connected.welcome,
                        connected.keep_alive,
                        &mut self.role,
                        &self.clock,
                    );
                    match end.await {
                        End::Gone => return link.finish(&self.clock, GOODBYE_WITHIN).await,
                        End::Lost(error, again) => {
                            since = self.clock.monotonic();
                            // A broker that lets another client of our name in finishes its packet; a line is
                            // cut where it is.
                            let again = match again {
                                Again::Perhaps if link.is_mid_packet() => Again::No,
                                again => again,
                            };
                            self.weigh(error, again, begun)
                        }
                    }
                }
                Err(error) => {
                    self.losses.clear();
                    error
                }
            };
            let error = self.settings.named(error);
            if !self.role.stands() || error.kind() != ErrorKind::Remote {
                return self.role.failed(error);
            }
            if !away {
                let client_id = &self.settings.client_id;
                tracing::warn!(client_id, "{error}; connecting again until it is back");
            }
            away = true;
            self.role.lost(&error);
            if self.pause(since).await.is_ready() {
                return;
            }
        }
    }

    /// What repeats itself is final when it has done so often enough.
    fn weigh(&mut self, error: Error, again: Again, begun: Instant) -> Error {
        let now = self.clock.monotonic();
        let proved = now.duration_since(begun) >= PROVED;
        if proved {
            self.pause = BACKOFF.0;
        }
        let weight = match again {
            Again::Likely => FINAL.0 / 3,
            Again::Perhaps if !proved => FINAL.0 / 6,
            Again::Perhaps | Again::No => return error,
        };
        self.losses
            .retain(|(moment, _)| now.duration_since(*moment) < FINAL.1);
        self.losses.push((now, weight));
        let sum: u32 = self.losses.iter().map(|(_, weight)| weight).sum();
        if sum < FINAL.0 || error.kind() != ErrorKind::Remote {
            return error;
        }
        let (times, seconds) = (self.losses.len(), FINAL.1.as_secs());
        let client_id = &self.settings.client_id;
        Error::config(match again {
            Again::Perhaps => format!(
                "{error}, {times} times within {seconds} s and each time soon after it had let us \
                 in: does another client use the same `client_id` (`{client_id}`)?"
            ),
            Again::Likely | Again::No => format!("{error} ({times} times within {seconds} s)"),
        })
    }

    /// Waits before the next attempt, half of it by chance; what the last one took (since then) is a part of it.
    /// Ready when the owner has gone.
    async fn pause(&mut self, since: Instant) -> Poll<()> {
        let half = self.pause / 2;
        let wait = half + self.dice.up_to(half);
        let wait = self.clock.sleep_until(since + wait);
        self.pause = (self.pause * 2).min(BACKOFF.1);
        let role = &mut self.role;
        tokio::select! {
            biased;
            gone = poll_fn(|cx| match role.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(Poll::Ready(())),
                Poll::Pending if role.hurries() => Poll::Ready(Poll::Pending),
                Poll::Pending => Poll::Pending,
            }) => gone,
            () = wait => Poll::Pending,
        }
    }
}

/// Connects in the version that is asked for; without one in 5, and in 3.1.1 where the broker
/// refuses that or hangs up on it.
async fn reach(
    settings: &Settings,
    agreed: &mut Option<Version>,
    clock: &Clock,
) -> Result<Connected> {
    let fixed = settings.version.or(*agreed);
    let version = fixed.unwrap_or(Version::V5);
    let said = match connect(settings, version, clock).await {
        Ok(connected) => return Ok(connected),
        Err(NoLink::Error(error)) => return Err(error),
        Err(NoLink::Version { said }) => said,
    };
    let hung_up = || Error::remote("hung up before it answered");
    if fixed.is_some() {
        let message = format!("does not speak MQTT {version}: take `version` out, or change it");
        return Err(if said {
            Error::config(message)
        } else {
            hung_up()
        });
    }
    match connect(settings, Version::V311, clock).await {
        Ok(connected) => {
            if said {
                *agreed = Some(Version::V311);
            }
            Ok(connected)
        }
        Err(NoLink::Error(error)) => Err(error),
        Err(NoLink::Version { said: true }) => {
            Err(Error::config("speaks neither MQTT 5 nor MQTT 3.1.1"))
        }
        Err(NoLink::Version { said: false }) => Err(hung_up()),
    }
}

/// Reads and writes until the connection or the owner is gone. Every half of the keep-alive time the broker is
/// asked whether it is there; the next time it must have said something.
async fn converse(
    link: &mut Link,
    welcome: &Welcome,
    keep_alive: Duration,
    role: &mut impl Role,
    clock: &Clock,
) -> End {
    let version = link.version();
    if let Err(error) = role.connected(welcome, version, &mut link.outbox) {
        return End::Lost(error, Again::No);
    }
    // What came right behind the broker's welcome.
    if let Some(end) = read(link, role) {
        return end;
    }
    let mut tick = pin!(clock.sleep(keep_alive / 2));
    // Whether the broker was heard since the last tick; a time in which we did not listen counts as well.
    let mut heard = true;
    let mut rest = Rest::default();
    poll_fn(|cx| {
        loop {
            let gone = role.poll_write(version, &mut link.outbox, cx).is_ready();
            match link.poll_flush(cx) {
                Poll::Ready(Ok(())) => role.flushed(),
                Poll::Ready(Err(error)) => return Poll::Ready(broken(&error)),
                Poll::Pending => {}
            }
            if gone {
                return Poll::Ready(End::Gone);
            }
            if tick.as_mut().poll(cx).is_ready() {
                if !heard {
                    return Poll::Ready(lost("no answer to a ping", Again::No));
                }
                heard = false;
                write_ping(&mut link.outbox);
                tick.set(clock.sleep(keep_alive / 2));
                continue;
            }
            if !role.may_read() {
                heard = true;
                return Poll::Pending;
            }
            if role.may_rest()
                && !link.is_mid_packet()
                && let Some(rest) = rest.due(clock.monotonic())
            {
                clock.hold(rest);
            }
            match link.poll_fill(cx) {
                Poll::Pending => {
                    rest.waits();
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(broken(&error)),
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(lost("the broker hung up", Again::Perhaps));
                }
                Poll::Ready(Ok(_)) => heard = true,
            }
            rest.has_read(clock.monotonic());
            if let Some(end) = read(link, role) {
                return Poll::Ready(end);
            }
        }
    })
    .await
}

/// Reads all packets that have arrived.
fn read(link: &mut Link, role: &mut impl Role) -> Option<End> {
    let end = loop {
        match link.packet() {
            Ok(None) => break None,
            Ok(Some(Packet::Bye(Bye {
                kind,
                reason,
                repeats,
            }))) => {
                let error = Error::new(kind, format!("ended the connection: {reason}"));
                let again = if repeats { Again::Likely } else { Again::No };
                break Some(End::Lost(error, again));
            }
            Ok(Some(packet)) => {
                if let Err(error) = role.read(packet) {
                    break Some(End::Lost(error, Again::Likely));
                }
            }
            Err(Garbled(reason)) => {
                let error = Error::remote(format!("broke the rules of MQTT: {reason}"));
                break Some(End::Lost(error, Again::Likely));
            }
        }
    };
    role.read_all();
    end
}

fn broken(error: &std::io::Error) -> End {
    let again = match error.kind() {
        ErrorKindOfIo::ConnectionReset
        | ErrorKindOfIo::BrokenPipe
        | ErrorKindOfIo::UnexpectedEof => Again::Perhaps,
        _ => Again::No,
    };
    End::Lost(tls::failure(error), again)
}

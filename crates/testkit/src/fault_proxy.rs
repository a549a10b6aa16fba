//! A TCP proxy that harms what passes through it, as told while it runs.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::{Notify, oneshot, watch},
    time::{sleep, timeout},
};

use crate::wait::holds_within;

/// The most bytes that are taken at a time.
const PIECE: usize = 16 * 1024;
/// How often a throttled lane passes something on in a second.
const SIPS: usize = 20;
/// How long the peer may take to accept.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What happens to the bytes of one way. Offsets count what goes this way, over all connections, from the moment at
/// which the fault is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: all goes through.
    None,
    /// Each piece waits so long before it goes on.
    Delay(Duration),
    /// At most so many bytes a second.
    Throttle(usize),
    /// Nothing goes on, and nothing is closed: a peer behind a broken line. What was held goes on when the fault is
    /// lifted.
    Silence,
    /// The connection ends, without a farewell, after so many bytes. It happens once: the next connection works.
    CutAfter(u64),
    /// One bit of the byte at this offset is turned. It happens once.
    Corrupt(u64),
}

/// The proxy, on a free port of 127.0.0.1. Dropping it closes the port and all connections.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    peer: SocketAddr,
    to_peer: Lane,
    to_client: Lane,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Counts the calls of `cut`.
    cuts: watch::Sender<usize>,
}

/// One way through the proxy.
#[derive(Debug)]
struct Lane {
    state: Mutex<(Fault, u64)>,
    passed: AtomicUsize,
    changed: Notify,
}

impl FaultProxy {
    /// Stands before a peer; harmless until a fault is set.
    #[track_caller]
    pub fn start(peer: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            peer,
            to_peer: Lane::new(),
            to_client: Lane::new(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            cuts: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, shared) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self {
            port,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Before a port of this machine.
    #[track_caller]
    pub fn before(port: u16) -> Self {
        Self::start((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port alone.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Harms what goes from the client to the peer, from now on, in place of what was set before.
    pub fn to_peer(&self, fault: Fault) {
        self.shared.to_peer.set(fault);
    }

    /// Harms what goes from the peer to the client.
    pub fn to_client(&self, fault: Fault) {
        self.shared.to_client.set(fault);
    }

    /// Both ways at once.
    pub fn both(&self, fault: Fault) {
        self.to_peer(fault);
        self.to_client(fault);
    }

    /// Ends all connections now; new ones are taken.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many connections have come until now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many bytes have gone to the peer and to the client until now.
    pub fn passed(&self) -> (usize, usize) {
        let of = |lane: &Lane| lane.passed.load(Ordering::SeqCst);
        (of(&self.shared.to_peer), of(&self.shared.to_client))
    }

    /// Waits until the fault that happens once has happened, on either way; panics at the deadline.
    #[track_caller]
    pub fn wait_until_spent(&self, deadline: Duration) {
        let spent = |lane: &Lane| lane.lock().0 == Fault::None;
        let both = || spent(&self.shared.to_peer) && spent(&self.shared.to_client);
        assert!(
            holds_within(deadline, both),
            "the fault did not happen within {deadline:?}: {self:?}"
        );
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // How a connection ends is the client's and the peer's affair.
            drop(join(client, &shared).await);
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn join(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut cuts = shared.cuts.subscribe();
    let peer = timeout(CONNECT_WITHIN, TcpStream::connect(shared.peer)).await??;
    client.set_nodelay(true)?;
    peer.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_peer, to_peer) = peer.into_split();
    let both = async {
        tokio::try_join!(
            shared.to_peer.carry(from_client, to_peer),
            shared.to_client.carry(from_peer, to_client),
        )
    };
    tokio::select! {
        ended = both => ended.map(drop),
        _ = cuts.changed() => Ok(()),
    }
}

/// What a lane does with the bytes at hand.
enum Step {
    /// Waits for another fault.
    Hold,
    /// Passes the first bytes on after a wait.
    Pass(usize, Duration),
    /// Passes the first bytes on and ends the connection.
    Cut(usize),
}

impl Lane {
    fn new() -> Self {
        Self {
            state: Mutex::new((Fault::None, 0)),
            passed: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Fault, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fault: Fault) {
        *self.lock() = (fault, 0);
        self.changed.notify_waiters();
    }

    /// Carries bytes until one side ends; an error ends the connection.
    async fn carry(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from.read(&mut piece).await?;
            let mut rest = &mut piece[..length];
            while !rest.is_empty() {
                // Made before the look, so that no change is missed between the two.
                let changed = self.changed.notified();
                let count = match self.step(rest) {
                    Step::Hold => {
                        changed.await;
                        continue;
                    }
                    Step::Cut(count) => {
                        to.write_all(&rest[..count]).await?;
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    Step::Pass(count, wait) => {
                        // Sleeping for no time takes a tick of the timer all the same.
                        if !wait.is_zero() {
                            sleep(wait).await;
                        }
                        count
                    }
                };
                to.write_all(&rest[..count]).await?;
                self.passed.fetch_add(count, Ordering::SeqCst);
                rest = &mut rest[count..];
            }
            if length == 0 {
                return to.shutdown().await;
            }
        }
    }

    fn step(&self, bytes: &mut [u8]) -> Step {
        let mut state = self.lock();
        let (fault, seen) = *state;
        let all = bytes.len();
        let step = match fault {
            Fault::None => Step::Pass(all, Duration::ZERO),
            Fault::Delay(wait) => Step::Pass(all, wait),
            Fault::Throttle(rate) => {
                let sip = (rate / SIPS).clamp(1, all);
                let wait = Duration::from_secs_f64(sip as f64 / rate.max(1) as f64);
                Step::Pass(sip, wait)
            }
            Fault::Silence => Step::Hold,
            Fault::CutAfter(offset) if offset - seen <= all as u64 => {
                state.0 = Fault::None;
                Step::Cut((offset - seen) as usize)
            }
            Fault::Corrupt(offset) if offset - seen < all as u64 => {
                bytes[(offset - seen) as usize] ^= 1;
                state.0 = Fault::None;
                Step::Pass(all, Duration::ZERO)
            }
            Fault::CutAfter(_) | Fault::Corrupt(_) => Step::Pass(all, Duration::ZERO),
        };
        if let Step::Pass(count, _) = step {
            state.1 += count as u64;
        }
        step
    }
}

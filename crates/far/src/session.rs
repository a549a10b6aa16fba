//! A stage at another machine that outlives its connection for a while, and the bridge from a connection to it.
//!
//! A bridge is what `ssh` starts: it hands its standard streams to a session, by the session's socket, and waits until
//! they are not used any more. It starts the session first where it is asked to. The session ends when its host says so, or when nobody has come back within its lease;
//! with it ends all that its stage has started.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::pack::make;
use wiredflow_engine::tasks::Tasks;

use crate::cache::Cache;
use crate::handover::{hand_over, take_over};
use crate::relay::{Carried, Relay, Token};
use crate::serve::{Surroundings, serve};
use crate::stdio::{Reader, Streams, Writer};

/// How long a session lives without a connection.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long a session may take to be there.
const START: Duration = Duration::from_secs(20);

/// How long a bridge may take to hand its streams over.
const HANDOVER: Duration = Duration::from_secs(2);

/// What is between a session's relay and its stage, in bytes.
const PIPE: usize = 256 << 10;

/// The longest setup, in bytes.
const LONGEST: usize = 1 << 20;

/// What a session must know that is not for the process list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The stream's token, in hexadecimal digits.
    pub token: String,
    /// The hash of the flow's code.
    pub code: String,
    /// The virtual environment whose Python is taken, if there is one.
    pub venv: Option<String>,
    /// What the process list shows.
    pub label: String,
    /// Variables for the stage's functions.
    pub env: BTreeMap<String, String>,
    /// How long it lives without a connection, in milliseconds.
    pub lease: u64,
}

impl Setup {
    /// As it travels: its length and its words.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let mut bytes = u32::try_from(text.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
            .to_vec();
        bytes.extend(text);
        Ok(bytes)
    }
}

/// Reads what stands before a stream: a length and that many bytes of JSON.
///
/// # Errors
/// Where it is none, or the stream ends.
pub async fn read_first<T: serde::de::DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let length = input.read_u32().await? as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

/// How a bridge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridged {
    /// One of its sides has closed.
    Closed,
    /// There is no such session any more.
    Gone,
}

/// Hands a pair of streams to a session, and waits until it has done with them; `new` starts it first, by the setup that the input begins with.
///
/// # Errors
/// Where a new session cannot be started: its words say why.
pub async fn bridge(
    id: &str,
    new: bool,
    streams: Streams,
    cache: &Cache,
    clock: &Clock,
) -> io::Result<Bridged> {
    let folder = cache.session(checked(id)?);
    if new {
        // Unbuffered, so that what follows is there for the session.
        let (mut input, _) = streams.try_clone()?.open()?;
        let setup: Setup = read_first(&mut input).await?;
        cache.clean(clock);
        start(&folder, id, &setup, (cache, clock)).await?;
    }
    let Ok(mut socket) = UnixStream::connect(folder.join("socket")).await else {
        return Ok(Bridged::Gone);
    };
    if hand_over(&socket, streams).await.is_ok() {
        // The session holds the socket for as long as it has the streams, and says nothing.
        drop(socket.read(&mut [0]).await);
    }
    Ok(Bridged::Closed)
}

/// A name of a session is a file's name, and no path.
fn checked(id: &str) -> io::Result<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    match (1..=64).contains(&id.len()) && id.bytes().all(plain) {
        true => Ok(id),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "that is no name of a session",
        )),
    }
}

/// Starts a session and waits until it listens.
async fn start(
    folder: &Path,
    id: &str,
    setup: &Setup,
    (cache, clock): (&Cache, &Clock),
) -> io::Result<()> {
    make(folder)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.envs(&setup.env);
    if let Some(venv) = &setup.venv {
        let python = cache.venv(checked(venv)?).join("bin/python");
        command.env("WIREDFLOW_PYTHON", python);
    }
    let mut child = command
        .args(["worker", "--session", id, "--label", &setup.label])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("a child without its streams"));
    };
    stdin.write_all(&setup.to_bytes()?).await?;
    drop(stdin);
    let mut word = [0; 6];
    let ready = tokio::select! {
        read = stdout.read_exact(&mut word) => read.is_ok() && &word == b"ready\n",
        () = clock.sleep(START) => false,
    };
    if ready {
        return Ok(());
    }
    drop(child.start_kill());
    let mut said = String::new();
    // What it said is for people; without it the reason stays unknown.
    drop(stderr.read_to_string(&mut said).await);
    let said = said.trim();
    Err(io::Error::other(match said.is_empty() {
        true => "it did not start".to_owned(),
        false => said.to_owned(),
    }))
}

/// What a session has before it listens.
#[derive(Debug)]
pub struct Session {
    folder: PathBuf,
    listener: UnixListener,
    setup: Setup,
    prints: pipe::Receiver,
}

impl Session {
    /// Reads its setup from standard input, listens, and says so; from then on it has no streams in common with the
    /// process that has started it. To be called inside a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn prepare(id: &str, cache: &Cache) -> io::Result<Self> {
        // A session of the system's too: the end of the connection that has started it is none for it.
        rustix::process::setsid()?;
        let mut input = tokio::io::stdin();
        let setup: Setup = read_first(&mut input).await?;
        let folder = cache.session(checked(id)?);
        make(&folder)?;
        let listener = UnixListener::bind(folder.join("socket"))?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let prints = pipe::Receiver::from_owned_fd(read)?;
        let mut output = tokio::io::stdout();
        output.write_all(b"ready\n").await?;
        output.flush().await?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        rustix::stdio::dup2_stdout(&write)?;
        rustix::stdio::dup2_stderr(&write)?;
        Ok(Self {
            folder,
            listener,
            setup,
            prints,
        })
    }

    /// Serves its host over one connection after the other, until that ends it or the lease does.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn run(self, functions: Functions, cache: &Cache, clock: &Clock) -> io::Result<()> {
        let code = cache.code(checked(&self.setup.code)?);
        Cache::touch(&code, clock);
        let surroundings = Surroundings {
            functions,
            folder: Some(code),
            clock: clock.clone(),
            prints: Some(self.prints),
        };
        let (near, far) = tokio::io::duplex(PIPE);
        let (mut input, mut output) = tokio::io::split(near);
        let (reader, writer) = tokio::io::split(far);
        let tasks = Tasks::default();
        tasks.spawn("session", async move {
            if let Err(error) = serve(reader, writer, surroundings).await {
                tracing::error!("{error}");
            }
        });
        let relay = Relay::new(token(&self.setup.token)?, clock.clone());
        let lease = Duration::from_millis(self.setup.lease);
        let mut connection = None;
        loop {
            let Some(Connection {
                reader,
                writer,
                bridge: _bridge,
            }) = connection.take()
            else {
                tokio::select! {
                    next = next_connection(&self.listener, clock) => connection = Some(next),
                    () = clock.sleep(lease) => break,
                }
                continue;
            };
            tokio::select! {
                carried = relay.carry(&mut input, &mut output, reader, writer) => match carried {
                    Carried::Over => break,
                    Carried::Broken(_) => {}
                },
                // The host has come back before it was known that it was away.
                next = next_connection(&self.listener, clock) => connection = Some(next),
            }
        }
        drop((input, output));
        // Nobody comes back: the name goes first, so that the answer is `gone` while the rest ends.
        drop(std::fs::remove_dir_all(&self.folder));
        tokio::select! {
            () = tasks.finished() => {}
            () = clock.sleep(Duration::from_secs(8)) => {}
        }
        // What the stage has started and left in this group ends with it.
        rustix::process::kill_current_process_group(Signal::KILL)?;
        Ok(())
    }
}

/// A connection to the host, by a bridge.
struct Connection {
    reader: Reader,
    writer: Writer,
    /// Tells the bridge by its end that the streams are not used any more.
    bridge: UnixStream,
}

/// The next connection. A bridge that has gone before it had handed anything over is none.
async fn next_connection(listener: &UnixListener, clock: &Clock) -> Connection {
    loop {
        match accept(listener, clock).await {
            Ok(connection) => return connection,
            // Without a pause a system that is short of descriptors would be asked without end.
            Err(_) => clock.sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn accept(listener: &UnixListener, clock: &Clock) -> io::Result<Connection> {
    let (bridge, _) = listener.accept().await?;
    let streams = tokio::select! {
        streams = take_over(&bridge) => streams?,
        () = clock.sleep(HANDOVER) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let (reader, writer) = streams.open()?;
    Ok(Connection {
        reader,
        writer,
        bridge,
    })
}

fn token(text: &str) -> io::Result<Token> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "that is no token");
    let mut token = Token::default();
    if text.len() != 2 * token.len() || !text.is_ascii() {
        return Err(odd());
    }
    for (index, byte) in token.iter_mut().enumerate() {
        let digits = &text[2 * index..2 * index + 2];
        *byte = u8::from_str_radix(digits, 16).map_err(|_| odd())?;
    }
    Ok(token)
}

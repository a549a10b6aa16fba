//! The server's thread: reads requests, answers as the scripts say.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    runtime,
    sync::oneshot,
    time::sleep,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::{Reply, Request, Shared, reply::Body};
use crate::{Identity, wait::holds_within};

/// The longest head of a request that is read.
const LONGEST_HEAD: usize = 1024 * 1024;
/// How long a port may take to become free again.
const PORT_WITHIN: Duration = Duration::from_secs(5);

/// The running server. Dropping it closes the port and all connections.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Listens on the port of 127.0.0.1, 0 being any free one; returns the port.
    #[track_caller]
    pub(crate) fn start(port: u16, tls: Option<&Identity>, shared: Arc<Shared>) -> (Self, u16) {
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        holds_within(PORT_WITHIN, || {
            if listener.is_err() {
                listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
            }
            listener.is_ok()
        });
        let listener = listener.expect("the port can be bound");
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(acceptor);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, acceptor, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        (
            Self {
                stop: Some(stop),
                thread: Some(thread),
            },
            port,
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn acceptor(identity: &Identity) -> TlsAcceptor {
    let certificate = fs::read(&identity.certificate).unwrap();
    let key = fs::read(&identity.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&certificate).unwrap()],
            PrivateKeyDer::from_pem_slice(&key).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        drop(stream.set_nodelay(true));
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let number = shared.connected();
            // A client that goes away in the middle is its own affair.
            drop(match acceptor {
                None => converse(stream, number, &shared).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => converse(stream, number, &shared).await,
                    Err(error) => Err(error),
                },
            });
        });
    }
}

/// Answers the requests of one connection until it is closed.
async fn converse<S>(mut stream: S, number: usize, shared: &Shared) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut input, number).await? {
        let head_only = request.method == "HEAD";
        let reply = shared.asked(request);
        let answered = Answered(shared);
        let more = write_reply(&mut stream, reply, head_only).await;
        drop(answered);
        if !more? {
            break;
        }
    }
    stream.shutdown().await
}

/// Counts the end of an answer, also when the connection is cut.
struct Answered<'a>(&'a Shared);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The next request; None when the client has closed the connection.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut Vec<u8>,
    connection: usize,
) -> io::Result<Option<Request>> {
    let (mut request, head_length) = loop {
        if let Some(found) = parse_head(input, connection)? {
            break found;
        }
        if input.len() > LONGEST_HEAD {
            return Err(io::Error::other("the head of the request does not end"));
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    };
    input.drain(..head_length);
    if request
        .header("transfer-encoding")
        .is_some_and(|coding| coding.contains("chunked"))
    {
        request.body = read_chunks(stream, input).await?;
    } else {
        let length = request.header("content-length").map_or(Ok(0), str::parse);
        let length = length.map_err(io::Error::other)?;
        fill(stream, input, length).await?;
        request.body = input.drain(..length).collect();
    }
    request.at = Instant::now();
    Ok(Some(request))
}

fn parse_head(input: &[u8], connection: usize) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(input).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let target = head.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |header: &httparse::Header<'_>| {
        (
            header.name.to_lowercase(),
            String::from_utf8_lossy(header.value).into_owned(),
        )
    };
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: head.headers.iter().map(header).collect(),
        body: Vec::new(),
        at: Instant::now(),
        connection,
    };
    Ok(Some((request, length)))
}

async fn read_chunks<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut Vec<u8>,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (start, size) = loop {
            match httparse::parse_chunk_size(input) {
                Ok(httparse::Status::Complete(found)) => break found,
                Ok(httparse::Status::Partial) => fill(stream, input, input.len() + 1).await?,
                Err(_) => return Err(io::Error::other("a broken chunk")),
            }
        };
        let size = usize::try_from(size).map_err(io::Error::other)?;
        fill(stream, input, start + size + 2).await?;
        body.extend(&input[start..start + size]);
        input.drain(..start + size + 2);
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Reads until the input holds so many bytes.
async fn fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut Vec<u8>,
    length: usize,
) -> io::Result<()> {
    while input.len() < length {
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Sends the reply; says whether the connection may be used again.
async fn write_reply<S>(stream: &mut S, reply: Reply, head_only: bool) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    sleep(reply.delay).await;
    let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let with_length = |length: usize| format!("{head}content-length: {length}\r\n\r\n");
    match &reply.body {
        Body::Whole(body) => {
            let mut all = with_length(body.len()).into_bytes();
            if !head_only {
                all.extend(body);
            }
            stream.write_all(&all).await?;
            stream.flush().await?;
            Ok(true)
        }
        Body::Drip(body, pause) => {
            stream.write_all(with_length(body.len()).as_bytes()).await?;
            for byte in body {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                sleep(*pause).await;
            }
            Ok(true)
        }
        Body::Truncated(body, missing) => {
            let sent = body.len().saturating_sub(*missing);
            stream.write_all(with_length(body.len()).as_bytes()).await?;
            stream.write_all(&body[..sent]).await?;
            stream.flush().await?;
            Ok(false)
        }
        Body::Repeated {
            head: first,
            piece,
            times,
            tail,
        } => {
            head.push_str("transfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            write_chunk(stream, first).await?;
            let mut sent = 0;
            while times.is_none_or(|times| sent < times) {
                write_chunk(stream, piece).await?;
                sent += 1;
            }
            write_chunk(stream, tail).await?;
            stream.write_all(b"0\r\n\r\n").await?;
            stream.flush().await?;
            Ok(true)
        }
        Body::HeaderFlood(count) => {
            stream.write_all(head.as_bytes()).await?;
            let mut sent = 0;
            while count.is_none_or(|count| sent < count) {
                let line = format!("x-flood-{sent}: {}\r\n", "x".repeat(80));
                stream.write_all(line.as_bytes()).await?;
                sent += 1;
            }
            stream.write_all(b"content-length: 0\r\n\r\n").await?;
            stream.flush().await?;
            Ok(true)
        }
        Body::Never => {
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {} // until the client gives up
            Ok(false)
        }
        Body::HangUp => Ok(false),
        Body::Raw(bytes) => {
            stream.write_all(bytes).await?;
            stream.flush().await?;
            Ok(false)
        }
    }
}

async fn write_chunk<S: AsyncWrite + Unpin>(stream: &mut S, piece: &[u8]) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(()); // an empty chunk would be the end
    }
    stream
        .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
        .await?;
    stream.write_all(piece).await?;
    stream.write_all(b"\r\n").await
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 | 302 | 303 | 307 | 308 => "Redirect",
        304 => "Not Modified",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

//! Standard input and output taken away from those who print, as the frames' own.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;

use rustix::fs::FileType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// The streams that were this process's standard input and output.
#[derive(Debug)]
pub struct Streams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
}

impl Streams {
    /// Takes them: what is printed from now on goes to standard error, and who reads finds nothing.
    ///
    /// # Errors
    /// Those of the system.
    pub fn take() -> io::Result<Self> {
        let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(Self { input, output })
    }

    /// The same streams once more.
    ///
    /// # Errors
    /// Those of the system.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            input: self.input.try_clone()?,
            output: self.output.try_clone()?,
        })
    }

    /// As streams of the runtime, which must be entered.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(self) -> io::Result<(Reader, Writer)> {
        let input: Reader = match kind(&self.input)? {
            FileType::Fifo => Box::new(pipe::Receiver::from_owned_fd(self.input)?),
            FileType::Socket => Box::new(socket(self.input)?),
            _ => Box::new(tokio::fs::File::from_std(File::from(self.input))),
        };
        let output: Writer = match kind(&self.output)? {
            FileType::Fifo => Box::new(pipe::Sender::from_owned_fd(self.output)?),
            FileType::Socket => Box::new(socket(self.output)?),
            _ => Box::new(tokio::fs::File::from_std(File::from(self.output))),
        };
        Ok((input, output))
    }
}

/// What is read.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// What is written.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

fn kind(stream: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode))
}

fn socket(stream: OwnedFd) -> io::Result<UnixStream> {
    let socket = Socket::from(stream);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

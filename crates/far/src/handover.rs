//! A pair of streams handed from one process to another: whoever stood between them copies no bytes any more.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::stdio::Streams;

/// A socket hands over descriptors beside bytes: this is the byte.
const BYTE: [u8; 1] = [1];

/// Hands the streams to the process at the other end of the socket; this one has them no more.
///
/// # Errors
/// Those of the system; `BrokenPipe` where nobody is there any more.
pub(crate) async fn hand_over(socket: &UnixStream, streams: Streams) -> io::Result<()> {
    let descriptors = [streams.input.as_fd(), streams.output.as_fd()];
    socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("no room for two descriptors"));
            }
            sendmsg(
                socket,
                &[IoSlice::new(&BYTE)],
                &mut beside,
                SendFlags::NOSIGNAL,
            )?;
            Ok(())
        })
        .await
}

/// The streams that the process at the other end hands over.
///
/// # Errors
/// Those of the system; `InvalidData` where something else comes.
pub(crate) async fn take_over(socket: &UnixStream) -> io::Result<Streams> {
    socket
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut byte)],
                &mut beside,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let mut descriptors = beside.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            });
            match (descriptors.next(), descriptors.next()) {
                (Some(input), Some(output)) => Ok(Streams { input, output }),
                _ => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no streams were handed over",
                )),
            }
        })
        .await
}

//! Receivers outside: the catalogue of `send`, and the contract of a sender.

mod http;
mod mqtt;

use std::future::Future;

use bytes::Bytes;
use wiredflow_core::Result;
use wiredflow_core::stage::{BoxFuture, Cx};
use wiredflow_core::storage::CommitReceipt;

use crate::catalogue::SenderEntry;

/// All receivers that `send` knows.
pub const SENDERS: &[SenderEntry] = &[
    SenderEntry::of::<http::HttpPost>(),
    SenderEntry::of::<http::HttpPut>(),
    SenderEntry::of::<mqtt::MqttSender>(),
];

/// One thing to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The record it was made from: its index in the batch.
    pub record: usize,
    /// The bytes.
    pub body: Bytes,
    /// Whether the body is JSON; else it is a bare text.
    pub json: bool,
}

/// Delivers to a peer. See [`Stage`](wiredflow_core::stage::Stage) for what it must not do.
pub trait Sender: Send + Sync + 'static {
    /// Sends all messages in order and returns when the peer has confirmed them. A message that the
    /// peer will never take is `Error::data(…).at_record(message.record)`, and then none after it was sent; those before it may have been.
    fn send(
        &self,
        messages: &[Message],
        cx: &Cx,
    ) -> impl Future<Output = Result<CommitReceipt>> + Send;
}

/// A sender of any type.
pub trait AnySender: Send + Sync + 'static {
    /// See [`Sender::send`].
    fn send_boxed<'a>(
        &'a self,
        messages: &'a [Message],
        cx: &'a Cx,
    ) -> BoxFuture<'a, Result<CommitReceipt>>;
}

impl<S: Sender> AnySender for S {
    fn send_boxed<'a>(
        &'a self,
        messages: &'a [Message],
        cx: &'a Cx,
    ) -> BoxFuture<'a, Result<CommitReceipt>> {
        Box::pin(self.send(messages, cx))
    }
}

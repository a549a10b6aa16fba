//! MQTT: the connections of the source and the sender.
//!
//! ```text
//! broker ══ link ══ keeper's thread ── role: subscriber ── intake ── source `mqtt` ── flow
//!                                      role: publisher  ── queue ─── sender `mqtt` ── flow
//! ```
//!
//! A connection has a thread of its own with a runtime that does nothing else: reading, writing
//! and waking stay on one core. Packets are those of the crates for either version; the loop around them is our
//! own, because it must do what theirs cannot: write all acknowledgements at once, go on
//! acknowledging and answering while the flow is behind and nothing more is read, take a message of
//! any size without losing the connection over it, and say goodbye only when the broker has read the last
//! acknowledgement.
//!
//! This is the one place where a component connects again by itself: a persistent session lives
//! across connections, and only who holds it knows what it holds. It gives up, with an error of
//! kind `Config`, where trying again cannot help: refused credentials, certificates or
//! subscriptions, and a broker that ends the connection again and again for the same reason.
//!
//! What a flow can rely on at QoS 1: a message is acknowledged after the flow has settled it, in the order of
//! arrival, and never by an id of an earlier connection. What was not acknowledged comes again
//! when the session is resumed; the flow does not get it twice while it still has it.
//!
//! The broker's side of it: it keeps what comes while we are away, or slow, only up to its own
//! limit (mosquitto: 1000 messages, `max_queued_messages`) and drops what is more without a word;
//! it drops what is larger than 1 MiB on MQTT 5, because we say so, and sends it on 3.1.1, where it
//! becomes a dead letter without its payload.
//!
//! At QoS 0 many messages a second are read together, every two milliseconds ([`rest`]): a broker
//! sends each by itself, and to be woken for each costs more than all else that is done with it.
//!
//! QoS 2 is QoS 1 with one step more ([`two_steps`]): what was acknowledged does not come again, not even when the
//! acknowledgement was lost with its connection.

pub(crate) mod access;
mod client_id;
mod intake;
mod keeper;
mod link;
mod packet_ids;
mod packets;
pub(crate) mod publisher;
mod rest;
pub(crate) mod subscriber;
pub(crate) mod tls;
mod two_steps;
mod window;

pub(crate) use packets::Version;

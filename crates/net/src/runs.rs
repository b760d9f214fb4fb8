//! How devices that take part in a training run talk to each other (ALPN `hearth/run/1`; spec: runs, sections 10 to 12).
//!
//! ```text
//! dials                                  is dialed
//! proof(hello, dials, is dialed)  ---->
//!                                 <----  proof(reply, is dialed, dials)
//!                    (length, message)* <---> (length, message)*
//! ```
//! Small signed notices reach every participant of a topic, from neighbor to neighbor; files are fetched by their
//! hashes. A proof is BLAKE3 over a domain, the network's topic and the ids of both sides, as for offers: any device of
//! the network may take part, and no other. A length is a little-endian `u32`, a message postcard ([`message`]).
//!
//! What is taken, kept, passed on and asked for is decided by [`bus`], a machine without clock or I/O, and who is dialed
//! when by [`dialer`]; [`driver`], [`line`] and [`seeking`] have the clock, the key and the connections.
//!
//! Deliberately absent: what a notice says, and who should be believed. Those who take part decide that.

mod bus;
mod dialer;
pub(crate) mod driver;
pub(crate) mod line;
mod link;
mod message;
mod notice;
pub(crate) mod seeking;
mod shelf;
mod topic;
mod wanted;

pub use message::{
    RUN_MESSAGE_BYTES_MAX, RunMessage, RunMessageError, decode_run_message, encode_run_message,
    run_message_length,
};
pub use notice::{Notice, Place, TopicId};
pub use topic::{Heard, SayError, TakePartError, Topic};

/// The protocol's name on the wire.
pub const RUN_ALPN: &[u8] = b"hearth/run/1";

//! The peer-to-peer network: answer streams, offers, tickets, files, notices of training runs, relays.
//!
//! Everything is reached through [`Network`]. Underneath is one iroh endpoint with the device's
//! Ed25519 key, so every connection is encrypted and authenticated, whether it is direct or goes
//! through a relay. All of it works on loopback and on a local network without the internet; what
//! reaches further (relays, DNS, the DHT) is contacted only where the options name it.
//!
//! What strangers send is read by [`codec`], which is pure, and the offers that stand are kept by
//! [`offers::Table`], which is a machine without clock or I/O. Every bound is in [`limits`].
//!
//! Deliberately absent: what frames mean, prices, payments, models. This crate moves what
//! `protocol` defines, and knows neither the chain nor the engines.
//!
//! Implements sections 7 and 8 of the answers' specification, section 4 of the household's, section 13 of the
//! embedded chain's, and sections 10 to 12 of the runs'.

mod admission;
mod answers;
mod chain;
pub mod codec;
mod desk;
mod dialing;
mod endpoint;
mod entrance;
mod files;
mod gate;
mod household;
pub mod limits;
mod liveness;
mod network;
pub mod offers;
mod opening;
mod options;
mod origin;
mod peers;
mod ports;
mod relay;
mod runs;
mod stream;
mod ticket;

pub use answers::{ANSWER_ALPN, ConnectError, IncomingAnswer};
pub use chain::{AnswersChain, CHAIN_ALPN, ChainAskError};
pub use desk::AnswersHousehold;
pub use endpoint::device_of_key;
pub use files::{FetchError, ProviderError, ShareError, SharedFile};
pub use household::{
    HOUSEHOLD_ALPN, HouseholdAskError, HouseholdMessage, HouseholdMessageError, decode_household,
    encode_household, household_length,
};
pub use liveness::Liveness;
pub use network::{IncomingAnswers, JoinError, Network, OfferChanges};
pub use offers::OfferChange;
pub use offers::exchange::{ExchangeError, OFFERS_ALPN};
pub use opening::OpenError;
pub use options::{Membership, NetworkOptions, Patience, Reach};
pub use origin::Origin;
pub use peers::{PeerAddress, PeersError};
pub use relay::{Relay, RelayCertificate, RelayError, RelayOptions};
pub use runs::{
    Heard, Notice, Place, RUN_ALPN, RUN_MESSAGE_BYTES_MAX, RunMessage, RunMessageError, SayError,
    TakePartError, Topic, TopicId, decode_run_message, encode_run_message, run_message_length,
};
pub use stream::{
    AnswerStream, EndReason, FrameReceiver, FrameSender, PayerStream, ProviderStream, RecvError,
    SendError,
};
pub use ticket::{Ticket, TicketError};

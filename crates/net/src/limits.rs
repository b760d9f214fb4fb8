//! Every bound of the network, in one place.
//!
//! Each is a constant because none is a matter of taste: a household that raised one would only
//! find out that the other side keeps it. What a household may choose is in
//! [`NetworkOptions`](crate::NetworkOptions).

use std::time::Duration;

/// Connections that may be open at once, over all devices and protocols.
pub const CONNECTIONS_MAX: usize =
    HOUSEHOLD_CONNECTIONS_MAX + DIALED_CONNECTIONS_MAX + STRANGER_CONNECTIONS_MAX;
/// Connections with the household's devices: four for each, from either side.
pub const HOUSEHOLD_CONNECTIONS_MAX: usize = 256;
/// Connections with strangers that this device dialed: those that are kept for questions and for runs, and some
/// for neighbours, exchanges and files.
pub const DIALED_CONNECTIONS_MAX: usize = KEPT_CONNECTIONS_MAX + RUN_LINKS_MAX + 64;
/// Connections that strangers dialed.
pub const STRANGER_CONNECTIONS_MAX: usize = 256;
/// Connections that one device may have open at once, over all protocols.
pub const DEVICE_CONNECTIONS_MAX: usize = 8;
/// Connections that strangers at one IPv4 address, or in one /64 of IPv6, may have open at once.
pub const MACHINE_CONNECTIONS_MAX: usize = 64;
/// Connections that strangers in one /24 of IPv4 or one /48 of IPv6, or behind one relay, may have
/// open at once.
pub const SITE_CONNECTIONS_MAX: usize = 128;
/// Connections of one site that are not taken from it for a newcomer from elsewhere.
pub const FAIR_SHARE: usize = 8;
/// How long a connection may carry nothing on its streams before it gives way to a newcomer, where
/// there is no room else.
pub const IDLE_GIVES_WAY: Duration = Duration::from_secs(20);
/// How often it is looked which connections are used.
pub const IDLE_SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// Handshakes of others that are under way at once.
pub const HALF_OPEN_MAX: usize = 128;
/// Handshakes that are under way at once from one /24 of IPv4 or /48 of IPv6, or through one relay.
pub const HALF_OPEN_SITE_MAX: usize = 64;
/// With so many handshakes under way, a peer that begins another must first show that it gets what is sent to its
/// address.
pub const HALF_OPEN_UNPROVEN_MAX: usize = 32;
/// How long an honest handshake takes at most; one that takes longer gives way.
pub const HALF_OPEN_GRACE: Duration = Duration::from_secs(1);
/// How long a handshake may take.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Answer streams that one connection may have open at once.
pub const CONNECTION_STREAMS_MAX: u32 = 32;
/// Answer streams that wait for the node to take them; one more is refused as busy.
pub const INCOMING_ANSWERS_MAX: usize = 256;
/// Connections to providers that are kept for the next question.
pub const KEPT_CONNECTIONS_MAX: usize = 128;
/// How long a connection to a provider is kept without a question on it.
pub const KEPT_CONNECTION_IDLE: Duration = Duration::from_secs(120);

/// How long a connection may take to be established.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(8);
/// How often a connection shows that it is alive.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How long a connection may be silent before it counts as broken.
pub const CONNECTION_SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often a connection to a provider shows that it is alive, so that its end is noticed soon.
pub const ANSWER_KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(300);
/// How long nothing at all may come from a provider's device before it counts as gone: two signs of
/// life and their answers may be lost one after the other.
pub const PROVIDER_SILENCE_MAX: Duration = Duration::from_millis(1_200);
/// How long a frame may take to arrive once its first byte has: what a megabyte takes at 40 kB/s.
pub const FRAME_TIME_MAX: Duration = Duration::from_secs(25);
/// How long an answer's stream may be silent in both directions.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long the other side may refuse to take what is sent to it.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(20);
/// The receive window of one stream, in bytes: what a stranger may make us hold for one stream.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The receive window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Devices whose offers are kept.
pub const OFFERS_MAX: usize = 4_096;
/// The shortest time between two offers of one device that are looked at.
pub const OFFER_INTERVAL_MS_MIN: u64 = 500;
/// Offers of one device that may come faster than that, once.
pub const OFFER_BURST: u32 = 8;
/// Messages that a neighbour may deliver at once: everything it knows, twice.
pub const NEIGHBOUR_BURST: u32 = 2 * OFFERS_MAX as u32;
/// Messages that a neighbour may deliver each second after that: twice what it may forward.
pub const NEIGHBOUR_MESSAGES_PER_S: u32 = 2 * SIGNATURES_PER_S;
/// Messages beyond that which are thrown away unread before the neighbour is shut out.
pub const NEIGHBOUR_OVERFLOW_MAX: u32 = 1_024;
/// Neighbours whose behaviour is remembered.
pub const NEIGHBOURS_MAX: usize = 1_024;
/// Messages that are not valid offers, after which a neighbour is shut out.
pub const NEIGHBOUR_FAULTS_MAX: u32 = 16;
/// Signatures that are checked at once, over all neighbours.
pub const SIGNATURES_BURST: u32 = 4_096;
/// Signatures that are checked each second after that: a few per cent of one core.
pub const SIGNATURES_PER_S: u32 = 512;
/// How long a published offer stands.
pub const OFFER_TTL_MS: u64 = 120_000;
/// How often an offer is signed and published anew.
pub const OFFER_REPUBLISH_INTERVAL: Duration = Duration::from_secs(30);
/// How often a known peer is asked for its offers, to heal what gossip lost.
pub const EXCHANGE_INTERVAL: Duration = Duration::from_secs(20);
/// How often a known peer is asked while this device has no neighbour.
pub const EXCHANGE_INTERVAL_ALONE: Duration = Duration::from_secs(2);
/// How long a device that misbehaved is shut out.
pub const BAN_TIME: Duration = Duration::from_secs(600);
/// Devices that are shut out at once; the one that was shut out first is let in again.
pub const BANNED_MAX: usize = 1_024;
/// Changes of offers that a slow listener may fall behind.
pub const OFFER_CHANGES_MAX: usize = 1_024;
/// How long an exchange of offers with a peer may take.
pub const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(15);
/// The longest list of offers that a peer may answer with, in bytes.
pub const EXCHANGE_BYTES_MAX: usize = 4 << 20;
/// Exchanges of offers that are answered at once.
pub const EXCHANGES_MAX: usize = 16;

/// Questions of one of the household's devices that are answered at once.
pub const HOUSEHOLD_MEMBER_MAX: usize = 4;
/// Questions of strangers about the household that are answered at once, besides those.
pub const HOUSEHOLD_STRANGERS_MAX: usize = 8;
/// Of those, questions of strangers from one site.
pub const HOUSEHOLD_SITE_MAX: usize = 4;
/// How long a stranger has to ask its question before it gives way to another.
pub const HOUSEHOLD_GRACE: Duration = Duration::from_secs(1);
/// How long a stranger may take for its question.
pub const HOUSEHOLD_QUESTION_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a question about the household may take.
pub const HOUSEHOLD_TIME_MAX: Duration = Duration::from_secs(10);

/// The longest request to a chain that another device runs, in bytes: a transaction of the largest kind in hex, and room.
pub const CHAIN_REQUEST_BYTES_MAX: usize = 512 << 10;
/// The longest reply of such a chain, in bytes: what the chain gives a visitor, and what is around it.
pub const CHAIN_REPLY_BYTES_MAX: usize = (4 << 20) + (64 << 10);
/// How long such a request may take to arrive once its stream is open.
pub const CHAIN_REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the one who asks waits for the reply.
pub const CHAIN_TIME_MAX: Duration = Duration::from_secs(20);
/// Requests that one connection may have open at once.
pub const CHAIN_STREAMS_MAX: u32 = 8;
/// Requests of one device that are answered at once, over all its connections.
pub const CHAIN_DEVICE_REQUESTS_MAX: usize = 8;
/// Requests of strangers from one site that are answered at once.
pub const CHAIN_SITE_REQUESTS_MAX: usize = 16;
/// Requests of all strangers that are answered at once.
pub const CHAIN_STRANGER_REQUESTS_MAX: usize = 32;
/// Requests of the household's devices that are answered at once, besides those.
pub const CHAIN_MEMBER_REQUESTS_MAX: usize = 32;
/// Devices whose chains are asked, and to which a connection is kept.
pub const CHAIN_HOSTS_MAX: usize = 4;

/// Topics that a device takes part in at once.
pub const RUN_TOPICS_MAX: usize = 16;
/// The longest body of a notice, in bytes.
pub const NOTICE_BODY_BYTES_MAX: usize = 128 << 10;
/// What a notice costs besides its own bytes wherever bytes of notices are counted.
pub const NOTICE_COST_BYTES: usize = 256;
/// Notices of one device that are kept in a topic; the latest ones are.
pub const DEVICE_NOTICES_MAX: usize = 128;
/// The bytes that those may have.
pub const DEVICE_NOTICES_BYTES_MAX: usize = 1 << 20;
/// The bytes that all notices of a topic may have; the device that has the most loses its earliest one.
pub const TOPIC_BYTES_MAX: usize = 32 << 20;
/// How long a notice is kept.
pub const NOTICE_AGE_MS_MAX: u64 = 24 * 3_600 * 1_000;
/// How far ahead the clock of another participant may be.
pub const RUN_CLOCK_SKEW_MS_MAX: u64 = 120_000;
/// Participants of a topic that are known at once.
pub const PARTICIPANTS_MAX: usize = 128;
/// Bytes of notices that one device may say in a topic at once; all that is kept of it, twice.
pub const AUTHOR_BURST_BYTES: u32 = 2 * DEVICE_NOTICES_BYTES_MAX as u32;
/// Bytes of notices that it may say each minute after that.
pub const AUTHOR_BYTES_PER_MINUTE: u64 = 1 << 20;
/// How often a participant may say where it is in quick succession.
pub const PLACE_BURST: u32 = 8;
/// How often it may after that, in thousandths a second.
pub const PLACES_MILLI_PER_S: u64 = 100;
/// How often a participant says where it is.
pub const PLACE_REPUBLISH_INTERVAL_MS: u64 = 60_000;
/// How long a participant is where it said that it is.
pub const PLACE_TTL_MS: u64 = 240_000;
/// Connections to participants, over all topics.
pub const RUN_LINKS_MAX: usize = 48;
/// Connections to participants, beyond which this device dials none.
pub const RUN_LINKS_WANTED: usize = 16;
/// Participants that are dialed at once.
pub const RUN_DIALS_MAX: usize = 8;
/// Ids of notices in one message.
pub const RUN_IDS_MAX: usize = 1_024;
/// Notices up to this length, in bytes, are passed on unasked; longer ones are offered by their ids first.
pub const NOTICE_EAGER_BYTES_MAX: usize = 1_024;
/// Notices that one participant is asked for at once.
pub const RUN_WANTED_MAX: usize = 8_192;
/// How long a participant has to send a notice that it offered, before another one is asked for it.
pub const RUN_WANT_MS_MAX: u64 = 10_000;
/// Notices that a topic did not take, and that are not asked for again.
pub const RUN_REFUSED_MAX: usize = 2_048;
/// Bytes that are sent to one participant at once.
pub const LINK_BURST_BYTES: u32 = 8 << 20;
/// Bytes that are sent to one participant each minute after that.
pub const LINK_BYTES_PER_MINUTE: u64 = 24 << 20;
/// Messages beyond twice as much that are thrown away unread before a participant is shut out.
pub const LINK_OVERFLOW_MAX: u32 = 1_024;
/// Signatures of one participant's messages that are checked at once.
pub const LINK_SIGNATURES_BURST: u32 = 2 * (RUN_WANTED_MAX as u32);
/// Signatures of one participant's messages that are checked each second after that.
pub const LINK_SIGNATURES_PER_S: u64 = 128;
/// How often two participants compare which notices they keep, to heal what was lost.
pub const RUN_COMPARE_INTERVAL_MS: u64 = 60_000;
/// How often two participants say which topics they take part in, which is a sign of life too.
pub const RUN_TOPICS_INTERVAL_MS: u64 = 8_000;
/// How long a connection between devices that share no topic is kept.
pub const RUN_UNSHARED_MS_MAX: u64 = 5_000;
/// How long the two sides may take to show each other that they belong to the same network.
pub const RUN_HELLO_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a participant is left alone after it could not be reached once; twice as long each time after.
pub const RUN_BACKOFF_MS: u64 = 1_000;
/// The longest that it is left alone.
pub const RUN_BACKOFF_MS_MAX: u64 = 60_000;
/// How long a device that shares no topic is left alone.
pub const RUN_PROBE_AGAIN_MS: u64 = 30_000;
/// Devices of which it is remembered when to dial them again.
pub const RUN_DIALED_MAX: usize = 1_024;

/// Devices whose offers and addresses are kept because this device dialed them.
pub const DEALT_WITH_MAX: usize = 256;

/// Peers that are remembered.
pub const PEERS_MAX: usize = 256;
/// Of those, peers that the owner named, which strangers do not displace.
pub const NAMED_PEERS_MAX: usize = 128;
/// Addresses of one peer.
pub const PEER_ADDRESSES_MAX: usize = 16;
/// Addresses of a stranger that are dialed.
pub const STRANGER_ADDRESSES_MAX: usize = 8;
/// Relays that are used because a ticket named them.
pub const TICKET_RELAYS_MAX: usize = 16;
/// The longest file of remembered peers, in bytes.
pub const PEERS_FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest ticket, in characters.
pub const TICKET_CHARS_MAX: usize = 4_096;
/// The most bytes that a ticket carries for others.
pub const TICKET_PAYLOAD_BYTES_MAX: usize = 1_024;
/// The longest address of a relay, in bytes.
pub const RELAY_URL_BYTES_MAX: usize = 256;

/// Connections to a relay at once, unless its household says otherwise.
pub const RELAY_CONNECTIONS_MAX: usize = 1_024;

/// Transfers of files that are served at once; one more is told to come back later.
pub const TRANSFERS_MAX: usize = 16;
/// Files that are shared at once, besides those of runs.
pub const SHARED_FILES_MAX: usize = 1_024;
/// Files of runs that are shared at once: contributions, checkpoints, shards.
pub const RUN_FILES_MAX: usize = 16_384;
/// The longest file that is fetched in memory, in bytes.
pub const SMALL_FILE_BYTES_MAX: u64 = 8 << 20;
/// Such files that are fetched at once.
pub const SMALL_FETCHES_MAX: usize = 8;
/// Devices that are asked at once for one of them.
pub const SMALL_FETCH_PROVIDERS_MAX: usize = 2;
/// How long one device may take before another is asked beside it.
pub const SMALL_FETCH_HEDGE: Duration = Duration::from_secs(2);
/// How long one device may take in all: what the longest takes at 140 kB/s.
pub const SMALL_FETCH_TIME_MAX: Duration = Duration::from_secs(60);
/// Devices to which a connection is kept for small files.
pub const FILE_HOSTS_MAX: usize = 16;
/// Longer files that are fetched at once.
pub const FETCHES_MAX: usize = 8;
/// How long a device that files are fetched from may send nothing.
pub const FETCH_SILENCE_MAX: Duration = Duration::from_secs(20);
/// The longest head of a file that is fetched, in bytes.
pub const HEAD_BYTES_MAX: u64 = 256 << 20;

//! What participants of a topic sign: notices, and where they are (spec: runs, sections 10 and 11).

use std::fmt;

use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use iroh::SecretKey;
use serde::{Deserialize, Serialize};

use crate::offers::signing::{Halves, is_signed_by, sign};
use crate::options::hash;
use crate::peers::PeerAddress;

/// What participants talk about: the id of a run, or of a ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub [u8; 32]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ContentHash(self.0).fmt(f)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

impl TopicId {
    /// How `from` names the topic to `to`: BLAKE3 over "hearth run topic", a zero byte, the topic and the two
    /// devices. A device recognizes the topics that it takes part in itself, and learns of no others.
    pub(crate) fn tag(self, from: DeviceId, to: DeviceId) -> ContentHash {
        hash(b"hearth run topic", &[&self.0, &from.0, &to.0])
    }
}

/// What a device says to all who take part in a topic.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The topic.
    pub topic: TopicId,
    /// The device that says it.
    pub device: DeviceId,
    /// When it says it; each notice of a device in a topic is later than the one before.
    pub at: Timestamp,
    /// What it says, which is opaque here.
    pub body: Vec<u8>,
    /// Ed25519 by the device over [`Notice::signing_bytes`], its two halves.
    pub signature: Halves,
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice")
            .field("topic", &self.topic)
            .field("device", &self.device)
            .field("at", &self.at)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Notice {
    pub(crate) fn signed(key: &SecretKey, topic: TopicId, at: Timestamp, body: Vec<u8>) -> Self {
        let mut notice = Self {
            topic,
            device: DeviceId(*key.public().as_bytes()),
            at,
            body,
            signature: ([0; 32], [0; 32]),
        };
        notice.signature = sign(key, &notice.signing_bytes());
        notice
    }

    /// What the device signs: the domain "hearth notice 1", a zero byte, the topic, the device, the time
    /// (milliseconds, little-endian `u64`), the length of the body (little-endian `u64`) and the body.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = b"hearth notice 1\0".to_vec();
        bytes.extend(self.topic.0);
        bytes.extend(self.device.0);
        bytes.extend(self.at.0.to_le_bytes());
        bytes.extend((self.body.len() as u64).to_le_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// Its name: BLAKE3 over [`Notice::signing_bytes`], so that another signature of the same makes no other notice.
    pub fn id(&self) -> ContentHash {
        ContentHash::of(&self.signing_bytes())
    }

    /// Whether its device signed it.
    pub fn is_signed(&self) -> bool {
        is_signed_by(self.device, &self.signing_bytes(), &self.signature)
    }
}

/// Where a participant of a topic is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: TopicId,
    /// The participant.
    pub device: DeviceId,
    /// When it said so; a later statement takes the place of an earlier one.
    pub at: Timestamp,
    /// Where it is; nothing once it takes part no longer.
    pub address: Option<PeerAddress>,
    /// Ed25519 by the device over [`Place::signing_bytes`], its two halves.
    pub signature: Halves,
}

impl Place {
    pub(crate) fn signed(
        key: &SecretKey,
        topic: TopicId,
        at: Timestamp,
        address: Option<PeerAddress>,
    ) -> Self {
        let mut place = Self {
            topic,
            device: DeviceId(*key.public().as_bytes()),
            at,
            address,
            signature: ([0; 32], [0; 32]),
        };
        place.signature = sign(key, &place.signing_bytes());
        place
    }

    /// What the device signs: the domain "hearth place 1", a zero byte, the topic, the device, the time
    /// (milliseconds, little-endian `u64`), and the address as postcard of an option.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = b"hearth place 1\0".to_vec();
        bytes.extend(self.topic.0);
        bytes.extend(self.device.0);
        bytes.extend(self.at.0.to_le_bytes());
        let address = postcard::to_stdvec(&self.address).expect("an address is plain data");
        bytes.extend(address);
        bytes
    }

    /// Whether its device signed it.
    pub fn is_signed(&self) -> bool {
        is_signed_by(self.device, &self.signing_bytes(), &self.signature)
    }

    /// Whether it names its own device, at what can be dialed.
    pub(crate) fn is_sound(&self) -> bool {
        self.address
            .as_ref()
            .is_none_or(|address| address.device == self.device && address.is_sound())
    }
}

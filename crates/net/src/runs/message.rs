//! What two participants send each other, as bytes and back (spec: runs, section 10).
//!
//! Pure functions of bytes that a stranger sent. Reading is strict: nothing may follow a message, and every list has
//! its bound. Signatures are not looked at here.

use hearth_protocol::content::ContentHash;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::notice::{Notice, Place, TopicId};
use crate::codec::LENGTH_BYTES;
use crate::limits::{NOTICE_BODY_BYTES_MAX, RUN_IDS_MAX, RUN_TOPICS_MAX};

/// The longest message between participants, in bytes without its length.
pub const RUN_MESSAGE_BYTES_MAX: usize = NOTICE_BODY_BYTES_MAX + 1_024;
/// The longest statement of a place, in bytes.
const PLACE_BYTES_MAX: usize = 8 << 10;

/// Why bytes are not a message between participants: their sender does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RunMessageError {
    /// The length before it is zero or beyond the bound.
    #[error("a message between participants has 1 to {RUN_MESSAGE_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// It is not postcard of such a message.
    #[error("the bytes are not a message between participants")]
    Malformed(#[source] postcard::Error),
    /// Something follows it.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A part of it is too long, or empty where it must not be.
    #[error("the {0} of the message are too many or none")]
    Bound(&'static str),
    /// A place is not one of its device.
    #[error("the place makes no sense")]
    Place,
}

/// A message between two participants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunMessage {
    /// The topics that the sender takes part in, each as `BLAKE3("hearth run topic" 0 topic sender receiver)`. It takes
    /// the place of the one before.
    Topics(Vec<ContentHash>),
    /// The sender keeps these notices of a topic.
    Have {
        /// The topic.
        topic: TopicId,
        /// The notices' ids.
        ids: Vec<ContentHash>,
    },
    /// The sender asks for these notices of a topic.
    Want {
        /// The topic.
        topic: TopicId,
        /// The notices' ids.
        ids: Vec<ContentHash>,
    },
    /// A notice, by its author or passed on.
    Notice(Notice),
    /// Where a participant is, by itself or passed on.
    Place(Place),
}

impl RunMessage {
    fn check(&self) -> Result<(), RunMessageError> {
        let within = |what, is: bool| match is {
            true => Ok(()),
            false => Err(RunMessageError::Bound(what)),
        };
        match self {
            Self::Topics(tags) => within("topics", tags.len() <= RUN_TOPICS_MAX),
            Self::Have { ids, .. } | Self::Want { ids, .. } => {
                within("ids", (1..=RUN_IDS_MAX).contains(&ids.len()))
            }
            Self::Notice(notice) => within(
                "bytes",
                (1..=NOTICE_BODY_BYTES_MAX).contains(&notice.body.len()),
            ),
            Self::Place(place) if place.is_sound() => Ok(()),
            Self::Place(_) => Err(RunMessageError::Place),
        }
    }
}

/// Reads the four bytes before a message: how many follow.
///
/// # Errors
/// When no message is that long.
pub fn run_message_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, RunMessageError> {
    let length = usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
    sound(length)
}

fn sound(length: usize) -> Result<usize, RunMessageError> {
    match length {
        1..=RUN_MESSAGE_BYTES_MAX => Ok(length),
        _ => Err(RunMessageError::Length(length)),
    }
}

/// Reads one message, without its length.
///
/// # Errors
/// When the bytes are not exactly one message within its bounds.
pub fn decode_run_message(bytes: &[u8]) -> Result<RunMessage, RunMessageError> {
    sound(bytes.len())?;
    let read = postcard::take_from_bytes::<RunMessage>(bytes);
    let (message, rest) = read.map_err(RunMessageError::Malformed)?;
    if !rest.is_empty() {
        return Err(RunMessageError::Trailing(rest.len()));
    }
    if matches!(message, RunMessage::Place(_)) && bytes.len() > PLACE_BYTES_MAX {
        return Err(RunMessageError::Bound("bytes"));
    }
    message.check()?;
    Ok(message)
}

/// Writes one message after its length.
///
/// # Errors
/// When it is beyond its bounds, so that the other side would refuse it.
pub fn encode_run_message(message: &RunMessage) -> Result<Vec<u8>, RunMessageError> {
    message.check()?;
    let written = postcard::to_extend(message, vec![0; LENGTH_BYTES]);
    let mut bytes = written.map_err(RunMessageError::Malformed)?;
    let length = sound(bytes.len() - LENGTH_BYTES)?;
    let length = u32::try_from(length).map_err(|_| RunMessageError::Length(length))?;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_protocol::time::Timestamp;
    use iroh::SecretKey;

    fn notice(body: Vec<u8>) -> Notice {
        Notice::signed(
            &SecretKey::from_bytes(&[7; 32]),
            TopicId([1; 32]),
            Timestamp(1_000),
            body,
        )
    }

    fn refused(message: &RunMessage) -> RunMessageError {
        assert!(
            encode_run_message(message).is_err(),
            "what is refused is not sent"
        );
        let bytes = postcard::to_stdvec(message).unwrap();
        decode_run_message(&bytes).unwrap_err()
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_nothing_may_follow() {
        let topic = TopicId([2; 32]);
        let ids = vec![ContentHash([3; 32]); RUN_IDS_MAX];
        let key = SecretKey::from_bytes(&[7; 32]);
        let all = [
            RunMessage::Topics(Vec::new()),
            RunMessage::Have {
                topic,
                ids: ids.clone(),
            },
            RunMessage::Want { topic, ids },
            RunMessage::Notice(notice(vec![5; NOTICE_BODY_BYTES_MAX])),
            RunMessage::Place(Place::signed(&key, topic, Timestamp(4), None)),
        ];
        for message in all {
            let bytes = encode_run_message(&message).unwrap();
            let (length, body) = bytes.split_first_chunk().unwrap();
            assert_eq!(run_message_length(*length), Ok(body.len()));
            assert_eq!(decode_run_message(body).as_ref(), Ok(&message));
            let mut longer = body.to_vec();
            longer.push(0);
            assert!(decode_run_message(&longer).is_err());
            assert!(decode_run_message(&body[..body.len() - 1]).is_err());
        }
    }

    #[test]
    fn what_is_beyond_its_bounds_is_refused() {
        let topic = TopicId([2; 32]);
        let long = RunMessage::Notice(notice(vec![0; NOTICE_BODY_BYTES_MAX + 1]));
        assert_eq!(refused(&long), RunMessageError::Bound("bytes"));
        let empty = RunMessage::Notice(notice(Vec::new()));
        assert_eq!(refused(&empty), RunMessageError::Bound("bytes"));
        let none = RunMessage::Have {
            topic,
            ids: Vec::new(),
        };
        assert_eq!(refused(&none), RunMessageError::Bound("ids"));
        let many = RunMessage::Want {
            topic,
            ids: vec![ContentHash([0; 32]); RUN_IDS_MAX + 1],
        };
        assert_eq!(refused(&many), RunMessageError::Bound("ids"));
        let many = RunMessage::Topics(vec![ContentHash([0; 32]); RUN_TOPICS_MAX + 1]);
        assert_eq!(refused(&many), RunMessageError::Bound("topics"));
        let key = SecretKey::from_bytes(&[7; 32]);
        let other = SecretKey::from_bytes(&[8; 32]).public();
        let elsewhere = crate::PeerAddress::of(hearth_protocol::offer::DeviceId(*other.as_bytes()));
        let place = Place::signed(&key, topic, Timestamp(4), Some(elsewhere));
        assert_eq!(refused(&RunMessage::Place(place)), RunMessageError::Place);
        assert_eq!(
            run_message_length([0xff; 4]),
            Err(RunMessageError::Length(u32::MAX as usize))
        );
        assert!(run_message_length([0; 4]).is_err());
    }

    #[test]
    fn a_signature_holds_for_every_part_of_what_was_signed() {
        let signed = notice(vec![1, 2, 3]);
        assert!(signed.is_signed());
        let forged = |change: fn(&mut Notice)| {
            let mut notice = signed.clone();
            change(&mut notice);
            assert!(!notice.is_signed(), "{notice:?}");
        };
        forged(|n| n.topic = TopicId([9; 32]));
        forged(|n| n.at = Timestamp(1_001));
        forged(|n| n.body[0] ^= 1);
        forged(|n| n.body.push(0));
        forged(|n| n.signature.0[0] ^= 1);
        forged(|n| n.device.0[0] ^= 1);
        let mut resigned = signed.clone();
        resigned.signature.1[31] ^= 0x80;
        assert_eq!(
            resigned.id(),
            signed.id(),
            "a signature makes no other notice"
        );
    }

    fn read(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        let digits = value.as_str().unwrap().strip_prefix("0x").unwrap();
        data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
    }

    fn fixed(value: &serde_json::Value) -> [u8; 32] {
        bytes(value).try_into().unwrap()
    }

    fn joined(signature: &([u8; 32], [u8; 32])) -> Vec<u8> {
        [signature.0, signature.1].concat()
    }

    #[test]
    fn what_is_signed_and_sent_is_what_another_implementation_signs_and_sends() {
        let vectors = read(include_str!("../../../../vectors/notices.json"));
        let keys = vectors["keys"].as_array().unwrap();
        let key = SecretKey::from_bytes(&fixed(&keys[0]["secret"]));
        let device = |n: usize| hearth_protocol::offer::DeviceId(fixed(&keys[n]["device"]));
        assert_eq!(*key.public().as_bytes(), device(0).0);
        let topic = TopicId(fixed(&vectors["topic"]));
        assert_eq!(topic.tag(device(0), device(1)).0, fixed(&vectors["tag"]));
        let at = |of: &str| Timestamp(vectors[of]["at"].as_str().unwrap().parse().unwrap());

        let notice = Notice::signed(&key, topic, at("notice"), bytes(&vectors["notice"]["body"]));
        assert_eq!(notice.signing_bytes(), bytes(&vectors["notice"]["signed"]));
        assert_eq!(notice.id().0, fixed(&vectors["notice"]["id"]));
        assert_eq!(
            joined(&notice.signature),
            bytes(&vectors["notice"]["signature"])
        );
        let address = crate::PeerAddress {
            device: device(0),
            direct: vec!["127.0.0.1:4000".parse().unwrap()],
            relays: vec!["https://relay.example/".to_owned()],
        };
        let place = Place::signed(&key, topic, at("place"), Some(address));
        let farewell = Place::signed(&key, topic, at("farewell"), None);
        for (name, place) in [("place", &place), ("farewell", &farewell)] {
            assert_eq!(
                place.signing_bytes(),
                bytes(&vectors[name]["signed"]),
                "{name}"
            );
            assert_eq!(
                joined(&place.signature),
                bytes(&vectors[name]["signature"]),
                "{name}"
            );
        }
        let ids: Vec<_> = [1, 2].iter().map(|n| ContentHash::of(&[*n])).collect();
        let tag = topic.tag(device(0), device(1));
        let want = vec![ids[0]];
        let expected = [
            ("topics", RunMessage::Topics(vec![tag])),
            ("no topics", RunMessage::Topics(Vec::new())),
            ("have", RunMessage::Have { topic, ids }),
            ("want", RunMessage::Want { topic, ids: want }),
            ("notice", RunMessage::Notice(notice)),
            ("place", RunMessage::Place(place)),
            ("farewell", RunMessage::Place(farewell)),
        ];
        let sent = vectors["messages"].as_array().unwrap();
        assert_eq!(sent.len(), expected.len());
        for (vector, (name, message)) in sent.iter().zip(&expected) {
            assert_eq!(vector["name"].as_str(), Some(*name));
            let wire = bytes(&vector["bytes"]);
            assert_eq!(encode_run_message(message).unwrap(), wire, "{name}");
            assert_eq!(
                decode_run_message(&wire[LENGTH_BYTES..]).as_ref(),
                Ok(message)
            );
        }
    }

    #[test]
    fn what_another_implementation_must_refuse_is_refused() {
        let vectors = read(include_str!("../../../../vectors/notices_bad.json"));
        for vector in vectors["messages"].as_array().unwrap() {
            let wire = bytes(&vector["bytes"]);
            let (length, body) = wire.split_first_chunk().unwrap();
            let is_whole = run_message_length(*length) == Ok(body.len());
            let is_read = is_whole && decode_run_message(body).is_ok();
            assert!(!is_read, "{}", vector["name"]);
        }
        for vector in vectors["forged"].as_array().unwrap() {
            let wire = bytes(&vector["bytes"]);
            match decode_run_message(&wire[LENGTH_BYTES..]) {
                Ok(RunMessage::Notice(notice)) => {
                    assert!(!notice.is_signed(), "{}", vector["name"]);
                }
                other => panic!("{}: {other:?}", vector["name"]),
            }
        }
    }
}

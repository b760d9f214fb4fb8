//! Messages about a household as bytes, and back (spec: household, section 4).
//!
//! Pure functions of bytes that a stranger sent. Reading is strict: nothing may follow a message,
//! and no list is longer than what a household may have. Whether a statement holds is not looked
//! at here.
//!
//! Memory: serde reserves at most 1 MiB for a list whatever length it states, and beyond that a
//! list grows only as its elements are read, of which each takes dozens of bytes of the message.

use hearth_protocol::household::{HouseholdAsk, HouseholdReply, MESSAGE_BYTES_MAX, STATEMENTS_MAX};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::codec::LENGTH_BYTES;

/// Why bytes are not a message about a household.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HouseholdMessageError {
    /// The length before it is zero or beyond the bound.
    #[error("a message about a household has 1 to {MESSAGE_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// It is not postcard of such a message.
    #[error("the bytes are no message about a household")]
    Malformed(#[source] postcard::Error),
    /// Something follows it.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// It has more statements than a household can have.
    #[error("a message has at most {STATEMENTS_MAX} statements, not {0}")]
    Statements(usize),
}

/// A question or an answer about a household.
///
/// Implemented by [`HouseholdAsk`] and [`HouseholdReply`] only.
pub trait HouseholdMessage: Serialize + DeserializeOwned + sealed::SealedMessage {
    /// How many statements it has.
    fn statements(&self) -> usize;
}

mod sealed {
    pub trait SealedMessage {}
    impl SealedMessage for super::HouseholdAsk {}
    impl SealedMessage for super::HouseholdReply {}
}

impl HouseholdMessage for HouseholdAsk {
    fn statements(&self) -> usize {
        match self {
            Self::Join { .. } | Self::Leave | Self::Kin(_) => 0,
            Self::Compare(all) => all.len(),
        }
    }
}

impl HouseholdMessage for HouseholdReply {
    fn statements(&self) -> usize {
        match self {
            Self::Statements(all) => all.len(),
            Self::Refused(_) => 0,
        }
    }
}

/// Reads the four bytes before a message: how many follow.
///
/// # Errors
/// When no message is that long.
pub fn household_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, HouseholdMessageError> {
    let length = u32::from_le_bytes(bytes);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    sound(length)
}

fn sound(length: usize) -> Result<usize, HouseholdMessageError> {
    if (1..=MESSAGE_BYTES_MAX).contains(&length) {
        Ok(length)
    } else {
        Err(HouseholdMessageError::Length(length))
    }
}

/// Reads one message, without its length.
///
/// # Errors
/// When the bytes are not exactly one message within its bounds.
pub fn decode_household<M: HouseholdMessage>(bytes: &[u8]) -> Result<M, HouseholdMessageError> {
    sound(bytes.len())?;
    let read = postcard::take_from_bytes::<M>(bytes);
    let (message, rest) = read.map_err(HouseholdMessageError::Malformed)?;
    if !rest.is_empty() {
        return Err(HouseholdMessageError::Trailing(rest.len()));
    }
    bounded(&message)?;
    Ok(message)
}

/// Writes one message after its length.
///
/// # Errors
/// When it is beyond its bounds, so that the other side would refuse it.
pub fn encode_household<M: HouseholdMessage>(
    message: &M,
) -> Result<Vec<u8>, HouseholdMessageError> {
    bounded(message)?;
    let written = postcard::to_extend(message, vec![0; LENGTH_BYTES]);
    let mut bytes = written.map_err(HouseholdMessageError::Malformed)?;
    let length = sound(bytes.len() - LENGTH_BYTES)?;
    let length = u32::try_from(length).map_err(|_| HouseholdMessageError::Length(length))?;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

fn bounded<M: HouseholdMessage>(message: &M) -> Result<(), HouseholdMessageError> {
    match message.statements() {
        count if count > STATEMENTS_MAX => Err(HouseholdMessageError::Statements(count)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hearth_protocol::household::{
        HouseholdStatement, InviteTicket, JoinRefusal, KinProof, Secret,
    };
    use hearth_protocol::offer::DeviceId;
    use serde_json::Value;

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn good() -> Value {
        read(include_str!("../../../../vectors/household.json"))
    }

    fn bytes(value: &Value) -> Vec<u8> {
        let digits = value.as_str().unwrap().strip_prefix("0x").unwrap();
        data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
    }

    fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
        let list = vectors[name].as_array().unwrap();
        assert!(!list.is_empty(), "{name}");
        list
    }

    /// Every statement of the vectors, by its name there.
    fn statements() -> BTreeMap<String, HouseholdStatement> {
        let vectors = good();
        let named = list(&vectors, "statements").iter().map(|one| {
            let statement = postcard::from_bytes(&bytes(&one["bytes"])).unwrap();
            (one["name"].as_str().unwrap().to_owned(), statement)
        });
        named.collect()
    }

    fn told(vector: &Value) -> Vec<HouseholdStatement> {
        let known = statements();
        let names = vector["statements"].as_array().unwrap();
        let find = |name: &Value| known[name.as_str().unwrap()].clone();
        names.iter().map(find).collect()
    }

    fn refusal(name: &str) -> JoinRefusal {
        use JoinRefusal as R;
        let all = [
            R::NotHost,
            R::Unknown,
            R::Used,
            R::Full,
            R::Name,
            R::Stranger,
            R::Forged,
            R::Unable,
        ];
        let named = |one: &R| format!("{one:?}") == name;
        all.into_iter().find(named).unwrap()
    }

    fn is_vector<M: HouseholdMessage + PartialEq + std::fmt::Debug>(vector: &Value, message: &M) {
        let wire = bytes(&vector["bytes"]);
        let name = &vector["name"];
        assert_eq!(encode_household(message).unwrap(), wire, "{name}");
        let (length, body) = wire.split_first_chunk().unwrap();
        assert_eq!(household_length(*length), Ok(body.len()), "{name}");
        assert_eq!(decode_household::<M>(body).as_ref(), Ok(message), "{name}");
    }

    #[test]
    fn messages_are_the_bytes_that_another_implementation_writes() {
        let vectors = good();
        for vector in list(&vectors, "messages") {
            match vector["kind"].as_str().unwrap() {
                "Join" => {
                    let secret = bytes(&vector["secret"]).try_into().unwrap();
                    let join = HouseholdAsk::Join {
                        secret: Secret(secret),
                        name: vector["deviceName"].as_str().unwrap().to_owned(),
                    };
                    is_vector(vector, &join);
                }
                "Leave" => is_vector(vector, &HouseholdAsk::Leave),
                "Kin" => {
                    let part = |name: &str| bytes(&vector[name]).try_into().unwrap();
                    let (asker, asked) = (DeviceId(part("asker")), DeviceId(part("asked")));
                    let proof = KinProof::new(&part("accountSecret"), &asker, &asked);
                    is_vector(vector, &HouseholdAsk::Kin(proof));
                }
                "Compare" => is_vector(vector, &HouseholdAsk::Compare(told(vector))),
                "Statements" => is_vector(vector, &HouseholdReply::Statements(told(vector))),
                "Refused" => {
                    let why = refusal(vector["refusal"].as_str().unwrap());
                    is_vector(vector, &HouseholdReply::Refused(why));
                }
                other => panic!("a message of the kind {other}"),
            }
        }
    }

    #[test]
    fn an_invitation_is_the_bytes_that_another_implementation_writes() {
        let vector = &good()["invitation"];
        let ticket: InviteTicket = postcard::from_bytes(&bytes(&vector["bytes"])).unwrap();
        let expires_at: u64 = vector["expiresAt"].as_str().unwrap().parse().unwrap();
        assert_eq!(ticket.expires_at.0, expires_at);
        let household = vector["household"].as_str().unwrap();
        assert_eq!(format!("{:#x}", ticket.household), household);
        assert_eq!(ticket.secret.0.to_vec(), bytes(&vector["secret"]));
        let written = postcard::to_stdvec(&ticket).unwrap();
        assert_eq!(written, bytes(&vector["bytes"]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let vectors = read(include_str!("../../../../vectors/household_bad.json"));
        let known = good();
        for vector in list(&vectors, "messages") {
            let name = &vector["name"];
            let mut wire = bytes(&vector["bytes"]);
            if let Some(times) = vector["times"].as_u64() {
                let all = list(&known, "statements");
                let repeated = all.iter().find(|one| one["name"] == vector["then"]);
                let repeated = bytes(&repeated.unwrap()["bytes"]);
                (0..times).for_each(|_| wire.extend(&repeated));
            }
            let (length, body) = wire.split_first_chunk().unwrap();
            // What the wire does not hold, a reader waits for until its time is over.
            let is_whole = household_length(*length) == Ok(body.len());
            let is_read = match vector["side"].as_str().unwrap() {
                "ask" => decode_household::<HouseholdAsk>(body).is_ok(),
                "reply" => decode_household::<HouseholdReply>(body).is_ok(),
                other => panic!("the side {other}"),
            };
            assert!(!(is_whole && is_read), "{name} was read");
            let fault = vector["fault"].as_str().unwrap();
            assert_eq!(!is_whole, fault == "length", "{name}");
        }
    }
}

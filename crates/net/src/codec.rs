//! Frames and offers as bytes, and back (spec: answers, sections 7 and 8).
//!
//! Everything here is a pure function of bytes that a stranger sent. Reading is strict: nothing may
//! follow a message, every list and text has its bound, and a number that makes no sense is an
//! error of its own. What a frame *means* (whether a request is sound, whether a payment suffices)
//! is not looked at here.
//!
//! Memory: postcard says in advance at most how many elements a list has, and serde reserves at
//! most 1 MiB for it whatever it says; beyond that a list grows only as its elements are read. The
//! densest list (log-probabilities, 5 bytes of wire for 32 of memory) makes at most seven times
//! [`FRAME_BYTES_MAX`] out of a frame.

use hearth_protocol::answer::frame::{
    FRAME_BYTES_MAX, FRAME_TOKENS_MAX, PAYMENT_BYTES_MAX, REFUSAL_BYTES_MAX, TokenLogprobs,
};
use hearth_protocol::answer::request::{
    GRAMMAR_BYTES_MAX, LOGPROBS_MAX, OUTPUT_TOKENS_MAX, PROMPT_TOKENS_MAX,
};
use hearth_protocol::answer::spec::BIASED_TOKENS_MAX;
use hearth_protocol::answer::{AnswerRequest, Grammar, PayerFrame, ProviderFrame, Refusal, Tokens};
use hearth_protocol::offer::{OFFER_BYTES_MAX, SignedOffer};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::SettlementJson;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::peers::PeerAddress;

/// The bytes that say how long a frame is: a little-endian `u32`.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not a frame: their sender does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length before it is zero or beyond the bound.
    #[error("a frame has 1 to {FRAME_BYTES_MAX} bytes, not {0}")]
    Length(u32),
    /// It is not postcard of a frame.
    #[error("the bytes are no frame")]
    Malformed(#[source] postcard::Error),
    /// Something follows it.
    #[error("{0} bytes follow the frame")]
    Trailing(usize),
    /// A list or text in it is too long.
    #[error("the frame's {0} is too long")]
    TooLong(&'static str),
    /// A figure in it makes no sense.
    #[error("the frame's {0} makes no sense")]
    Senseless(&'static str),
}

/// A message of an answer's stream, in either direction.
///
/// Implemented by [`PayerFrame`] and [`ProviderFrame`] only.
pub trait Frame:
    Serialize + DeserializeOwned + Send + Sync + 'static + sealed::SealedFrame
{
    /// Checks every bound that the wire has.
    ///
    /// # Errors
    /// The first thing that is beyond its bound.
    fn check(&self) -> Result<(), FrameError>;
}

mod sealed {
    pub trait SealedFrame {}
    impl SealedFrame for super::PayerFrame {}
    impl SealedFrame for super::ProviderFrame {}
}

/// Reads the four bytes before a frame: how many follow.
///
/// # Errors
/// When no frame is that long.
pub fn frame_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(bytes);
    match usize::try_from(length) {
        Ok(bytes) if (1..=FRAME_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(FrameError::Length(length)),
    }
}

/// Reads one frame, without its length.
///
/// # Errors
/// When the bytes are not exactly one frame within its bounds.
pub fn decode<F: Frame>(bytes: &[u8]) -> Result<F, FrameError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::Length(
            u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        ));
    }
    let (frame, rest) = postcard::take_from_bytes::<F>(bytes).map_err(FrameError::Malformed)?;
    if !rest.is_empty() {
        return Err(FrameError::Trailing(rest.len()));
    }
    frame.check()?;
    Ok(frame)
}

/// Writes one frame after its length.
///
/// # Errors
/// When the frame is beyond its bounds, so that the other side would refuse it.
pub fn encode<F: Frame>(frame: &F) -> Result<Vec<u8>, FrameError> {
    frame.check()?;
    let bytes = postcard::to_extend(frame, vec![0; LENGTH_BYTES]).map_err(FrameError::Malformed)?;
    let length = u32::try_from(bytes.len() - LENGTH_BYTES).unwrap_or(u32::MAX);
    frame_length(length.to_le_bytes())?;
    let mut bytes = bytes;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

impl Frame for PayerFrame {
    fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::Ask { request, payment } => {
                check_request(request)?;
                payment
                    .as_ref()
                    .map_or(Ok(()), |payment| check_payment(payment.as_bytes()))
            }
            Self::Pay(payment) | Self::Refund(payment) => check_payment(payment.as_bytes()),
            Self::Cancel => Ok(()),
        }
    }
}

impl Frame for ProviderFrame {
    fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::PaymentRequired(required) => check_payment(required.as_bytes()),
            Self::Refunded(settlement) => check_payment(settlement.as_bytes()),
            Self::Refused(refusal) => check_refusal(refusal),
            Self::Accepted { .. } => Ok(()),
            Self::Working { prompt_tokens } => {
                sensible("prompt", *prompt_tokens as usize <= PROMPT_TOKENS_MAX)
            }
            Self::Tokens(tokens) => check_tokens(tokens),
            Self::Charged { settlement, .. } => {
                let bytes = settlement
                    .as_ref()
                    .map_or(&[][..], SettlementJson::as_bytes);
                within("settlement", bytes, PAYMENT_BYTES_MAX)
            }
        }
    }
}

/// Bounds of lists only: what a request means is checked by the device that answers it, which says in a
/// refusal what is wrong with it.
fn check_request(request: &AnswerRequest) -> Result<(), FrameError> {
    within("prompt", &request.ids, PROMPT_TOKENS_MAX)?;
    let biases = &request.sampling.logit_bias_millionths;
    within("logit bias", biases, BIASED_TOKENS_MAX)?;
    let grammar = request.grammar.as_ref().map_or("", Grammar::text);
    within("grammar", grammar.as_bytes(), GRAMMAR_BYTES_MAX)
}

fn check_payment(payment: &[u8]) -> Result<(), FrameError> {
    within("payment", payment, PAYMENT_BYTES_MAX)?;
    sensible("payment", !payment.is_empty())
}

fn check_refusal(refusal: &Refusal) -> Result<(), FrameError> {
    within("refusal", refusal.message.as_bytes(), REFUSAL_BYTES_MAX)?;
    let printable = !refusal.message.chars().any(char::is_control);
    sensible("refusal", printable)
}

fn check_tokens(tokens: &Tokens) -> Result<(), FrameError> {
    within("list of tokens", &tokens.ids, FRAME_TOKENS_MAX)?;
    sensible("list of tokens", !tokens.ids.is_empty())?;
    let end = (tokens.first as usize).saturating_add(tokens.ids.len());
    sensible("position", end <= OUTPUT_TOKENS_MAX as usize)?;
    let told = tokens.logprobs.len();
    sensible("log-probabilities", told == 0 || told == tokens.ids.len())?;
    tokens.logprobs.iter().try_for_each(check_logprobs)
}

fn check_logprobs(logprobs: &TokenLogprobs) -> Result<(), FrameError> {
    within("alternatives", &logprobs.top, usize::from(LOGPROBS_MAX))?;
    let top = logprobs.top.iter().map(|(_, logprob)| *logprob);
    let all = top.chain([logprobs.chosen]);
    // A token that the model rules out has minus infinity; a probability above one has no sense.
    let sound = all.into_iter().all(|l| !l.is_nan() && l < LOGPROB_ABOVE);
    sensible("log-probabilities", sound)
}

/// What a log-probability stays below: zero, with room for rounding.
const LOGPROB_ABOVE: f32 = 0.01;

fn within<T>(what: &'static str, list: &[T], most: usize) -> Result<(), FrameError> {
    if list.len() <= most {
        Ok(())
    } else {
        Err(FrameError::TooLong(what))
    }
}

fn sensible(what: &'static str, is: bool) -> Result<(), FrameError> {
    if is {
        Ok(())
    } else {
        Err(FrameError::Senseless(what))
    }
}

/// The longest announcement, in bytes: an offer and where its device is.
pub const ANNOUNCEMENT_BYTES_MAX: usize = OFFER_BYTES_MAX + 2_048;

/// Why bytes are not an announcement: their sender does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnnouncementError {
    /// More than [`ANNOUNCEMENT_BYTES_MAX`], or its offer is longer than an offer may be.
    #[error("an announcement has at most {ANNOUNCEMENT_BYTES_MAX} bytes")]
    Length,
    /// Not postcard of an announcement.
    #[error("the bytes are no announcement")]
    Malformed(#[source] postcard::Error),
    /// Something follows it.
    #[error("{0} bytes follow the announcement")]
    Trailing(usize),
    /// Its address is not one of a device, or not of the device that offers.
    #[error("the announcement's address makes no sense")]
    Address,
}

/// An offer as it travels: with where its device is, so that a device that hears of it can ask it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The offer, signed by its device.
    pub offer: SignedOffer,
    /// Where the device is.
    pub address: PeerAddress,
    /// Ed25519 by the device over [`Announcement::address_bytes`], its two halves.
    pub address_signature: ([u8; 32], [u8; 32]),
}

impl Announcement {
    /// What the device signs besides its offer: the domain "hearth address 1", a zero byte, when
    /// the offer was made (milliseconds, little-endian), and the address as postcard. The time
    /// ties the address to the offer, so that an old address cannot be put beside a new offer.
    pub fn address_bytes(issued_at: Timestamp, address: &PeerAddress) -> Vec<u8> {
        let mut bytes = b"hearth address 1\0".to_vec();
        bytes.extend(issued_at.0.to_le_bytes());
        let address = postcard::to_stdvec(address).expect("an address is plain data");
        bytes.extend(address);
        bytes
    }
}

/// Reads an announcement. Neither its signatures nor what is offered is checked.
///
/// # Errors
/// When the bytes are not exactly one announcement within its bounds.
pub fn decode_announcement(bytes: &[u8]) -> Result<Announcement, AnnouncementError> {
    if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
        return Err(AnnouncementError::Length);
    }
    let (read, rest) =
        postcard::take_from_bytes::<Announcement>(bytes).map_err(AnnouncementError::Malformed)?;
    if !rest.is_empty() {
        return Err(AnnouncementError::Trailing(rest.len()));
    }
    check_announcement(&read)?;
    Ok(read)
}

/// Writes an announcement.
///
/// # Errors
/// When it is beyond its bounds, so that others would refuse it.
pub fn encode_announcement(announcement: &Announcement) -> Result<Vec<u8>, AnnouncementError> {
    check_announcement(announcement)?;
    let bytes = postcard::to_stdvec(announcement).map_err(AnnouncementError::Malformed)?;
    if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
        return Err(AnnouncementError::Length);
    }
    Ok(bytes)
}

fn check_announcement(announcement: &Announcement) -> Result<(), AnnouncementError> {
    let offer = postcard::experimental::serialized_size(&announcement.offer)
        .map_err(AnnouncementError::Malformed)?;
    if offer > OFFER_BYTES_MAX {
        return Err(AnnouncementError::Length);
    }
    let own = announcement.address.device == announcement.offer.offer.device;
    if own && announcement.address.is_sound() {
        Ok(())
    } else {
        Err(AnnouncementError::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_protocol::answer::frame::RefusalCode;

    fn tokens(ids: Vec<u32>) -> Tokens {
        Tokens {
            first: 0,
            ids,
            logprobs: Vec::new(),
        }
    }

    fn refused(frame: ProviderFrame) -> FrameError {
        let bytes = postcard::to_stdvec(&frame).unwrap();
        assert!(encode(&frame).is_err(), "what is refused is not sent");
        decode::<ProviderFrame>(&bytes).unwrap_err()
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = ProviderFrame::Tokens(Tokens {
            logprobs: vec![TokenLogprobs {
                chosen: -1.5,
                top: vec![(3, -0.5), (4, f32::NEG_INFINITY)],
            }],
            ..tokens(vec![7])
        });
        let bytes = encode(&frame).unwrap();
        let (length, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(frame_length(*length), Ok(body.len()));
        assert_eq!(decode::<ProviderFrame>(body), Ok(frame));
    }

    #[test]
    fn no_frame_has_no_bytes_or_more_than_the_bound() {
        assert_eq!(frame_length([0; 4]), Err(FrameError::Length(0)));
        assert_eq!(frame_length([0xff; 4]), Err(FrameError::Length(u32::MAX)));
        let most = u32::try_from(FRAME_BYTES_MAX).unwrap();
        assert_eq!(frame_length(most.to_le_bytes()), Ok(FRAME_BYTES_MAX));
        let more = (most + 1).to_le_bytes();
        assert_eq!(frame_length(more), Err(FrameError::Length(most + 1)));
        let long = vec![0; FRAME_BYTES_MAX + 1];
        assert_eq!(
            decode::<PayerFrame>(&long),
            Err(FrameError::Length(most + 1))
        );
    }

    #[test]
    fn nothing_follows_a_frame() {
        let mut bytes = postcard::to_stdvec(&PayerFrame::Cancel).unwrap();
        assert_eq!(decode::<PayerFrame>(&bytes), Ok(PayerFrame::Cancel));
        bytes.push(0);
        assert_eq!(decode::<PayerFrame>(&bytes), Err(FrameError::Trailing(1)));
    }

    #[test]
    fn a_list_that_claims_to_be_endless_is_refused_at_the_end_of_the_bytes() {
        // A payment that says it has 2^32 - 1 bytes, of which one comes.
        let mut bytes = postcard::to_stdvec(&PayerFrame::Pay(Vec::new().into())).unwrap();
        bytes.truncate(1);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let read = decode::<PayerFrame>(&bytes);
        assert!(matches!(read, Err(FrameError::Malformed(_))), "{read:?}");
        // The same for tokens.
        let mut bytes = postcard::to_stdvec(&ProviderFrame::Tokens(tokens(Vec::new()))).unwrap();
        bytes.truncate(2);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3]);
        let read = decode::<ProviderFrame>(&bytes);
        assert!(matches!(read, Err(FrameError::Malformed(_))), "{read:?}");
    }

    #[test]
    fn each_bound_of_a_providers_frame_is_kept() {
        let long = vec![1; FRAME_TOKENS_MAX + 1];
        let frame = ProviderFrame::Tokens(tokens(long));
        assert_eq!(refused(frame), FrameError::TooLong("list of tokens"));
        let frame = ProviderFrame::Tokens(tokens(Vec::new()));
        assert_eq!(refused(frame), FrameError::Senseless("list of tokens"));
        let far = Tokens {
            first: OUTPUT_TOKENS_MAX,
            ..tokens(vec![1])
        };
        let frame = ProviderFrame::Tokens(far);
        assert_eq!(refused(frame), FrameError::Senseless("position"));
        let payment = vec![b' '; PAYMENT_BYTES_MAX + 1];
        let frame = ProviderFrame::PaymentRequired(payment.into());
        assert_eq!(refused(frame), FrameError::TooLong("payment"));
        let frame = ProviderFrame::PaymentRequired(Vec::new().into());
        assert_eq!(refused(frame), FrameError::Senseless("payment"));
        let frame = ProviderFrame::Working {
            prompt_tokens: u32::MAX,
        };
        assert_eq!(refused(frame), FrameError::Senseless("prompt"));
        let refusal = |message: &str| {
            ProviderFrame::Refused(Refusal {
                code: RefusalCode::Busy,
                field: None,
                retry_after_ms: None,
                message: message.to_owned(),
            })
        };
        let long = "x".repeat(REFUSAL_BYTES_MAX + 1);
        assert_eq!(refused(refusal(&long)), FrameError::TooLong("refusal"));
        let bell = refusal("\u{7}");
        assert_eq!(refused(bell), FrameError::Senseless("refusal"));
    }

    #[test]
    fn log_probabilities_make_sense_or_are_refused() {
        let with = |chosen: f32, top: Vec<(u32, f32)>| {
            refused(ProviderFrame::Tokens(Tokens {
                logprobs: vec![TokenLogprobs { chosen, top }],
                ..tokens(vec![1])
            }))
        };
        let senseless = FrameError::Senseless("log-probabilities");
        assert_eq!(with(f32::NAN, Vec::new()), senseless);
        assert_eq!(with(1.0, Vec::new()), senseless);
        assert_eq!(with(0.0, vec![(1, f32::INFINITY)]), senseless);
        let many = vec![(1, 0.0); usize::from(LOGPROBS_MAX) + 1];
        assert_eq!(with(0.0, many), FrameError::TooLong("alternatives"));
        let fewer = ProviderFrame::Tokens(Tokens {
            logprobs: vec![TokenLogprobs {
                chosen: 0.0,
                top: Vec::new(),
            }],
            ..tokens(vec![1, 2])
        });
        assert_eq!(refused(fewer), senseless);
    }
}

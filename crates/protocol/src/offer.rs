//! Offers: a provider's statement of the models it serves, at what price (spec: answers, section 8).
//!
//! An offer is signed by the device's endpoint key over [`Offer::signing_bytes`], expires, and is
//! replaced by the next one of the same device. The signature itself is checked where endpoint
//! keys are known (`net`); what an offer may say is checked here.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::answer::{Price, Serving};
use crate::text::is_name;
use crate::time::Timestamp;

pub use crate::audience::{Audience, Openness};
pub use crate::id::{DeviceId, DeviceIdError};

/// The longest signed offer, in bytes: what one gossip message holds.
pub const OFFER_BYTES_MAX: usize = 4_000;
/// The most models in one offer.
pub const OFFERED_MODELS_MAX: usize = 16;
/// The most prices of one model.
pub const PRICES_MAX: usize = 8;
/// The longest that an offer may stand, in milliseconds.
pub const OFFER_TTL_MS_MAX: u64 = 10 * 60 * 1_000;
/// How far a device's clock may be ahead of ours, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 2 * 60 * 1_000;
/// The longest head of a model's file, in bytes.
pub const HEAD_BYTES_MAX: u64 = 256 << 20;
/// The longest name of a model or of an engine, in bytes.
pub const NAME_BYTES_MAX: usize = 96;

/// One model in an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedModel {
    /// What people call it.
    pub name: String,
    /// What it is served with; names the weights.
    pub serving: Serving,
    /// The size of the weights' file, in bytes.
    pub weights_bytes: u64,
    /// How many of them hold everything but the weights themselves: vocabulary and template.
    pub head_bytes: u64,
    /// Tokens of prompt and output together, at most.
    pub context_tokens: u32,
    /// Whom it answers.
    pub audience: Audience,
    /// What answers cost other households, in any one of these assets. Nothing at all means that
    /// they are free.
    pub prices: Vec<Price>,
    /// Answers that are worked on at once.
    pub slots: u16,
    /// Of those, how many were free when the offer was made.
    pub free_slots: u16,
    /// Output tokens per second of one answer alone, as the provider measured it.
    pub output_tokens_per_s: u32,
    /// Prompt tokens per second, as the provider measured it.
    pub prompt_tokens_per_s: u32,
}

/// What a device offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The device that offers.
    pub device: DeviceId,
    /// The household that is paid.
    pub household: Address,
    /// The key that signs receipts.
    pub session_key: Address,
    /// Seconds that a payer's withdrawal from a channel with it takes.
    pub withdraw_delay_s: u64,
    /// When it was made; of two offers of one device the later one stands.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// What is served. An empty list takes back what was offered before.
    pub models: Vec<OfferedModel>,
}

/// An offer with the signature of its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOffer {
    /// What is offered.
    pub offer: Offer,
    /// Ed25519 over [`Offer::signing_bytes`], its two halves.
    pub signature: ([u8; 32], [u8; 32]),
}

/// Why an offer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Not signed by its device.
    #[error("the offer is not signed by its device")]
    Signature,
    /// It has ended.
    #[error("the offer has ended")]
    Expired,
    /// It was made in the future.
    #[error("the offer was made in the future")]
    Early,
    /// It would stand for too long.
    #[error("the offer would stand for too long")]
    TooLong,
    /// Too much in it.
    #[error("the offer says too much")]
    TooLarge,
    /// A figure in it makes no sense.
    #[error("the offer makes no sense")]
    Senseless,
}

impl Offer {
    /// What the device signs: the domain "hearth offer 1", a zero byte, and the offer's canonical
    /// JSON form as `serde_json` writes it.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = b"hearth offer 1\0".to_vec();
        let json = serde_json::to_vec(self).expect("a struct with string keys is a JSON object");
        bytes.extend(json);
        bytes
    }

    /// Checks everything but the signature.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self, now: Timestamp) -> Result<(), OfferError> {
        if self.issued_at > now.plus_ms(CLOCK_SKEW_MS_MAX) {
            return Err(OfferError::Early);
        }
        if self.expires_at <= now {
            return Err(OfferError::Expired);
        }
        if self.expires_at.ms_since(self.issued_at) > OFFER_TTL_MS_MAX {
            return Err(OfferError::TooLong);
        }
        if self.models.len() > OFFERED_MODELS_MAX {
            return Err(OfferError::TooLarge);
        }
        self.models.iter().try_for_each(OfferedModel::check)
    }
}

impl OfferedModel {
    fn check(&self) -> Result<(), OfferError> {
        let names = [&self.name, &self.serving.engine];
        let long = names.iter().any(|name| name.len() > NAME_BYTES_MAX);
        if long || self.prices.len() > PRICES_MAX {
            return Err(OfferError::TooLarge);
        }
        let sensible = names.iter().all(|name| is_name(name))
            && self.slots > 0
            && self.free_slots <= self.slots
            && self.head_bytes <= self.weights_bytes.min(HEAD_BYTES_MAX)
            && self.context_tokens > 0;
        if sensible {
            Ok(())
        } else {
            Err(OfferError::Senseless)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{BackendClass, KvType};
    use crate::content::ContentHash;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn offer() -> Offer {
        Offer {
            device: DeviceId([1; 32]),
            household: Address::repeat_byte(2),
            session_key: Address::repeat_byte(3),
            withdraw_delay_s: 86_400,
            issued_at: NOW,
            expires_at: NOW.plus_ms(60_000),
            models: vec![OfferedModel {
                name: "smollm2-135m-instruct".to_owned(),
                serving: Serving {
                    adapter: None,
                    backend: BackendClass::CpuAvx2,
                    engine: "llama.cpp".to_owned(),
                    flash_attention: false,
                    kv_type: KvType::F16,
                    micro_batch_tokens: 512,
                    template: ContentHash([4; 32]),
                    weights: ContentHash([5; 32]),
                },
                weights_bytes: 98_362_432,
                head_bytes: 1_700_000,
                context_tokens: 8_192,
                audience: Audience::Everyone,
                prices: Vec::new(),
                slots: 4,
                free_slots: 4,
                output_tokens_per_s: 80,
                prompt_tokens_per_s: 270,
            }],
        }
    }

    #[test]
    fn an_offer_is_taken_while_it_stands() {
        assert_eq!(offer().check(NOW), Ok(()));
        let long = offer().models[0].clone();
        let check = |change: &dyn Fn(&mut Offer)| {
            let mut offer = offer();
            change(&mut offer);
            offer.check(NOW).unwrap_err()
        };
        assert_eq!(check(&|o| o.expires_at = NOW), OfferError::Expired);
        let early = NOW.plus_ms(CLOCK_SKEW_MS_MAX + 1);
        assert_eq!(check(&|o| o.issued_at = early), OfferError::Early);
        let late = NOW.plus_ms(OFFER_TTL_MS_MAX + 1);
        assert_eq!(check(&|o| o.expires_at = late), OfferError::TooLong);
        let many = vec![long; OFFERED_MODELS_MAX + 1];
        assert_eq!(check(&|o| o.models = many.clone()), OfferError::TooLarge);
        assert_eq!(
            check(&|o| o.models[0].name = "x".repeat(NAME_BYTES_MAX + 1)),
            OfferError::TooLarge
        );
        assert_eq!(
            check(&|o| o.models[0].name = "\u{7}".into()),
            OfferError::Senseless
        );
        assert_eq!(
            check(&|o| o.models[0].free_slots = 5),
            OfferError::Senseless
        );
        assert_eq!(check(&|o| o.models[0].slots = 0), OfferError::Senseless);
        let headless = check(&|o| o.models[0].head_bytes = o.models[0].weights_bytes + 1);
        assert_eq!(headless, OfferError::Senseless);
    }

    #[test]
    fn a_device_reads_back_as_it_was_written() {
        let device = offer().device;
        assert_eq!(device.to_string().parse(), Ok(device));
        assert_eq!("x".parse::<DeviceId>(), Err(DeviceIdError));
    }
}

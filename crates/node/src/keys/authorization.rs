//! The household's statement that a device's session key may act for it.
//!
//! Whoever is shown a voucher signed by a session key can check with this statement whose it is. The channel itself
//! does not need it: `payerAuthorizer` and `receiverAuthorizer` are fixed in the channel's configuration. Implements
//! docs/spec/04-keys.md, section 3.

use alloy_primitives::Address;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use hearth_protocol::eip712::{SessionKey, session_key_digest};
use hearth_protocol::household::is_device_name;
use hearth_protocol::id::ChainId;
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::advice::Advice;

/// The longest name of a device, in bytes of UTF-8.
pub const DEVICE_NAME_BYTES_MAX: usize = hearth_protocol::household::DEVICE_NAME_BYTES_MAX;

/// A signed statement: until `valid_before_s`, `key` acts for `household` on `chain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionAuthorization {
    /// Where it holds.
    pub chain: ChainId,
    /// Who states it.
    #[serde(with = "hearth_protocol::address")]
    pub household: Address,
    /// The session key's address.
    #[serde(with = "hearth_protocol::address")]
    pub key: Address,
    /// The device's name, for people.
    pub device: String,
    /// Valid from after this second of Unix time.
    pub valid_after_s: u64,
    /// Valid until before this second of Unix time.
    pub valid_before_s: u64,
    /// The household's signature.
    pub signature: Signature,
}

/// Why a statement cannot be made, or is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthorizationError {
    /// Empty, longer than [`DEVICE_NAME_BYTES_MAX`], or with something that is not seen.
    #[error(
        "a device's name has 1 to {DEVICE_NAME_BYTES_MAX} bytes, none of them unseen, and no space at its ends"
    )]
    Name,
    /// It would never hold.
    #[error("the statement would end before it begins")]
    Period,
    /// Somebody else signed it, or something else was signed.
    #[error("the statement was not signed by the household {household}")]
    NotSigned {
        /// Whom it names.
        household: Address,
    },
    /// It does not hold yet.
    #[error("the statement holds only after second {valid_after_s} of Unix time")]
    NotYet {
        /// When it begins.
        valid_after_s: u64,
    },
    /// It does not hold any more.
    #[error("the statement held until second {valid_before_s} of Unix time")]
    Expired {
        /// When it ended.
        valid_before_s: u64,
    },
    /// The key could not sign.
    #[error("the household's key could not sign")]
    Signing,
}

impl Advice for AuthorizationError {
    fn code(&self) -> &str {
        match self {
            Self::Name => "bad_device_name",
            Self::Period => "bad_period",
            Self::NotSigned { .. } => "authorization_forged",
            Self::NotYet { .. } => "authorization_not_yet_valid",
            Self::Expired { .. } => "authorization_expired",
            Self::Signing => "signing_failed",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Name => "Choose a short name such as \"kitchen\"".to_owned(),
            Self::Period => "Give a number of days that is at least 1".to_owned(),
            Self::NotSigned { .. } => "Do not trust this key".to_owned(),
            Self::NotYet { .. } => "Check the clocks of both devices".to_owned(),
            Self::Expired { .. } => "Ask the household for a new statement".to_owned(),
            Self::Signing => "Try again".to_owned(),
        }
    }
}

impl SessionAuthorization {
    pub(super) fn sign(
        household: &PrivateKeySigner,
        chain: ChainId,
        key: Address,
        device: &str,
        valid_after: Timestamp,
        valid_before: Timestamp,
    ) -> Result<Self, AuthorizationError> {
        if !is_device_name(device) {
            return Err(AuthorizationError::Name);
        }
        let (valid_after_s, valid_before_s) = (valid_after.as_secs(), valid_before.as_secs());
        if valid_before_s <= valid_after_s {
            return Err(AuthorizationError::Period);
        }
        let message = SessionKey {
            household: household.address(),
            key,
            device: device.to_owned(),
            validAfter: valid_after_s,
            validBefore: valid_before_s,
        };
        let signed = household
            .sign_hash_sync(&session_key_digest(chain, &message))
            .map_err(|_| AuthorizationError::Signing)?;
        let signature =
            Signature::from_bytes(&signed.as_bytes()).map_err(|_| AuthorizationError::Signing)?;
        Ok(Self {
            chain,
            household: household.address(),
            key,
            device: device.to_owned(),
            valid_after_s,
            valid_before_s,
            signature,
        })
    }

    /// Whether the household did sign this, and it holds at `now`.
    ///
    /// # Errors
    /// See [`AuthorizationError`].
    pub fn verify(&self, now: Timestamp) -> Result<(), AuthorizationError> {
        let message = SessionKey {
            household: self.household,
            key: self.key,
            device: self.device.clone(),
            validAfter: self.valid_after_s,
            validBefore: self.valid_before_s,
        };
        let digest = session_key_digest(self.chain, &message);
        if self.signature.signer(digest) != Ok(self.household) {
            return Err(AuthorizationError::NotSigned {
                household: self.household,
            });
        }
        if now.as_secs() <= self.valid_after_s {
            return Err(AuthorizationError::NotYet {
                valid_after_s: self.valid_after_s,
            });
        }
        if now.as_secs() >= self.valid_before_s {
            return Err(AuthorizationError::Expired {
                valid_before_s: self.valid_before_s,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceIndex, RecoveryPhrase, Unlocked, WordCount};
    use hearth_environment::SystemEnvironment;

    use super::*;

    const CHAIN: ChainId = ChainId(31_337);

    fn secs(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn household() -> Unlocked {
        Unlocked::from_phrase(
            RecoveryPhrase::generate(WordCount::Twelve, &SystemEnvironment).unwrap(),
        )
    }

    fn statement(unlocked: &Unlocked) -> SessionAuthorization {
        let device = DeviceIndex::new(3).unwrap();
        unlocked
            .authorization(CHAIN, device, "kitchen", secs(100), secs(200))
            .unwrap()
    }

    #[test]
    fn a_statement_holds_inside_its_period_and_survives_json() {
        let unlocked = household();
        let statement = statement(&unlocked);
        assert_eq!(
            statement.key,
            unlocked.session(DeviceIndex::new(3).unwrap()).address()
        );
        assert_eq!(statement.verify(secs(101)), Ok(()));
        assert_eq!(statement.verify(secs(199)), Ok(()));
        assert_eq!(
            statement.verify(secs(100)),
            Err(AuthorizationError::NotYet { valid_after_s: 100 })
        );
        assert_eq!(
            statement.verify(secs(200)),
            Err(AuthorizationError::Expired {
                valid_before_s: 200
            })
        );
        let json = serde_json::to_string(&statement).unwrap();
        assert_eq!(
            serde_json::from_str::<SessionAuthorization>(&json).unwrap(),
            statement
        );
    }

    #[test]
    fn a_changed_statement_is_not_believed() {
        let good = statement(&household());
        let edits: [fn(&mut SessionAuthorization); 6] = [
            |s| s.chain = ChainId(1),
            |s| s.household = Address::repeat_byte(1),
            |s| s.key = Address::repeat_byte(1),
            |s| s.device.push('x'),
            |s| s.valid_after_s += 1,
            |s| s.valid_before_s += 1,
        ];
        for edit in edits {
            let mut forged = good.clone();
            edit(&mut forged);
            let error = forged.verify(secs(150)).unwrap_err();
            assert_eq!(error.code(), "authorization_forged");
        }
    }

    #[test]
    fn names_and_periods_without_sense_are_refused() {
        let unlocked = household();
        let device = DeviceIndex::default();
        for name in ["", "a\nb", &"x".repeat(65)] {
            let outcome = unlocked.authorization(CHAIN, device, name, secs(1), secs(2));
            assert_eq!(outcome, Err(AuthorizationError::Name), "{name:?}");
        }
        let outcome = unlocked.authorization(CHAIN, device, "a", secs(2), secs(2));
        assert_eq!(outcome, Err(AuthorizationError::Period));
    }
}

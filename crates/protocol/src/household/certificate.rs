//! What a household signs about its devices (spec: household, section 1).

use std::borrow::Cow;

use alloy_primitives::{Address, B256};
use alloy_sol_types::{Eip712Domain, sol};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::eip712::signing_digest;
use crate::offer::{CLOCK_SKEW_MS_MAX, DeviceId};
use crate::signature::Signature;
use crate::text::is_name;
use crate::time::Timestamp;

/// The longest name of a device, in bytes of UTF-8.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;
/// The longest that a certificate may stand, in milliseconds: a year.
pub(super) const STATEMENT_TTL_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1_000;

sol! {
    /// The typed data of a certificate.
    #[allow(missing_docs)]
    #[derive(Debug, PartialEq, Eq)]
    struct HouseholdDevice {
        address household;
        bytes32 device;
        string name;
        uint64 issuedAt;
        uint64 expiresAt;
    }

    /// The typed data of a removal.
    #[allow(missing_docs)]
    #[derive(Debug, PartialEq, Eq)]
    struct HouseholdRemoval {
        address household;
        bytes32 device;
        uint64 removedAt;
    }
}

/// Whether a text may be a device's name: 1 to [`DEVICE_NAME_BYTES_MAX`] bytes, nothing in it that
/// is not seen, no space at its ends.
pub fn is_device_name(name: &str) -> bool {
    (1..=DEVICE_NAME_BYTES_MAX).contains(&name.len()) && is_name(name)
}

/// That a device belongs to a household.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The household.
    pub household: Address,
    /// The device.
    pub device: DeviceId,
    /// What people call it.
    pub name: String,
    /// When it was made; of two for one device the later one stands.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// That a device belongs to a household no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The household.
    pub household: Address,
    /// The device.
    pub device: DeviceId,
    /// Certificates that were made until then, this time included, do not hold.
    pub removed_at: Timestamp,
}

/// A certificate with the signature of the household's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCertificate {
    /// What is signed.
    pub certificate: Certificate,
    /// Over [`Certificate::digest`].
    pub signature: Signature,
}

/// A removal with the signature of the household's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRemoval {
    /// What is signed.
    pub removal: Removal,
    /// Over [`Removal::digest`].
    pub signature: Signature,
}

/// Something that a household says of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HouseholdStatement {
    /// It belongs to it.
    Certificate(SignedCertificate),
    /// It belongs to it no more.
    Removal(SignedRemoval),
}

/// Why a statement is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HouseholdStatementError {
    /// It speaks for another household.
    #[error("the statement is of the household {0}, which is another one")]
    OtherHousehold(Address),
    /// The household's key did not sign it.
    #[error("the statement was not signed by the household's key")]
    Forged,
    /// It ended.
    #[error("the statement has ended")]
    Expired,
    /// It was made in the future, or would stand for too long.
    #[error("the statement's times make no sense: check the clocks of both devices")]
    Times,
    /// The device's name is none.
    #[error("the statement names no device")]
    Name,
    /// More than is kept.
    #[error("the household has more devices than are kept")]
    Full,
}

fn domain() -> Eip712Domain {
    Eip712Domain {
        name: Some(Cow::Borrowed("Hearth Household")),
        version: Some(Cow::Borrowed("1")),
        ..Eip712Domain::default()
    }
}

impl Certificate {
    /// The EIP-712 digest, in the domain `{name: "Hearth Household", version: "1"}`.
    pub fn digest(&self) -> B256 {
        let message = HouseholdDevice {
            household: self.household,
            device: self.device.0.into(),
            name: self.name.clone(),
            issuedAt: self.issued_at.0,
            expiresAt: self.expires_at.0,
        };
        signing_digest(domain().separator(), &message)
    }
}

impl Removal {
    /// The EIP-712 digest, in the same domain.
    pub fn digest(&self) -> B256 {
        let message = HouseholdRemoval {
            household: self.household,
            device: self.device.0.into(),
            removedAt: self.removed_at.0,
        };
        signing_digest(domain().separator(), &message)
    }
}

impl HouseholdStatement {
    /// Whether `household` says this, and it holds at `now`. The signature is looked at last,
    /// because it costs most.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self, household: Address, now: Timestamp) -> Result<(), HouseholdStatementError> {
        let (of, made_at, digest, signature) = match self {
            Self::Certificate(one) => {
                let certificate = &one.certificate;
                if !is_device_name(&certificate.name) {
                    return Err(HouseholdStatementError::Name);
                }
                if certificate.expires_at <= now {
                    return Err(HouseholdStatementError::Expired);
                }
                let stands_ms = certificate.expires_at.ms_since(certificate.issued_at);
                if stands_ms > STATEMENT_TTL_MS_MAX {
                    return Err(HouseholdStatementError::Times);
                }
                let digest = certificate.digest();
                (
                    certificate.household,
                    certificate.issued_at,
                    digest,
                    &one.signature,
                )
            }
            Self::Removal(one) => {
                let removal = &one.removal;
                (
                    removal.household,
                    removal.removed_at,
                    removal.digest(),
                    &one.signature,
                )
            }
        };
        if of != household {
            return Err(HouseholdStatementError::OtherHousehold(of));
        }
        if made_at > now.plus_ms(CLOCK_SKEW_MS_MAX) {
            return Err(HouseholdStatementError::Times);
        }
        if signature.signer(digest) == Ok(household) {
            Ok(())
        } else {
            Err(HouseholdStatementError::Forged)
        }
    }
}

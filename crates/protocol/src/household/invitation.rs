//! Invitations: a secret lets one device in, within its time (spec: household, section 3).
//!
//! Only the hash of a secret is kept, so that a person who reads the host's disk cannot join with it.

use std::collections::BTreeMap;
use std::fmt;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::content::ContentHash;
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// The most invitations that are open at once.
pub const INVITATIONS_MAX: usize = 32;
/// The longest that an invitation may stand, in milliseconds: a week.
pub const INVITATION_TTL_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// The secret of an invitation: 32 random bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    fn hash(&self) -> ContentHash {
        ContentHash::of(&[b"hearth invitation\0".as_slice(), &self.0].concat())
    }
}

/// What a ticket says of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteTicket {
    /// The household that invites.
    pub household: Address,
    /// What lets a device in.
    pub secret: Secret,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Why an invitation is not made, or does not let a device join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// No such one is open.
    #[error("the invitation is not known, or has ended")]
    Unknown,
    /// Another device used it.
    #[error("the invitation was used by another device")]
    Used,
    /// Too many.
    #[error("{INVITATIONS_MAX} invitations are open already; they end by themselves")]
    Full,
    /// It would stand for too long, or not at all.
    #[error("an invitation stands for at most {} days", INVITATION_TTL_MS_MAX / 86_400_000)]
    Period,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    expires_at: Timestamp,
    used_by: Option<DeviceId>,
}

/// The invitations of a household.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitations(BTreeMap<ContentHash, Open>);

impl Invitations {
    /// Opens one. Gives when it ends.
    ///
    /// # Errors
    /// When too many are open, or the period makes no sense.
    pub fn open(
        &mut self,
        now: Timestamp,
        secret: &Secret,
        ttl_ms: u64,
    ) -> Result<Timestamp, InvitationError> {
        if !(1..=INVITATION_TTL_MS_MAX).contains(&ttl_ms) {
            return Err(InvitationError::Period);
        }
        self.prune(now);
        if self.0.len() >= INVITATIONS_MAX {
            return Err(InvitationError::Full);
        }
        let expires_at = now.plus_ms(ttl_ms);
        let used_by = None;
        self.0.insert(
            secret.hash(),
            Open {
                expires_at,
                used_by,
            },
        );
        Ok(expires_at)
    }

    /// Uses one for `device`.
    ///
    /// # Errors
    /// When it is not open, or another device used it.
    pub fn redeem(
        &mut self,
        now: Timestamp,
        secret: &Secret,
        device: DeviceId,
    ) -> Result<(), InvitationError> {
        let open = self.0.get_mut(&secret.hash());
        let open = open
            .filter(|open| open.expires_at > now)
            .ok_or(InvitationError::Unknown)?;
        match open.used_by {
            Some(other) if other != device => Err(InvitationError::Used),
            _ => {
                open.used_by = Some(device);
                Ok(())
            }
        }
    }

    /// Ends those that a device used.
    pub fn burn(&mut self, device: DeviceId) {
        self.0.retain(|_, open| open.used_by != Some(device));
    }

    /// Forgets those that ended. True when there were any.
    pub fn prune(&mut self, now: Timestamp) -> bool {
        let before = self.0.len();
        self.0.retain(|_, open| open.expires_at > now);
        self.0.len() != before
    }
}

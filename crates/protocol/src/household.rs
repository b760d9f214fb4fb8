//! The devices of a household: who belongs to it, how one joins, how one is removed
//! (spec: household).
//!
//! A household is an account; the device that holds its key is the *host*. The host signs a
//! certificate for every device that belongs, and a removal for one that no longer does. Both are
//! statements that any device can check, so that devices tell them to one another and the host need
//! not be up. [`Household`] is the machine of one device: it is given the time, what others say and
//! a way to sign, and answers with what to tell them; what it must not forget is its [`Standing`].
//!
//! Deliberately absent: streams, files and keys, and what membership is good for. That a household's
//! devices answer each other without pay is for the roles of a node to say.

mod certificate;
mod invitation;
mod kin;
mod roster;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

pub use certificate::{
    Certificate, DEVICE_NAME_BYTES_MAX, HouseholdStatement, HouseholdStatementError, Removal,
    SignedCertificate, SignedRemoval, is_device_name,
};
pub use invitation::{
    INVITATION_TTL_MS_MAX, INVITATIONS_MAX, InvitationError, Invitations, InviteTicket, Secret,
};
pub use kin::KinProof;
pub use roster::{DEVICES_MAX, REMOVALS_MAX, Roster};

/// How long a certificate stands, in milliseconds: 90 days.
pub const CERTIFICATE_TTL_MS: u64 = 90 * 24 * 60 * 60 * 1_000;
/// A certificate is made anew when it stands for less than this, in milliseconds: 60 days.
pub const RENEW_BEFORE_MS: u64 = 60 * 24 * 60 * 60 * 1_000;
/// The most statements that are told at once.
pub const STATEMENTS_MAX: usize = DEVICES_MAX + REMOVALS_MAX;
/// The longest [`HouseholdAsk`] or [`HouseholdReply`], in bytes of postcard.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// What one device asks another about their household.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HouseholdAsk {
    /// To be let in, by the secret of an invitation.
    Join {
        /// The secret.
        secret: Secret,
        /// What the household shall call the device.
        name: String,
    },
    /// To compare what is known.
    Compare(Vec<HouseholdStatement>),
    /// To be let go: the asker belongs to the household no more.
    Leave,
    /// Whether the asked device holds the key of the same household; the asker proves that it does.
    Kin(KinProof),
}

impl std::fmt::Debug for HouseholdAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not derived, so that no secret is printed.
        match self {
            Self::Join { name, .. } => f.debug_struct("Join").field("name", name).finish(),
            Self::Compare(statements) => f.debug_tuple("Compare").field(&statements.len()).finish(),
            Self::Leave => f.write_str("Leave"),
            Self::Kin(_) => f.write_str("Kin"),
        }
    }
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HouseholdReply {
    /// What is known. To one that was let in, its own certificate is among it; to one that leaves,
    /// it is its removal alone.
    Statements(Vec<HouseholdStatement>),
    /// No.
    Refused(JoinRefusal),
}

/// Why a device is not let in, or not told anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// The asked device does not hold the household's key.
    #[error("the device that was asked does not hold its household's key")]
    NotHost,
    /// No such invitation is open.
    #[error("the invitation is not known, or has ended")]
    Unknown,
    /// Another device used it.
    #[error("the invitation was used by another device")]
    Used,
    /// As many devices as a household may have.
    #[error("the household has {DEVICES_MAX} devices already")]
    Full,
    /// The name is none.
    #[error(
        "a device's name has 1 to {DEVICE_NAME_BYTES_MAX} bytes, none of them unseen, and no space at its ends"
    )]
    Name,
    /// The asker does not belong to the household.
    #[error("the device does not belong to this household")]
    Stranger,
    /// What it said is not true.
    #[error("a statement is not the household's")]
    Forged,
    /// The device cannot write it down now.
    #[error("the device cannot do it now")]
    Unable,
}

/// Why a device cannot do what its owner asks about the household.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HouseholdError {
    /// It belongs to a household whose key is elsewhere.
    #[error("only the device that holds the household's key can do this")]
    NotHost,
    /// It belongs to another household already.
    #[error("this device belongs to the household {0} already")]
    Elsewhere(Address),
    /// Others belong to its own household.
    #[error("this device leads a household with other devices in it")]
    Leads,
    /// It joined none.
    #[error("this device joined no household")]
    NotJoined,
    /// Nobody of that name or key belongs to the household.
    #[error("no such device belongs to this household")]
    NoDevice,
    /// A device does not remove itself.
    #[error("the device that holds the household's key cannot be removed")]
    Itself,
    /// The invitations.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// What the other device told.
    #[error(transparent)]
    Statement(#[from] HouseholdStatementError),
    /// The host let this device in, and did not say so.
    #[error("the other device gave no certificate for this one")]
    NoCertificate,
    /// Too many devices.
    #[error("the household has {DEVICES_MAX} devices already")]
    Full,
    /// The key could not sign.
    #[error("the household's key could not sign")]
    Signing,
}

/// What a device must not forget about its household.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The household that it belongs to.
    pub household: Address,
    /// What is known of it.
    pub statements: Vec<HouseholdStatement>,
    /// Whom it invited.
    pub invitations: Invitations,
}

/// Signs a digest with the household's key; nothing where that fails.
pub type Sign<'a> = &'a dyn Fn(B256) -> Option<Signature>;

/// One device's part in its household.
#[derive(Debug, Clone)]
pub struct Household {
    own: DeviceId,
    account: Address,
    roster: Roster,
    invitations: Invitations,
}

impl Household {
    /// The device `own`, whose own account is `account`, with what it knew before. A statement that
    /// holds no more is left out.
    pub fn new(
        own: DeviceId,
        account: Address,
        standing: Option<Standing>,
        now: Timestamp,
    ) -> Self {
        let mut household = Self {
            own,
            account,
            roster: Roster::new(account),
            invitations: Invitations::default(),
        };
        if let Some(standing) = standing {
            household.roster = Roster::new(standing.household);
            household.invitations = standing.invitations;
            for statement in standing.statements {
                // One that ended meanwhile is refused here, which is what is wanted.
                let _ = household.roster.take(now, statement);
            }
            household.settle(now);
        }
        household
    }

    /// What must be written down.
    pub fn standing(&self) -> Standing {
        Standing {
            household: self.roster.household(),
            statements: self.roster.statements(),
            invitations: self.invitations.clone(),
        }
    }

    /// The household that the device belongs to: its own, unless it joined another.
    pub fn account(&self) -> Address {
        self.roster.household()
    }

    /// Whether the device holds the household's key.
    pub fn is_host(&self) -> bool {
        self.account() == self.account
    }

    /// The devices that belong to it.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Whether a device belongs to it now. One whose own certificate ended belongs to nobody.
    pub fn is_member(&self, now: Timestamp, device: &DeviceId) -> bool {
        self.roster.is_member(now, &self.own) && self.roster.is_member(now, device)
    }

    /// Makes certificates anew that end soon, and that of the host itself where there is none. True
    /// when something changed.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn renew(
        &mut self,
        now: Timestamp,
        own_name: &str,
        sign: Sign<'_>,
    ) -> Result<bool, HouseholdError> {
        let mut changed = self.roster.prune(now) | self.invitations.prune(now);
        if !self.is_host() {
            return Ok(changed);
        }
        let ends_soon =
            |one: &&SignedCertificate| one.certificate.expires_at.ms_since(now) < RENEW_BEFORE_MS;
        let due = self.roster.members(now).filter(ends_soon);
        let mut due: Vec<_> = due
            .map(|one| (one.certificate.device, one.certificate.name.clone()))
            .collect();
        let known = self.roster.certificate(&self.own);
        if known.is_none_or(|known| known.certificate.name != own_name) {
            due.retain(|(device, _)| *device != self.own);
            due.push((self.own, own_name.to_owned()));
        }
        for (device, name) in due {
            self.certify(now, device, name, sign)?;
            changed = true;
        }
        Ok(changed)
    }

    /// Opens an invitation that one device may use within `ttl_ms`.
    ///
    /// # Errors
    /// When the device holds no key of the household, or too many invitations are open.
    pub fn invite(
        &mut self,
        now: Timestamp,
        secret: &Secret,
        ttl_ms: u64,
    ) -> Result<InviteTicket, HouseholdError> {
        if !self.is_host() {
            return Err(HouseholdError::NotHost);
        }
        let expires_at = self.invitations.open(now, secret, ttl_ms)?;
        Ok(InviteTicket {
            household: self.account(),
            secret: secret.clone(),
            expires_at,
        })
    }

    /// Lets a device in that shows the secret of an invitation. The same device may ask again, when
    /// the answer did not reach it.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &mut self,
        now: Timestamp,
        device: DeviceId,
        name: &str,
        secret: &Secret,
        sign: Sign<'_>,
    ) -> Result<Vec<HouseholdStatement>, JoinRefusal> {
        if !self.is_host() {
            return Err(JoinRefusal::NotHost);
        }
        if !is_device_name(name) {
            return Err(JoinRefusal::Name);
        }
        self.roster.prune(now);
        if !self.roster.has_room(&device) {
            return Err(JoinRefusal::Full);
        }
        self.invitations
            .redeem(now, secret, device)
            .map_err(|error| match error {
                InvitationError::Used => JoinRefusal::Used,
                _ => JoinRefusal::Unknown,
            })?;
        if !self.roster.is_member(now, &device) {
            self.certify(now, device, name.to_owned(), sign)
                .map_err(|_| JoinRefusal::Unable)?;
        }
        Ok(self.roster.statements())
    }

    /// Belongs to the household of an invitation from now on, by what its host answered.
    ///
    /// # Errors
    /// When the device has a household already, or the answer does not hold.
    pub fn adopt(
        &mut self,
        now: Timestamp,
        household: Address,
        statements: Vec<HouseholdStatement>,
    ) -> Result<(), HouseholdError> {
        self.may_adopt(now, household)?;
        let mut roster = Roster::new(household);
        for statement in statements.into_iter().take(STATEMENTS_MAX) {
            roster.take(now, statement)?;
        }
        if !roster.is_member(now, &self.own) {
            return Err(HouseholdError::NoCertificate);
        }
        self.roster = roster;
        self.invitations = Invitations::default();
        Ok(())
    }

    /// Whether this device may join a household. One that belongs to it already may, so that it
    /// can join again.
    ///
    /// # Errors
    /// Why not.
    pub fn may_adopt(&self, now: Timestamp, household: Address) -> Result<(), HouseholdError> {
        if !self.is_host() && self.account() != household {
            return Err(HouseholdError::Elsewhere(self.account()));
        }
        let others = self
            .roster
            .members(now)
            .any(|one| one.certificate.device != self.own);
        if self.is_host() && others && self.account() != household {
            return Err(HouseholdError::Leads);
        }
        Ok(())
    }

    /// Takes in what another device tells. True when something was news. A device that reads its
    /// own removal belongs to its own household again.
    ///
    /// # Errors
    /// The first statement that is not the household's. What came before it stands.
    pub fn compare(
        &mut self,
        now: Timestamp,
        statements: Vec<HouseholdStatement>,
    ) -> Result<bool, HouseholdStatementError> {
        let mut changed = false;
        for statement in statements.into_iter().take(STATEMENTS_MAX) {
            match self.roster.take(now, statement) {
                Ok(news) => changed |= news,
                // Ended between the two clocks, or beyond what is kept: no reason to distrust it.
                Err(HouseholdStatementError::Expired | HouseholdStatementError::Full) => {}
                Err(error) => return Err(error),
            }
        }
        self.settle(now);
        Ok(changed)
    }

    /// What another device is told: everything, where it belongs to the household; else nothing. A
    /// certificate says what the device is called, and that is for nobody else to know.
    pub fn told_to(&self, now: Timestamp, device: &DeviceId) -> Vec<HouseholdStatement> {
        if self.is_member(now, device) {
            self.roster.statements()
        } else {
            Vec::new()
        }
    }

    /// What a device is told that proved to hold this household's key too: this device's own
    /// certificate, by which the other finds that they belong together.
    ///
    /// # Errors
    /// When this device does not hold the key, or the proof is wrong.
    pub fn told_to_kin(
        &self,
        device: &DeviceId,
        proof: &KinProof,
        account_secret: &[u8; 32],
    ) -> Result<Vec<HouseholdStatement>, JoinRefusal> {
        let expected = KinProof::new(account_secret, device, &self.own);
        if !self.is_host() || *proof != expected {
            return Err(JoinRefusal::Stranger);
        }
        let own = self.roster.certificate(&self.own);
        Ok(own
            .cloned()
            .map(HouseholdStatement::Certificate)
            .into_iter()
            .collect())
    }

    /// Removes a device.
    ///
    /// # Errors
    /// When it does not belong, or this device holds no key of the household.
    pub fn remove(
        &mut self,
        now: Timestamp,
        device: DeviceId,
        sign: Sign<'_>,
    ) -> Result<(), HouseholdError> {
        if !self.is_host() {
            return Err(HouseholdError::NotHost);
        }
        if device == self.own {
            return Err(HouseholdError::Itself);
        }
        let certificate = self
            .roster
            .certificate(&device)
            .ok_or(HouseholdError::NoDevice)?;
        let removal = Removal {
            household: self.account(),
            device,
            // Also for a certificate that a fast clock dated into the future.
            removed_at: now.max(certificate.certificate.issued_at),
        };
        let signature = sign(removal.digest()).ok_or(HouseholdError::Signing)?;
        let signed = SignedRemoval { removal, signature };
        self.roster.take(now, HouseholdStatement::Removal(signed))?;
        // Its invitation would let it in again.
        self.invitations.burn(device);
        Ok(())
    }

    /// Lets a device go that says so itself. It may say so again, when the answer did not reach it.
    ///
    /// # Errors
    /// Why not.
    pub fn release(
        &mut self,
        now: Timestamp,
        device: DeviceId,
        sign: Sign<'_>,
    ) -> Result<HouseholdStatement, JoinRefusal> {
        if !self.is_host() {
            return Err(JoinRefusal::NotHost);
        }
        if self.roster.is_member(now, &device) {
            self.remove(now, device, sign)
                .map_err(|error| match error {
                    HouseholdError::Itself => JoinRefusal::Stranger,
                    _ => JoinRefusal::Unable,
                })?;
        }
        let removal = self.roster.removal(&device).cloned();
        let removal = removal.ok_or(JoinRefusal::Stranger)?;
        Ok(HouseholdStatement::Removal(removal))
    }

    /// Whether an answer says that the household let this device go.
    pub fn is_released_by(&self, now: Timestamp, reply: &HouseholdReply) -> bool {
        let HouseholdReply::Statements(told) = reply else {
            return false;
        };
        told.iter().any(|statement| match statement {
            HouseholdStatement::Removal(one) => {
                one.removal.device == self.own && statement.check(self.account(), now).is_ok()
            }
            HouseholdStatement::Certificate(_) => false,
        })
    }

    /// Belongs to its own household again.
    ///
    /// # Errors
    /// When it joined none.
    pub fn leave(&mut self) -> Result<(), HouseholdError> {
        if self.is_host() {
            return Err(HouseholdError::NotJoined);
        }
        self.go_home();
        Ok(())
    }

    fn go_home(&mut self) {
        self.roster = Roster::new(self.account);
        self.invitations = Invitations::default();
    }

    /// A device that does not belong to the household it joined has no business with its roster.
    fn settle(&mut self, now: Timestamp) {
        if !self.is_host() && !self.roster.is_member(now, &self.own) {
            self.go_home();
        }
    }

    fn certify(
        &mut self,
        now: Timestamp,
        device: DeviceId,
        name: String,
        sign: Sign<'_>,
    ) -> Result<(), HouseholdError> {
        let after = |time: Timestamp| time.plus_ms(1);
        let earlier = self.roster.removal(&device);
        let earlier = earlier.map(|one| after(one.removal.removed_at));
        let known = self.roster.certificate(&device);
        let known = known.map(|one| after(one.certificate.issued_at));
        let issued_at = [earlier, known].into_iter().flatten().fold(now, Ord::max);
        let certificate = Certificate {
            household: self.account(),
            device,
            name,
            issued_at,
            expires_at: issued_at.plus_ms(CERTIFICATE_TTL_MS),
        };
        let signature = sign(certificate.digest()).ok_or(HouseholdError::Signing)?;
        let signed = SignedCertificate {
            certificate,
            signature,
        };
        self.roster
            .take(now, HouseholdStatement::Certificate(signed))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

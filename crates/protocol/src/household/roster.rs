//! The devices that belong to a household, by what it signed (spec: household, section 2).

use std::collections::BTreeMap;

use alloy_primitives::Address;

use super::certificate::{
    HouseholdStatement, HouseholdStatementError, STATEMENT_TTL_MS_MAX, SignedCertificate,
    SignedRemoval,
};
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// The most devices of a household.
pub const DEVICES_MAX: usize = 64;
/// The most removals that are kept.
pub const REMOVALS_MAX: usize = 256;

/// The newest certificate and removal of each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    household: Address,
    certificates: BTreeMap<DeviceId, SignedCertificate>,
    removals: BTreeMap<DeviceId, SignedRemoval>,
}

impl Roster {
    /// Of a household of which nothing is known yet.
    pub fn new(household: Address) -> Self {
        Self {
            household,
            certificates: BTreeMap::new(),
            removals: BTreeMap::new(),
        }
    }

    /// The household.
    pub fn household(&self) -> Address {
        self.household
    }

    /// Takes a statement in. True when it is news.
    ///
    /// # Errors
    /// When it is not the household's, or does not hold.
    pub fn take(
        &mut self,
        now: Timestamp,
        statement: HouseholdStatement,
    ) -> Result<bool, HouseholdStatementError> {
        if self.is_known(&statement) {
            return Ok(false);
        }
        statement.check(self.household, now)?;
        match statement {
            HouseholdStatement::Certificate(one) => self.take_certificate(one),
            HouseholdStatement::Removal(one) => self.take_removal(now, one),
        }
    }

    /// Known already, or older than what is known: nothing that has to be checked.
    fn is_known(&self, statement: &HouseholdStatement) -> bool {
        match statement {
            HouseholdStatement::Certificate(one) => {
                let device = &one.certificate.device;
                let known = self.certificates.get(device);
                known == Some(one)
                    || known.is_some_and(|known| {
                        known.certificate.issued_at > one.certificate.issued_at
                            && one.certificate.household == self.household
                    })
            }
            HouseholdStatement::Removal(one) => self.removals.get(&one.removal.device) == Some(one),
        }
    }

    fn take_certificate(
        &mut self,
        one: SignedCertificate,
    ) -> Result<bool, HouseholdStatementError> {
        let (device, issued_at) = (one.certificate.device, one.certificate.issued_at);
        if self.is_removed(&device, issued_at) {
            return Ok(false);
        }
        if !self.has_room(&device) {
            return Err(HouseholdStatementError::Full);
        }
        let known = self.certificates.get(&device);
        // Two of the same time differ only where the household signed both; the larger signature
        // stands, so that every device keeps the same one.
        let stands = known.is_none_or(|known| {
            (issued_at, one.signature.as_bytes())
                > (known.certificate.issued_at, known.signature.as_bytes())
        });
        if stands {
            self.certificates.insert(device, one);
        }
        Ok(stands)
    }

    fn take_removal(
        &mut self,
        now: Timestamp,
        one: SignedRemoval,
    ) -> Result<bool, HouseholdStatementError> {
        let (device, removed_at) = (one.removal.device, one.removal.removed_at);
        if self.is_removed(&device, removed_at) {
            return Ok(false);
        }
        // Every certificate that it speaks of has ended by itself.
        if now.ms_since(removed_at) > STATEMENT_TTL_MS_MAX {
            return Ok(false);
        }
        if self.removals.len() >= REMOVALS_MAX && !self.removals.contains_key(&device) {
            return Err(HouseholdStatementError::Full);
        }
        self.removals.insert(device, one);
        let certificate = self.certificates.get(&device);
        if certificate.is_some_and(|one| one.certificate.issued_at <= removed_at) {
            self.certificates.remove(&device);
        }
        Ok(true)
    }

    fn is_removed(&self, device: &DeviceId, at: Timestamp) -> bool {
        let removal = self.removals.get(device);
        removal.is_some_and(|one| one.removal.removed_at >= at)
    }

    /// Whether a certificate of this device would be kept.
    pub fn has_room(&self, device: &DeviceId) -> bool {
        self.certificates.len() < DEVICES_MAX || self.certificates.contains_key(device)
    }

    /// Whether the device belongs to the household now.
    pub fn is_member(&self, now: Timestamp, device: &DeviceId) -> bool {
        let certificate = self.certificates.get(device);
        certificate.is_some_and(|one| one.certificate.expires_at > now)
    }

    /// The devices that belong to it now.
    pub fn members(&self, now: Timestamp) -> impl Iterator<Item = &SignedCertificate> {
        let all = self.certificates.values();
        all.filter(move |one| one.certificate.expires_at > now)
    }

    /// The certificate of a device.
    pub fn certificate(&self, device: &DeviceId) -> Option<&SignedCertificate> {
        self.certificates.get(device)
    }

    /// The removal of a device.
    pub fn removal(&self, device: &DeviceId) -> Option<&SignedRemoval> {
        self.removals.get(device)
    }

    /// Everything that is known, removals first.
    pub fn statements(&self) -> Vec<HouseholdStatement> {
        let removals = self
            .removals
            .values()
            .cloned()
            .map(HouseholdStatement::Removal);
        let certificates = self.certificates.values().cloned();
        removals
            .chain(certificates.map(HouseholdStatement::Certificate))
            .collect()
    }

    /// Forgets what has ended, so that it takes no room. True when there was any.
    pub fn prune(&mut self, now: Timestamp) -> bool {
        let before = (self.certificates.len(), self.removals.len());
        self.certificates
            .retain(|_, one| one.certificate.expires_at > now);
        self.removals
            .retain(|_, one| now.ms_since(one.removal.removed_at) <= STATEMENT_TTL_MS_MAX);
        before != (self.certificates.len(), self.removals.len())
    }
}

//! What this device states for the ledger: written down before it is signed, and never two things about one subject.
//!
//! Anyone who has two signatures of a device under one subject and sequence can have it expelled, so a crash, a second
//! task or a restored copy of a list in memory must not lead to a second one. Only contracts of the known ledger are signed
//! for: another contract could have the signers of statements that name it expelled.

use alloy_primitives::{Address, B256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use hearth_chain::deployment::LedgerAddresses;
use hearth_chain::ledger::{Ledger, LedgerCall};
use hearth_payments::signing::sign;
use hearth_payments::store::{Batch, Store, StoreError, Table};
use hearth_protocol::id::DeviceId;
use hearth_protocol::ledger::statement::{
    EpochStatement, LedgerDomain, LedgerStatement, Registration, RoundStatement, VerdictStatement,
};
use hearth_protocol::signature::Signature;
use thiserror::Error;

use crate::advice::{Advice, CHECK_DISK};
use crate::keys::{DeviceIndex, Unlocked};

/// What was signed: the content, by the hash of chain, key, subject and sequence.
const SIGNED: Table<[u8; 32]> = Table::new("ledger_signed");

/// What a device can state for the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declaration {
    /// That it is there to validate in an epoch.
    Enrollment {
        /// The epoch.
        epoch: u64,
    },
    /// What was earned by the end of an epoch.
    Epoch(EpochStatement),
    /// One round of a run.
    Round(RoundStatement),
    /// That a device cheated.
    Verdict(VerdictStatement),
}

/// Why a statement was not signed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignError {
    /// This device said something else before.
    #[error(
        "this device has signed another content ({said}) under the subject {subject}, sequence {sequence}"
    )]
    SaidOtherwise {
        /// What it is about.
        subject: B256,
        /// The epoch or round.
        sequence: u64,
        /// What it said.
        said: B256,
    },
    /// It could not be written down.
    #[error("nothing was signed, because it could not be written down first")]
    Store(#[from] StoreError),
}

impl Advice for SignError {
    fn code(&self) -> &str {
        match self {
            Self::SaidOtherwise { .. } => "said_otherwise",
            Self::Store(_) => "store_failed",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::SaidOtherwise { .. } => {
                "Stay with what was signed: a second statement would have this device expelled"
                    .to_owned()
            }
            Self::Store(_) => CHECK_DISK.to_owned(),
        }
    }
}

impl Declaration {
    /// The statement for the contracts at `at`.
    pub fn statement(&self, at: &LedgerAddresses) -> LedgerStatement {
        match self {
            Self::Enrollment { epoch } => LedgerStatement::enrollment(at.validators, *epoch),
            Self::Epoch(statement) => statement.for_rewards(at.rewards),
            Self::Round(statement) => statement.for_runs(at.runs),
            Self::Verdict(statement) => statement.for_validators(at.validators),
        }
    }
}

/// Signs for one ledger with the session key of this device.
#[derive(Debug)]
pub struct LedgerSigner {
    key: PrivateKeySigner,
    addresses: LedgerAddresses,
    domain: LedgerDomain,
    store: Store,
}

impl LedgerSigner {
    /// What the device with the session key `key` signs for `ledger`, written down in `store`.
    pub fn new(key: PrivateKeySigner, ledger: &Ledger, store: Store) -> Self {
        Self::of_parts(key, *ledger.addresses(), *ledger.domain(), store)
    }

    fn of_parts(
        key: PrivateKeySigner,
        addresses: LedgerAddresses,
        domain: LedgerDomain,
        store: Store,
    ) -> Self {
        Self {
            key,
            addresses,
            domain,
            store,
        }
    }

    /// The account that signs.
    pub fn session_key(&self) -> Address {
        self.key.address()
    }

    /// Signs what is declared, once it is durable that this and nothing else is said. The same again gives the same
    /// signature.
    ///
    /// # Errors
    /// [`SignError::SaidOtherwise`] where another content was signed before; [`SignError::Store`].
    pub async fn sign(&self, declaration: &Declaration) -> Result<Signature, SignError> {
        let statement = declaration.statement(&self.addresses);
        let place = self.place(&statement);
        if self.said(&place)?.is_none() {
            let mut batch = Batch::default();
            batch.put_new(SIGNED, &place, &statement.content.0)?;
            self.store.commit(batch).await?;
        }
        // Of two at once the first to be written stands; the other reads it here.
        let said = self.said(&place)?.ok_or(StoreError::Stopped)?;
        if said != statement.content {
            return Err(SignError::SaidOtherwise {
                subject: statement.subject,
                sequence: statement.sequence,
                said,
            });
        }
        Ok(sign(&self.key, self.domain.statement_digest(&statement)))
    }

    fn said(&self, place: &[u8; 32]) -> Result<Option<B256>, StoreError> {
        Ok(self.store.get(SIGNED, place)?.map(B256::new))
    }

    /// The same subject means something else on another chain, or to another key.
    fn place(&self, statement: &LedgerStatement) -> [u8; 32] {
        let sequence = statement.sequence.to_be_bytes();
        let (separator, key) = (self.domain.separator(), self.key.address());
        let parts = [
            separator.as_slice(),
            key.as_slice(),
            statement.subject.as_slice(),
            &sequence,
        ];
        keccak256(parts.concat()).0
    }
}

/// The keys by which a device is registered.
#[derive(Debug, Clone)]
pub struct RegistrationKeys {
    /// Of the household.
    pub household: PrivateKeySigner,
    /// Of the device.
    pub session: PrivateKeySigner,
    /// The device.
    pub device: DeviceId,
}

impl RegistrationKeys {
    /// The keys of a device of this household.
    pub fn of(keys: &Unlocked, device: DeviceIndex) -> Self {
        Self {
            household: keys.household(),
            session: keys.session(device),
            device: hearth_net::device_of_key(&keys.endpoint_key(device)),
        }
    }
}

/// The call that registers a device of the household on `ledger`, signed by the household and by the device's session key.
pub fn registration_call(keys: &RegistrationKeys, ledger: &Ledger) -> LedgerCall {
    let registration = Registration {
        device: keys.device,
        household: keys.household.address(),
        session_key: keys.session.address(),
    };
    let digest = ledger.domain().registration_digest(&registration);
    let by_household = sign(&keys.household, digest);
    let by_household = by_household.as_bytes().to_vec().into();
    let by_session = sign(&keys.session, digest);
    ledger
        .addresses()
        .register(&registration, by_household, &by_session)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hearth_chain::embedded::LEDGER_ADDRESSES;
    use hearth_environment::SystemEnvironment;
    use hearth_protocol::id::ChainId;
    use hearth_protocol::money::Amount;

    use super::*;

    fn key(seed: u8) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(seed)).unwrap()
    }

    fn store(path: &Path) -> Store {
        Store::open(path, &SystemEnvironment).unwrap()
    }

    fn signer(store: &Store, seed: u8, chain: u64) -> LedgerSigner {
        let domain = LedgerDomain::new(ChainId(chain), LEDGER_ADDRESSES.devices);
        LedgerSigner::of_parts(key(seed), LEDGER_ADDRESSES, domain, store.clone())
    }

    fn round(next: u8) -> Declaration {
        Declaration::Round(RoundStatement {
            run: B256::repeat_byte(1),
            round: 4,
            parent: B256::repeat_byte(2),
            contributions: B256::repeat_byte(3),
            next: B256::repeat_byte(next),
        })
    }

    fn is_otherwise(outcome: Result<Signature, SignError>) -> bool {
        matches!(outcome, Err(SignError::SaidOtherwise { sequence: 4, .. }))
    }

    #[tokio::test]
    async fn what_was_said_is_said_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("store"));
        let one = signer(&store, 1, 5);
        let signature = one.sign(&round(9)).await.unwrap();
        let statement = round(9).statement(&LEDGER_ADDRESSES);
        let digest = one.domain.statement_digest(&statement);
        assert_eq!(signature.signer(digest), Ok(one.session_key()));
        assert_eq!(one.sign(&round(9)).await.unwrap(), signature);
        assert!(is_otherwise(one.sign(&round(8)).await));
        // Another device, another chain and another subject are other matters.
        signer(&store, 2, 5).sign(&round(8)).await.unwrap();
        signer(&store, 1, 6).sign(&round(8)).await.unwrap();
        one.sign(&Declaration::Enrollment { epoch: 4 })
            .await
            .unwrap();
        let verdict = |amount| {
            Declaration::Verdict(VerdictStatement {
                device: Address::repeat_byte(1),
                token: Address::repeat_byte(2),
                amount: Amount::new(amount),
                evidence: B256::repeat_byte(3),
            })
        };
        one.sign(&verdict(1)).await.unwrap();
        assert!(one.sign(&verdict(2)).await.is_err());
    }

    #[tokio::test]
    async fn of_two_at_once_one_is_signed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("store"));
        let one = signer(&store, 1, 5);
        let (a, b) = (round(9), round(8));
        let (first, second) = tokio::join!(one.sign(&a), one.sign(&b));
        assert_ne!(first.is_ok(), second.is_ok());
        assert!(is_otherwise(if first.is_ok() { second } else { first }));
    }

    /// The files as they are the moment a signature is there: what a power cut would leave.
    #[tokio::test]
    async fn what_was_signed_before_a_crash_binds_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let store = store(&path);
        let signature = signer(&store, 1, 5).sign(&round(9)).await.unwrap();
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let journal = |path: &Path| path.with_added_extension("journal");
        std::fs::copy(journal(&path), journal(&copy)).unwrap();
        drop(store);
        let after = self::store(&copy);
        let one = signer(&after, 1, 5);
        assert!(is_otherwise(one.sign(&round(8)).await));
        assert_eq!(one.sign(&round(9)).await.unwrap(), signature);
    }
}

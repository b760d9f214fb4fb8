//! The ledger's contracts on a chain that does not have them: where they stand, and the transactions that put them there.
//!
//! Anyone may send these, in this order, as often as they like: an address follows from the code and the terms, so that
//! nothing else can ever stand there, and what stands there is left out. Pure; asking the chain and sending
//! is the caller's. Spec: 14 ledger, section 8.

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};

use crate::bindings;

/// The deterministic deployment proxy (Arachnid): it creates, by CREATE2, what follows 32 bytes of salt in its input. It is
/// on nearly every public chain, and a presigned transaction puts it on any other.
pub const CREATE2_DEPLOYER: Address = address!("0x4e59b44847b379578588920cA78FbF26c0B4956C");

/// The salt of all deployments; terms and code tell them apart.
const SALT: B256 = B256::ZERO;

/// What is fixed when a ledger is put up, and never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerTerms {
    /// Households of the first validators.
    pub founders: Vec<Address>,
    /// Voice that each of them starts with, in atomic units.
    pub votes_each: U256,
    /// Seconds of an epoch: 4 to a week, and a divisor of four years of 365 days.
    pub epoch_s: u64,
    /// Seconds in which a record can be challenged: 1 to a week.
    pub window_s: u64,
}

/// Where the contracts of a ledger stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerAddresses {
    /// Registration, bonds, equivocation.
    pub devices: Address,
    /// The token of checked work.
    pub ember: Address,
    /// Earned votes.
    pub voice: Address,
    /// Who validates.
    pub validators: Address,
    /// Records of epochs, and claims.
    pub rewards: Address,
    /// Runs, their rounds and pledges.
    pub runs: Address,
}

/// One transaction of a deployment, to [`CREATE2_DEPLOYER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentStep {
    /// The contract that it creates.
    pub name: &'static str,
    /// Where that will stand. With code there the step is done.
    pub address: Address,
    /// Input of the transaction.
    pub input: Bytes,
}

/// A ledger on a public chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerDeployment {
    /// Where everything stands when all steps are done.
    pub addresses: LedgerAddresses,
    /// The transactions, in order: each needs those before it.
    pub steps: Vec<DeploymentStep>,
}

impl LedgerAddresses {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> [Address; 6] {
        [
            self.devices,
            self.ember,
            self.voice,
            self.validators,
            self.rewards,
            self.runs,
        ]
    }
}

impl LedgerDeployment {
    /// The deployment of a ledger with these terms: the same on every chain.
    #[must_use]
    pub fn new(terms: &LedgerTerms) -> Self {
        let devices = DeploymentStep::new("Devices", &bindings::devices_init());
        let init = bindings::ledger_init(
            devices.address,
            terms.founders.clone(),
            terms.votes_each,
            terms.epoch_s,
            terms.window_s,
        );
        let ledger = DeploymentStep::new("Ledger", &init);
        // The order in which the constructor of `Ledger` creates them; a contract's first nonce is one.
        let [ember, voice, validators, rewards] =
            [1, 2, 3, 4].map(|nonce| ledger.address.create(nonce));
        let runs = DeploymentStep::new("Runs", &bindings::runs_init(validators, rewards));
        Self {
            addresses: LedgerAddresses {
                devices: devices.address,
                ember,
                voice,
                validators,
                rewards,
                runs: runs.address,
            },
            steps: vec![devices, ledger, runs],
        }
    }

    /// The steps that are left where `has_code` says which addresses have code.
    pub fn remaining(
        &self,
        has_code: impl Fn(Address) -> bool,
    ) -> impl Iterator<Item = &DeploymentStep> {
        self.steps
            .iter()
            .filter(move |step| !has_code(step.address))
    }
}

impl DeploymentStep {
    fn new(name: &'static str, init: &Bytes) -> Self {
        Self {
            name,
            address: CREATE2_DEPLOYER.create2(SALT, keccak256(init)),
            input: [SALT.as_slice(), init].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(founder: u8) -> LedgerTerms {
        LedgerTerms {
            founders: vec![Address::repeat_byte(founder)],
            votes_each: U256::from(1),
            epoch_s: 86_400,
            window_s: 86_400,
        }
    }

    #[test]
    fn other_terms_are_another_ledger_with_the_same_devices() {
        let one = LedgerDeployment::new(&terms(1));
        let two = LedgerDeployment::new(&terms(2));
        assert_eq!(one, LedgerDeployment::new(&terms(1)));
        assert_eq!(one.addresses.devices, two.addresses.devices);
        for (one, two) in one.addresses.all().iter().zip(two.addresses.all()).skip(1) {
            assert_ne!(*one, two);
        }
    }

    #[test]
    fn what_stands_is_not_deployed_again() {
        let deployment = LedgerDeployment::new(&terms(1));
        let devices = deployment.addresses.devices;
        let left: Vec<&str> = deployment
            .remaining(|address| address == devices)
            .map(|step| step.name)
            .collect();
        assert_eq!(left, ["Ledger", "Runs"]);
        assert_eq!(deployment.remaining(|_| true).count(), 0);
    }

    #[test]
    fn no_step_is_above_the_size_that_a_chain_takes() {
        let mut terms = terms(1);
        terms.founders = vec![Address::repeat_byte(1); 128];
        for step in LedgerDeployment::new(&terms).steps {
            // EIP-3860.
            assert!(step.input.len() <= 49_152, "{}", step.name);
        }
    }
}

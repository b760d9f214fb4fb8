//! A ledger with households, their devices and a clock, and the short words that its tests use.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, TxKind, U256, bytes, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use hearth_chain::bindings::{Devices, Ember, Rewards, TestDollar, Validators, Voice};
use hearth_chain::deployment::{CREATE2_DEPLOYER, LedgerAddresses, LedgerDeployment, LedgerTerms};
use hearth_protocol::id::{ChainId, DeviceId};
use hearth_protocol::ledger::statement::{
    EpochStatement, LedgerDomain, LedgerStatement, Registration,
};
use hearth_protocol::ledger::sum_tree::{SumProof, SumTree};
use hearth_protocol::money::Amount;

use crate::chain::{Chain, Receipt, RevmChain};

/// Seconds of an epoch of these tests, of its enrollment, and of the challenge window.
pub(super) const EPOCH_S: u64 = 3_600;
pub(super) const ENROLLMENT_S: u64 = EPOCH_S / 4;
pub(super) const WINDOW_S: u64 = 2_750;

/// Voice that a founder starts with.
pub(super) const FOUNDING_VOTES: u64 = 1_000_000_000_000;

/// Runtime code of the deterministic deployment proxy, as it is on public chains.
const CREATE2_DEPLOYER_CODE: Bytes = bytes!(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
);

/// The ledger of one test, and how far its clock is.
pub(super) struct Town {
    pub(super) chain: RevmChain,
    pub(super) at: LedgerAddresses,
    pub(super) origin: u64,
}

/// The key of that name. Worth nothing.
pub(super) fn key(name: &str) -> PrivateKeySigner {
    let seed = keccak256(format!("hearth ledger test: {name}"));
    PrivateKeySigner::from_bytes(&seed).expect("a hash is a key but for one in 2^128")
}

pub(super) fn household(number: usize) -> PrivateKeySigner {
    key(&format!("household {number}"))
}

pub(super) fn device(number: usize) -> PrivateKeySigner {
    key(&format!("device {number}"))
}

pub(super) fn terms(founders: usize) -> LedgerTerms {
    LedgerTerms {
        founders: (0..founders).map(|n| household(n).address()).collect(),
        votes_each: U256::from(FOUNDING_VOTES),
        epoch_s: EPOCH_S,
        window_s: WINDOW_S,
    }
}

pub(super) fn sign(signer: &PrivateKeySigner, digest: B256) -> Bytes {
    let signature = signer.sign_hash_sync(&digest).expect("a local key signs");
    signature.as_bytes().to_vec().into()
}

/// A chain that has the deployment proxy and nothing of the ledger.
pub(super) fn empty_chain(chain_id: u64) -> RevmChain {
    let mut chain = RevmChain::with_chain_id(chain_id);
    chain.place(CREATE2_DEPLOYER, CREATE2_DEPLOYER_CODE);
    chain
}

impl Town {
    /// A ledger whose founders are the first `founders` households, each with a registered device.
    pub(super) fn new(founders: usize) -> Self {
        Self::on(empty_chain(RevmChain::CHAIN_ID), founders)
    }

    pub(super) fn on(mut chain: RevmChain, founders: usize) -> Self {
        let deployment = LedgerDeployment::new(&terms(founders));
        for step in &deployment.steps {
            let to = TxKind::Call(CREATE2_DEPLOYER);
            chain
                .send(&key("anyone"), to, step.input.clone())
                .succeeded();
        }
        let origin = chain.now();
        let mut town = Self {
            chain,
            at: deployment.addresses,
            origin,
        };
        for number in 0..founders {
            town.register(number).succeeded();
        }
        town
    }

    pub(super) fn domain(&self) -> LedgerDomain {
        LedgerDomain::new(ChainId(self.chain.chain_id()), self.at.devices)
    }

    pub(super) fn send<C: SolCall>(
        &mut self,
        from: &PrivateKeySigner,
        to: Address,
        call: &C,
    ) -> Receipt {
        self.chain
            .send(from, TxKind::Call(to), call.abi_encode().into())
    }

    /// Has somebody who has nothing to do with it send a call.
    pub(super) fn relay<C: SolCall>(&mut self, to: Address, call: &C) -> Receipt {
        self.send(&key("anyone"), to, call)
    }

    pub(super) fn read<C: SolCall>(&mut self, to: Address, call: &C) -> C::Return {
        let output = self.chain.read(to, call.abi_encode().into());
        C::abi_decode_returns(&output.expect("a view succeeds")).expect("a view answers")
    }

    pub(super) fn create(&mut self, init_code: Bytes) -> Address {
        let receipt = self.chain.send(&key("anyone"), TxKind::Create, init_code);
        receipt.succeeded().created.expect("a contract was created")
    }

    /// Creates tokens; every token of these tests has the dollar's `mint`.
    pub(super) fn mint(&mut self, token: Address, to: Address, value: u128) {
        let value = U256::from(value);
        self.relay(token, &TestDollar::mintCall { to, value })
            .succeeded();
    }

    pub(super) fn balance(&mut self, token: Address, account: Address) -> u128 {
        self.read(token, &TestDollar::balanceOfCall { account })
            .to()
    }

    pub(super) fn approve(&mut self, owner: &PrivateKeySigner, token: Address, spender: Address) {
        let call = TestDollar::approveCall {
            spender,
            value: U256::MAX,
        };
        self.send(owner, token, &call).succeeded();
    }

    /// Moves the clock to `offset_s` seconds into an epoch. Time never goes back.
    pub(super) fn go(&mut self, epoch: u64, offset_s: u64) {
        let then = self.origin + epoch * EPOCH_S + offset_s;
        let ahead = then.checked_sub(self.chain.now());
        self.chain.advance(ahead.expect("time goes forward"));
    }

    pub(super) fn registration(&self, number: usize) -> Registration {
        Registration {
            device: DeviceId(keccak256(format!("endpoint {number}")).0),
            household: household(number).address(),
            session_key: device(number).address(),
        }
    }

    pub(super) fn register(&mut self, number: usize) -> Receipt {
        let call = self.register_call(number);
        self.relay(self.at.devices, &call)
    }

    pub(super) fn register_call(&self, number: usize) -> Devices::registerCall {
        let registration = self.registration(number);
        let digest = self.domain().registration_digest(&registration);
        Devices::registerCall {
            endpointKey: registration.device.0.into(),
            household: registration.household,
            sessionKey: registration.session_key,
            householdSignature: sign(&household(number), digest),
            sessionSignature: sign(&device(number), digest),
        }
    }

    pub(super) fn enroll(&mut self, number: usize, epoch: u64) -> Receipt {
        let statement = LedgerStatement::enrollment(self.at.validators, epoch);
        let digest = self.domain().statement_digest(&statement);
        let call = Validators::enrollCall {
            device: device(number).address(),
            signature: sign(&device(number), digest),
        };
        self.relay(self.at.validators, &call)
    }

    /// Has these devices enroll in an epoch, and waits until its set is in office.
    pub(super) fn seat(&mut self, epoch: u64, devices: impl IntoIterator<Item = usize>) {
        self.go(epoch, 1);
        for number in devices {
            self.enroll(number, epoch).succeeded();
        }
        self.go(epoch, ENROLLMENT_S);
    }

    pub(super) fn seats(&mut self, epoch: u64) -> Vec<Validators::Seat> {
        self.read(self.at.validators, &Validators::seatsCall { epoch })
    }

    /// The mask of these devices in an epoch, and their signatures in the order of seats.
    pub(super) fn signed(
        &mut self,
        epoch: u64,
        statement: &LedgerStatement,
        devices: &[usize],
    ) -> (u32, Bytes) {
        let digest = self.domain().statement_digest(statement);
        let mut mask = 0;
        let mut signatures = Vec::new();
        for (seat, taken) in self.seats(epoch).iter().enumerate() {
            let signer = devices
                .iter()
                .map(|number| device(*number))
                .find(|device| device.address() == taken.device);
            if let Some(signer) = signer {
                mask |= 1 << seat;
                signatures.extend_from_slice(&sign(&signer, digest));
            }
        }
        (mask, signatures.into())
    }

    /// A record of `tree`, signed by `devices` of the set of the epoch after it.
    pub(super) fn record_call(
        &mut self,
        epoch: u64,
        base: Option<u64>,
        tree: &SumTree,
        devices: &[usize],
    ) -> Rewards::recordCall {
        let root = tree.root();
        let statement = EpochStatement {
            epoch,
            asset: tree.asset(),
            root: root.hash,
            total: root.sum,
            data: tree.data_hash(),
        };
        let statement = statement.for_rewards(self.at.rewards);
        let (mask, signatures) = self.signed(epoch + 1, &statement, devices);
        Rewards::recordCall {
            asset: tree.asset(),
            epoch,
            base: base.unwrap_or(u64::MAX),
            root: root.hash,
            total: U256::from(root.sum.units()),
            data: tree.data_hash().0.into(),
            mask,
            signatures,
        }
    }

    pub(super) fn record(
        &mut self,
        epoch: u64,
        base: Option<u64>,
        tree: &SumTree,
        devices: &[usize],
    ) -> Receipt {
        let call = self.record_call(epoch, base, tree, devices);
        self.relay(self.at.rewards, &call)
    }

    pub(super) fn claim(&mut self, epoch: u64, tree: &SumTree, account: Address) -> Receipt {
        let call = Rewards::claimCall {
            asset: tree.asset(),
            epoch,
            leaf: leaf_of(tree, account),
        };
        self.relay(self.at.rewards, &call)
    }

    pub(super) fn votes(&mut self, account: Address) -> U256 {
        self.read(self.at.voice, &Voice::balanceOfCall { account })
    }

    pub(super) fn ember_supply(&mut self) -> u128 {
        self.read(self.at.ember, &Ember::totalSupplyCall {}).to()
    }

    /// An account's stake before a court.
    pub(super) fn stake(&mut self, number: usize, court: Address, token: Address) -> (u128, u128) {
        let call = Devices::stakeOfCall {
            device: device(number).address(),
            court,
            token,
        };
        let stake = self.read(self.at.devices, &call);
        (stake.bonded, stake.leaving)
    }
}

/// A tree of what these accounts earned.
pub(super) fn tree(asset: Address, earned: &[(Address, u128)]) -> SumTree {
    let earned: BTreeMap<_, _> = earned
        .iter()
        .map(|(account, units)| (*account, Amount::new(*units)))
        .collect();
    SumTree::new(asset, &earned).expect("the rewards make a tree")
}

pub(super) fn path(proof: &SumProof) -> Rewards::Path {
    let siblings = proof.siblings.iter();
    Rewards::Path {
        index: U256::from(proof.index),
        siblings: siblings
            .map(|node| Rewards::Node {
                hash: node.hash,
                sum: U256::from(node.sum.units()),
            })
            .collect(),
    }
}

/// The leaf of an account, with its proof.
pub(super) fn leaf_of(tree: &SumTree, account: Address) -> Rewards::Leaf {
    let proof = tree.proof(account).expect("the account has a leaf");
    let cumulative = tree.cumulative(account).expect("the account has a leaf");
    Rewards::Leaf {
        account,
        cumulative: U256::from(cumulative.units()),
        path: path(&proof),
    }
}

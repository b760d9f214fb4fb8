//! What stands on the chain before its first transaction.
//!
//! Contracts are placed, not deployed: the canonical payment contracts must stand at addresses that no
//! deployment of ours can reach, because clients hard-code them in what they sign. A constructor is
//! run in place, with its own address as `address(this)`, so that immutables and cached domain separators come out as
//! if the contract had been deployed there (spec: 05 embedded chain, section 2).

use std::collections::BTreeMap;

use alloy_consensus::Sealed;
use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::SolCall;
use revm::DatabaseCommit;
use revm::bytecode::Bytecode;
use revm::context::TxEnv;
use revm::context::result::ExecutionResult;
use revm::database::{CacheDB, EmptyDB};
use revm::primitives::TxKind;
use revm::state::AccountInfo;

use crate::bindings::{self, COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS};
use crate::deployment::{LedgerAddresses, LedgerTerms};

use super::block::{AccountState, ExecutedBlock, StateChanges, genesis_header};
use super::execute::{absorb, block_env, simulate};
use super::limits::BLOCK_GAS_LIMIT;

/// The sender of calls that genesis makes; it has no key and keeps nothing.
const GENESIS_CALLER: Address = Address::repeat_byte(0xfe);

/// The code of a contract placed by genesis.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GenesisCode {
    /// Placed as it is.
    Runtime(Bytes),
    /// Creation code followed by its ABI-encoded constructor arguments; what it returns is placed.
    Constructor(Bytes),
}

/// A call made once, in order, after all contracts are placed; it must succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenesisCall {
    /// The account that calls.
    pub from: Address,
    /// The contract called.
    pub to: Address,
    /// The ABI-encoded call.
    pub input: Bytes,
}

/// The contents of block 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Genesis {
    /// Contracts by address.
    pub contracts: BTreeMap<Address, GenesisCode>,
    /// Native coin, in wei. Gas is free, so no account needs any.
    pub balances: BTreeMap<Address, U256>,
    /// Calls made when all contracts stand.
    pub calls: Vec<GenesisCall>,
    /// Unix seconds of block 0; the clock's time when `None`.
    pub timestamp_s: Option<u64>,
}

/// Why a genesis cannot be made. Each is a mistake in the [`Genesis`] given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// A constructor reverted or ran out of gas.
    #[error("the constructor for {address} failed ({reason}); check its code and arguments")]
    Constructor {
        /// Where the contract was to stand.
        address: Address,
        /// What the EVM said.
        reason: String,
    },
    /// A call reverted or ran out of gas.
    #[error(
        "the call from {from} to {to} failed ({reason}); check its input and that the contract stands there"
    )]
    Call {
        /// The account that called.
        from: Address,
        /// Whom.
        to: Address,
        /// What the EVM said.
        reason: String,
    },
    /// Code that the EVM cannot read.
    #[error("the code for {address} is not EVM code; give the runtime code of a compiled contract")]
    Code {
        /// Where it was to stand.
        address: Address,
    },
}

/// Where [`Genesis::standard`] places Ember: the last 20 bytes of `keccak256("hearth embedded Ember")`.
pub const EMBER_ADDRESS: Address = address!("0x5f2d459e271fe336ff6c161ec992ee34ba695b9e");
/// Where [`Genesis::standard`] places TestDollar: the last 20 bytes of
/// `keccak256("hearth embedded TestDollar")`.
pub const TEST_DOLLAR_ADDRESS: Address = address!("0x569b35ed675c9ca42dbd1b6dd75bdc2965d5ec8e");

/// Where [`Genesis::with_ledger`] places what holds devices, runs, rewards and votes: the last 20 bytes of
/// `keccak256("hearth embedded Devices")` and so on; Ember stays where it is.
pub const LEDGER_ADDRESSES: LedgerAddresses = LedgerAddresses {
    devices: address!("0x393e77b7980c4cf8143b8dfede262d97f765743d"),
    ember: EMBER_ADDRESS,
    voice: address!("0x9e0349e351293447cf963ea018d57920809dabfe"),
    validators: address!("0xe9f06a675f5087d0b76ecedaff12a6e1cc127520"),
    rewards: address!("0xa3f4f8181520393840cffeaaec84852267a0259b"),
    runs: address!("0xca8ec53acc38f46c2c87450cd97b26bc93963e2c"),
};

impl Genesis {
    /// The payment contracts at their canonical addresses, Ember (minted by `ember_minter` alone, zero at first) at
    /// [`EMBER_ADDRESS`] and the worthless TestDollar at [`TEST_DOLLAR_ADDRESS`].
    #[must_use]
    pub fn standard(ember_minter: Address) -> Self {
        Self::default()
            .with_contract(
                SETTLEMENT_ADDRESS,
                GenesisCode::Runtime(bindings::settlement_runtime()),
            )
            .with_contract(
                COLLECTOR_ADDRESS,
                GenesisCode::Constructor(bindings::collector_init(SETTLEMENT_ADDRESS)),
            )
            .with_contract(
                EMBER_ADDRESS,
                GenesisCode::Constructor(bindings::ember_init(ember_minter)),
            )
            .with_contract(
                TEST_DOLLAR_ADDRESS,
                GenesisCode::Constructor(bindings::test_dollar_init()),
            )
    }

    /// Places devices, votes, validators, rewards and runs at [`LEDGER_ADDRESSES`], and an Ember that the rewards alone
    /// mint instead of the one that is there.
    #[must_use]
    pub fn with_ledger(self, terms: &LedgerTerms) -> Self {
        let at = LEDGER_ADDRESSES;
        let known = [at.ember, at.voice, at.devices, at.validators];
        let codes = [
            (at.devices, bindings::devices_init()),
            (at.ember, bindings::ember_init(at.rewards)),
            (
                at.voice,
                bindings::voice_init(at.rewards, terms.founders.clone(), terms.votes_each),
            ),
            (
                at.validators,
                bindings::validators_init(at.devices, at.voice, terms.epoch_s),
            ),
            (at.rewards, bindings::rewards_init(known, terms.window_s)),
            (at.runs, bindings::runs_init(at.validators, at.rewards)),
        ];
        codes.into_iter().fold(self, |genesis, (address, code)| {
            genesis.with_contract(address, GenesisCode::Constructor(code))
        })
    }

    /// Gives `holder` atomic units of TestDollar (6 decimals), where [`Genesis::standard`] placed it.
    #[must_use]
    pub fn with_test_dollars(mut self, holder: Address, atomic: U256) -> Self {
        let mint = bindings::TestDollar::mintCall {
            to: holder,
            value: atomic,
        };
        let input = mint.abi_encode().into();
        self.calls.push(GenesisCall {
            from: GENESIS_CALLER,
            to: TEST_DOLLAR_ADDRESS,
            input,
        });
        self
    }

    /// Adds a contract.
    #[must_use]
    pub fn with_contract(mut self, address: Address, code: GenesisCode) -> Self {
        self.contracts.insert(address, code);
        self
    }

    /// Adds native coin, in wei.
    #[must_use]
    pub fn with_balance(mut self, address: Address, wei: U256) -> Self {
        self.balances.insert(address, wei);
        self
    }

    /// Executes the genesis into block 0; pure.
    pub(crate) fn execute(&self, chain_id: u64, now_s: u64) -> Result<ExecutedBlock, GenesisError> {
        let timestamp = self.timestamp_s.unwrap_or(now_s);
        let mut state = Placement {
            chain_id,
            timestamp,
            db: CacheDB::default(),
            changes: StateChanges::default(),
        };
        for (address, wei) in &self.balances {
            state.set_account(*address, 0, *wei, Bytecode::default());
        }
        for (address, code) in &self.contracts {
            state.place(*address, code)?;
        }
        for call in &self.calls {
            state.call(call)?;
        }
        let header = genesis_header(timestamp, &state.changes);
        Ok(ExecutedBlock {
            header: Sealed::new(header),
            transactions: Vec::new(),
            changes: state.changes,
        })
    }
}

/// The state of block 0 in the making.
struct Placement {
    chain_id: u64,
    timestamp: u64,
    db: CacheDB<EmptyDB>,
    changes: StateChanges,
}

impl Placement {
    fn place(&mut self, address: Address, code: &GenesisCode) -> Result<(), GenesisError> {
        let runtime = match code {
            GenesisCode::Runtime(runtime) => runtime.clone(),
            GenesisCode::Constructor(init) => self.construct(address, init)?,
        };
        let bytecode =
            Bytecode::new_raw_checked(runtime).map_err(|_| GenesisError::Code { address })?;
        let balance = self.balance(address);
        self.set_account(address, 1, balance, bytecode);
        Ok(())
    }

    /// Runs creation code as if it already stood at `address` and returns what it leaves as runtime code.
    fn construct(&mut self, address: Address, init: &Bytes) -> Result<Bytes, GenesisError> {
        let code = Bytecode::new_legacy(init.clone());
        let info = AccountInfo::new(self.balance(address), 1, keccak256(init), code);
        self.db.insert_account_info(address, info);
        self.run(GENESIS_CALLER, address, Bytes::new())
            .map_err(|reason| GenesisError::Constructor { address, reason })
    }

    fn call(&mut self, call: &GenesisCall) -> Result<(), GenesisError> {
        self.run(call.from, call.to, call.input.clone())
            .map(drop)
            .map_err(|reason| GenesisError::Call {
                from: call.from,
                to: call.to,
                reason,
            })
    }

    fn run(&mut self, from: Address, to: Address, input: Bytes) -> Result<Bytes, String> {
        let block = block_env(0, self.timestamp, B256::ZERO);
        let transaction = TxEnv {
            caller: from,
            gas_limit: BLOCK_GAS_LIMIT,
            kind: TxKind::Call(to),
            data: input,
            ..TxEnv::default()
        };
        let (result, mut outcome) = simulate(&mut self.db, self.chain_id, block, transaction)
            .map_err(|error| error.to_string())?;
        match result {
            ExecutionResult::Success { output, .. } => {
                // The caller's nonce is a trace of how block 0 was made, not a part of it.
                outcome.remove(&from);
                let Ok(()) = absorb(&mut self.changes, &mut self.db, &outcome);
                self.db.commit(outcome);
                Ok(output.into_data())
            }
            ExecutionResult::Revert { output, .. } => Err(format!("reverted with {output}")),
            ExecutionResult::Halt { reason, .. } => Err(reason.to_string()),
        }
    }

    fn balance(&self, address: Address) -> U256 {
        self.changes
            .accounts
            .get(&address)
            .map_or(U256::ZERO, |account| account.balance)
    }

    fn set_account(&mut self, address: Address, nonce: u64, balance: U256, code: Bytecode) {
        let bytes = code.original_bytes();
        let code_hash = keccak256(&bytes);
        self.db
            .insert_account_info(address, AccountInfo::new(balance, nonce, code_hash, code));
        self.changes.accounts.insert(
            address,
            AccountState {
                nonce,
                balance,
                code_hash,
            },
        );
        if !bytes.is_empty() {
            self.changes.code.insert(code_hash, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_derived_from_their_names() {
        for (address, name) in [
            (EMBER_ADDRESS, "hearth embedded Ember"),
            (TEST_DOLLAR_ADDRESS, "hearth embedded TestDollar"),
            (LEDGER_ADDRESSES.devices, "hearth embedded Devices"),
            (LEDGER_ADDRESSES.voice, "hearth embedded Voice"),
            (LEDGER_ADDRESSES.validators, "hearth embedded Validators"),
            (LEDGER_ADDRESSES.rewards, "hearth embedded Rewards"),
            (LEDGER_ADDRESSES.runs, "hearth embedded Runs"),
        ] {
            assert_eq!(
                address,
                Address::from_slice(&keccak256(name)[12..]),
                "{name}"
            );
        }
    }

    #[test]
    fn standard_places_every_contract_and_allocates_dollars() {
        let holder = Address::repeat_byte(7);
        let genesis =
            Genesis::standard(Address::repeat_byte(9)).with_test_dollars(holder, U256::from(5));
        let block = genesis.execute(1, 1_700_000_000).unwrap();
        for address in [
            SETTLEMENT_ADDRESS,
            COLLECTOR_ADDRESS,
            EMBER_ADDRESS,
            TEST_DOLLAR_ADDRESS,
        ] {
            let account = block.changes.accounts[&address];
            assert_eq!(account.nonce, 1, "{address}");
            assert!(
                !block.changes.code[&account.code_hash].is_empty(),
                "{address}"
            );
        }
        let collector = block.changes.accounts[&COLLECTOR_ADDRESS].code_hash;
        assert_eq!(
            block.changes.code[&collector],
            bindings::collector_runtime(SETTLEMENT_ADDRESS)
        );
        assert_eq!(block.changes.code.len(), 4, "creation code is not kept");
        assert!(!block.changes.accounts.contains_key(&GENESIS_CALLER));
        assert_eq!(block.header.timestamp, 1_700_000_000);
    }

    #[test]
    fn a_ledger_stands_beside_the_payment_contracts() {
        let terms = LedgerTerms {
            founders: vec![Address::repeat_byte(1)],
            votes_each: U256::from(1_000),
            epoch_s: 8,
            window_s: 2,
        };
        let genesis = Genesis::standard(Address::repeat_byte(9)).with_ledger(&terms);
        let block = genesis.execute(1, 1_700_000_000).unwrap();
        for address in LEDGER_ADDRESSES
            .all()
            .into_iter()
            .chain([SETTLEMENT_ADDRESS])
        {
            let account = block.changes.accounts[&address];
            assert!(
                !block.changes.code[&account.code_hash].is_empty(),
                "{address}"
            );
        }
    }

    #[test]
    fn a_failing_constructor_or_call_is_named() {
        let reverting = Bytes::from_static(&[0x60, 0, 0x60, 0, 0xfd]);
        let at = Address::repeat_byte(3);
        let genesis =
            Genesis::default().with_contract(at, GenesisCode::Constructor(reverting.clone()));
        assert!(
            matches!(genesis.execute(1, 0), Err(GenesisError::Constructor { address, .. }) if address == at)
        );
        let mut genesis = Genesis::default().with_contract(at, GenesisCode::Runtime(reverting));
        genesis.calls.push(GenesisCall {
            from: GENESIS_CALLER,
            to: at,
            input: Bytes::new(),
        });
        assert!(matches!(genesis.execute(1, 0), Err(GenesisError::Call { to, .. }) if to == at));
    }

    #[test]
    fn the_same_genesis_makes_the_same_block() {
        let genesis = || {
            Genesis::standard(Address::repeat_byte(9))
                .execute(1, 5)
                .unwrap()
                .header
                .hash()
        };
        assert_eq!(genesis(), genesis());
    }
}

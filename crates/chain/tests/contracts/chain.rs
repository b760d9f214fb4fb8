//! The little that a test needs of a chain, and the quickest chain there is: revm with its state in memory.

use alloy_primitives::{Address, B256, Bytes, Log, TxKind, U256};
use alloy_signer_local::PrivateKeySigner;
use hearth_chain::bindings::{
    COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, collector_runtime, settlement_runtime,
};
use revm::context::result::{ExecutionResult, Output};
use revm::context::{BlockEnv, CfgEnv, TxEnv};
use revm::database::{CacheDB, EmptyDB};
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, Bytecode};
use revm::{Context, ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext};

/// Gas that every transaction of these tests may use.
const GAS_LIMIT: u64 = 25_000_000;

/// What became of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    /// The reason as ABI-encoded error, where it reverted.
    pub(crate) outcome: Result<(), Bytes>,
    pub(crate) gas_used: u64,
    pub(crate) logs: Vec<Log>,
    pub(crate) created: Option<Address>,
}

/// A chain that has settlement and collector at their canonical addresses.
pub(crate) trait Chain {
    fn chain_id(&self) -> u64;

    /// Time of the next block, in Unix seconds.
    fn now(&self) -> u64;

    fn advance(&mut self, seconds: u64);

    /// Has `from` send a transaction, and waits until it is in a block.
    fn send(&mut self, from: &PrivateKeySigner, to: TxKind, data: Bytes) -> Receipt;

    /// Calls without a transaction; the reason where it reverts.
    fn read(&mut self, to: Address, data: Bytes) -> Result<Bytes, Bytes>;
}

/// revm in memory, by the rules of Prague, gas free.
pub(crate) struct RevmChain {
    chain_id: u64,
    state: CacheDB<EmptyDB>,
    now: u64,
}

impl RevmChain {
    /// Chain id of these tests; that of the development chains everywhere.
    pub(crate) const CHAIN_ID: u64 = 31_337;

    const GENESIS_TIME: u64 = 1_800_000_000;

    pub(crate) fn new() -> Self {
        Self::with_chain_id(Self::CHAIN_ID)
    }

    pub(crate) fn with_chain_id(chain_id: u64) -> Self {
        let mut chain = Self {
            chain_id,
            state: CacheDB::new(EmptyDB::new()),
            now: Self::GENESIS_TIME,
        };
        chain.place(SETTLEMENT_ADDRESS, settlement_runtime());
        chain.place(COLLECTOR_ADDRESS, collector_runtime(SETTLEMENT_ADDRESS));
        chain
    }

    /// Puts runtime code at an address, as a genesis or a `setCode` would.
    pub(crate) fn place(&mut self, address: Address, code: Bytes) {
        let code = Bytecode::new_raw(code);
        let info = AccountInfo {
            nonce: 1,
            code_hash: code.hash_slow(),
            code: Some(code),
            ..AccountInfo::default()
        };
        self.state.insert_account_info(address, info);
    }

    /// The code at an address.
    pub(crate) fn code(&mut self, address: Address) -> Bytes {
        let account = self.state.load_account(address).unwrap();
        account
            .info
            .code
            .as_ref()
            .map(Bytecode::original_bytes)
            .unwrap_or_default()
    }

    fn transaction(&mut self, from: Address, kind: TxKind, data: Bytes) -> TxEnv {
        let nonce = self.state.load_account(from).unwrap().info.nonce;
        TxEnv {
            caller: from,
            gas_limit: GAS_LIMIT,
            kind,
            data,
            nonce,
            chain_id: Some(self.chain_id),
            ..TxEnv::default()
        }
    }

    fn block(&self) -> BlockEnv {
        BlockEnv {
            number: U256::from(self.now - Self::GENESIS_TIME + 1),
            timestamp: U256::from(self.now),
            prevrandao: Some(B256::ZERO),
            ..BlockEnv::default()
        }
    }
}

impl Chain for RevmChain {
    fn chain_id(&self) -> u64 {
        self.chain_id
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn advance(&mut self, seconds: u64) {
        self.now += seconds;
    }

    fn send(&mut self, from: &PrivateKeySigner, to: TxKind, data: Bytes) -> Receipt {
        let transaction = self.transaction(from.address(), to, data);
        let block = self.block();
        let mut evm = Context::mainnet()
            .with_db(&mut self.state)
            .with_cfg(CfgEnv::new_with_spec(SpecId::PRAGUE).with_chain_id(self.chain_id))
            .with_block(block)
            .build_mainnet();
        let result = evm
            .transact_commit(transaction)
            .expect("the transaction is valid");
        receipt(result)
    }

    fn read(&mut self, to: Address, data: Bytes) -> Result<Bytes, Bytes> {
        let transaction = self.transaction(Address::ZERO, TxKind::Call(to), data);
        let block = self.block();
        let mut evm = Context::mainnet()
            .with_db(&mut self.state)
            .with_cfg(CfgEnv::new_with_spec(SpecId::PRAGUE).with_chain_id(self.chain_id))
            .with_block(block)
            .build_mainnet();
        match evm.transact(transaction).expect("the call is valid").result {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => Err(output),
            ExecutionResult::Halt { reason, .. } => panic!("the call halted: {reason:?}"),
        }
    }
}

fn receipt(result: ExecutionResult) -> Receipt {
    let gas_used = result.tx_gas_used();
    match result {
        ExecutionResult::Success { logs, output, .. } => {
            let created = match output {
                Output::Create(_, address) => address,
                Output::Call(_) => None,
            };
            Receipt {
                outcome: Ok(()),
                gas_used,
                logs,
                created,
            }
        }
        ExecutionResult::Revert { output, .. } => Receipt {
            outcome: Err(output),
            gas_used,
            logs: Vec::new(),
            created: None,
        },
        ExecutionResult::Halt { reason, .. } => panic!("the transaction halted: {reason:?}"),
    }
}

//! Typed calls, events and errors of the contracts in `contracts/`, their code, and the addresses they stand at.
//!
//! Generated at build time from the checked-in artifacts, so that Rust and Solidity cannot drift: the ABI here is
//! the one that `cargo xtask contracts --check` rebuilds. Encoding and decoding only; nothing here talks to a chain.
//! For ERC-3009 use [`IERC3009`] and [`IERC3009Signature`]: the generated tokens number their overloads in an order
//! that says nothing. Implements the contract part of docs/spec (payments).

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolConstructor, sol};
use serde::Deserialize;

/// The artifact whose runtime code has to be completed here.
const COLLECTOR_ARTIFACT: &str = include_str!("../../../contracts/artifacts/Collector.json");

/// Every immutable takes one word of runtime code.
const WORD_BYTES: usize = 32;

/// The generated ABI types. One module, so that only this one is exempt from documentation.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    use super::sol;

    sol!(
        #![sol(all_derives)]
        Settlement,
        "../../contracts/artifacts/Settlement.json"
    );
    sol!(
        #![sol(all_derives)]
        Collector,
        "../../contracts/artifacts/Collector.json"
    );
    sol!(
        #![sol(all_derives)]
        Ember,
        "../../contracts/artifacts/Ember.json"
    );
    sol!(
        #![sol(all_derives)]
        TestDollar,
        "../../contracts/artifacts/TestDollar.json"
    );
    sol!(
        #![sol(all_derives)]
        Devices,
        "../../contracts/artifacts/Devices.json"
    );
    sol!(
        #![sol(all_derives)]
        Voice,
        "../../contracts/artifacts/Voice.json"
    );
    sol!(
        #![sol(all_derives)]
        Validators,
        "../../contracts/artifacts/Validators.json"
    );
    sol!(
        #![sol(all_derives)]
        Rewards,
        "../../contracts/artifacts/Rewards.json"
    );
    sol!(
        #![sol(all_derives)]
        Runs,
        "../../contracts/artifacts/Runs.json"
    );
    sol!(
        #![sol(all_derives)]
        Ledger,
        "../../contracts/artifacts/Ledger.json"
    );

    sol! {
        /// Any token, ours or not.
        #[derive(Debug, PartialEq, Eq)]
        interface IERC20 {
            event Transfer(address indexed from, address indexed to, uint256 value);
            event Approval(address indexed owner, address indexed spender, uint256 value);

            function name() external view returns (string);
            function symbol() external view returns (string);
            function decimals() external view returns (uint8);
            function totalSupply() external view returns (uint256);
            function balanceOf(address account) external view returns (uint256);
            function allowance(address owner, address spender) external view returns (uint256);
            function approve(address spender, uint256 value) external returns (bool);
            function transfer(address to, uint256 value) external returns (bool);
            function transferFrom(address from, address to, uint256 value) external returns (bool);
        }

        /// Transfers by authorisation, the signature split in three, as the standard writes it.
        #[derive(Debug, PartialEq, Eq)]
        interface IERC3009 {
            event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
            event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

            function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
            function transferWithAuthorization(
                address from,
                address to,
                uint256 value,
                uint256 validAfter,
                uint256 validBefore,
                bytes32 nonce,
                uint8 v,
                bytes32 r,
                bytes32 s
            ) external;
            function receiveWithAuthorization(
                address from,
                address to,
                uint256 value,
                uint256 validAfter,
                uint256 validBefore,
                bytes32 nonce,
                uint8 v,
                bytes32 r,
                bytes32 s
            ) external;
        }

        /// The same with the signature as bytes, which contract accounts need and x402 uses.
        #[derive(Debug, PartialEq, Eq)]
        interface IERC3009Signature {
            function transferWithAuthorization(
                address from,
                address to,
                uint256 value,
                uint256 validAfter,
                uint256 validBefore,
                bytes32 nonce,
                bytes signature
            ) external;
            function receiveWithAuthorization(
                address from,
                address to,
                uint256 value,
                uint256 validAfter,
                uint256 validBefore,
                bytes32 nonce,
                bytes signature
            ) external;
            function cancelAuthorization(address authorizer, bytes32 nonce, bytes signature) external;
        }
    }
}

pub use generated::{
    Collector, Devices, Ember, IERC20, IERC3009, IERC3009Signature, Ledger, Rewards, Runs,
    Settlement, TestDollar, Validators, Voice,
};

pub use hearth_protocol::eip712::{COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS};

/// Init code of the settlement contract, for a chain where it is deployed by a transaction.
pub fn settlement_init() -> Bytes {
    Settlement::BYTECODE.clone()
}

/// Runtime code of the settlement contract. It has no immutables: it works at any address it is placed at.
pub fn settlement_runtime() -> Bytes {
    Settlement::DEPLOYED_BYTECODE.clone()
}

/// Init code of a collector that serves `settlement`.
pub fn collector_init(settlement: Address) -> Bytes {
    init_code(
        &Collector::BYTECODE,
        Collector::constructorCall { settlement },
    )
}

/// Runtime code of a collector that serves `settlement`, as its constructor would leave it: for placing it at
/// [`COLLECTOR_ADDRESS`] without running anything.
pub fn collector_runtime(settlement: Address) -> Bytes {
    let mut code = Collector::DEPLOYED_BYTECODE.to_vec();
    for start in immutable_offsets(COLLECTOR_ARTIFACT) {
        code[start..start + WORD_BYTES].copy_from_slice(settlement.into_word().as_slice());
    }
    code.into()
}

/// Init code of an Ember token whose only source of new tokens is `minter`, for ever. Reverts for the zero address.
pub fn ember_init(minter: Address) -> Bytes {
    init_code(&Ember::BYTECODE, Ember::constructorCall { minter_: minter })
}

/// Init code of the worthless token of demos and tests.
pub fn test_dollar_init() -> Bytes {
    TestDollar::BYTECODE.clone()
}

/// Init code of the contract that registers devices; it takes no arguments.
pub fn devices_init() -> Bytes {
    Devices::BYTECODE.clone()
}

/// Runtime code of the contract that registers devices. It has no immutables: it works at any address.
pub fn devices_runtime() -> Bytes {
    Devices::DEPLOYED_BYTECODE.clone()
}

/// Init code of the votes that `minter` alone mints; each founder starts with `votes_each`.
pub fn voice_init(minter: Address, founders: Vec<Address>, votes_each: U256) -> Bytes {
    let arguments = Voice::constructorCall {
        minter_: minter,
        founders,
        votesEach: votes_each,
    };
    init_code(&Voice::BYTECODE, arguments)
}

/// Init code of the contract that draws validators, for epochs of `epoch_s` seconds.
pub fn validators_init(devices: Address, voice: Address, epoch_s: u64) -> Bytes {
    let arguments = Validators::constructorCall {
        devices_: devices,
        voice_: voice,
        epoch_s,
    };
    init_code(&Validators::BYTECODE, arguments)
}

/// Init code of the contract that pays for checked work. Records can be challenged for `window_s` seconds.
pub fn rewards_init([ember, voice, devices, validators]: [Address; 4], window_s: u64) -> Bytes {
    let arguments = Rewards::constructorCall {
        ember_: ember,
        voice_: voice,
        devices_: devices,
        validators_: validators,
        window_s,
    };
    init_code(&Rewards::BYTECODE, arguments)
}

/// Init code of the contract that holds runs.
pub fn runs_init(validators: Address, rewards: Address) -> Bytes {
    let arguments = Runs::constructorCall {
        validators_: validators,
        rewards_: rewards,
    };
    init_code(&Runs::BYTECODE, arguments)
}

/// Init code of the contract that puts up Ember, Voice, validators and rewards together.
pub fn ledger_init(
    devices: Address,
    founders: Vec<Address>,
    votes_each: U256,
    epoch_s: u64,
    window_s: u64,
) -> Bytes {
    let arguments = Ledger::constructorCall {
        devices_: devices,
        founders,
        votesEach: votes_each,
        epoch_s,
        window_s,
    };
    init_code(&Ledger::BYTECODE, arguments)
}

/// Byte offsets in the runtime code at which the only immutable of a contract is read.
fn immutable_offsets(artifact: &str) -> Vec<usize> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Artifact {
        immutable_references: Vec<Vec<Reference>>,
    }
    #[derive(Deserialize)]
    struct Reference {
        start: usize,
    }
    let artifact: Artifact = serde_json::from_str(artifact)
        .expect("artifacts are checked in and compiled into this library");
    artifact
        .immutable_references
        .into_iter()
        .flatten()
        .map(|reference| reference.start)
        .collect()
}

fn init_code(code: &Bytes, arguments: impl SolConstructor) -> Bytes {
    [code.as_ref(), &arguments.abi_encode()].concat().into()
}

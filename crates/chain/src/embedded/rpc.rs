//! The JSON-RPC methods.
//!
//! One table from name to function; parsing of parameters, shapes of replies and the work itself are in the modules
//! below by subject. Spec: 05 embedded chain, section 10.

mod access;
mod blocks;
mod call;
mod dev;
mod forms;
mod logs;
mod params;
mod state;
mod submit;

use alloy_primitives::keccak256;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Embedded, RpcError};
use params::Params;

/// What `web3_clientVersion` answers.
const CLIENT_VERSION: &str = concat!("hearth-embedded/", env!("CARGO_PKG_VERSION"));

/// Answers one request.
pub(crate) fn dispatch(chain: &Embedded, method: &str, params: Value) -> Result<Value, RpcError> {
    let params = Params::new(params)?;
    forms::check(method, params.all())?;
    match method {
        "web3_clientVersion" => Ok(json!(CLIENT_VERSION)),
        "web3_sha3" => reply(keccak256(
            params.required::<alloy_primitives::Bytes>(0, "data")?,
        )),
        "net_version" => Ok(json!(chain.chain_id().to_string())),
        "net_listening" => Ok(json!(true)),
        "net_peerCount" | "eth_gasPrice" | "eth_maxPriorityFeePerGas" | "eth_blobBaseFee" => {
            Ok(json!("0x0"))
        }
        "eth_chainId" => reply(params::quantity(chain.chain_id())),
        "eth_syncing" => Ok(json!(false)),
        "eth_accounts" => Ok(json!([])),
        "eth_blockNumber" => reply(params::quantity(chain.block_number()?)),
        "eth_feeHistory" => blocks::fee_history(chain, &params),

        "eth_getBalance" => state::balance(chain, &params),
        "eth_getTransactionCount" => state::transaction_count(chain, &params),
        "eth_getCode" => state::code(chain, &params),
        "eth_getStorageAt" => state::storage_at(chain, &params),

        "eth_call" => call::call(chain, &params),
        "eth_estimateGas" => call::estimate_gas(chain, &params),
        "eth_createAccessList" => access::create_access_list(chain, &params),
        "eth_sendRawTransaction" => submit::send_raw(chain, &params),

        "eth_getTransactionByHash" => blocks::transaction_by_hash(chain, &params),
        "eth_getTransactionByBlockNumberAndIndex" => blocks::transaction_at_number(chain, &params),
        "eth_getTransactionByBlockHashAndIndex" => blocks::transaction_at_hash(chain, &params),
        "eth_getTransactionReceipt" => blocks::receipt(chain, &params),
        "eth_getBlockReceipts" => blocks::block_receipts(chain, &params),
        "eth_getBlockByNumber" => blocks::block_by_number(chain, &params),
        "eth_getBlockByHash" => blocks::block_by_hash(chain, &params),
        "eth_getBlockTransactionCountByNumber" => {
            blocks::transaction_count_by_number(chain, &params)
        }
        "eth_getBlockTransactionCountByHash" => blocks::transaction_count_by_hash(chain, &params),
        "eth_getUncleCountByBlockNumber" => blocks::uncle_count_by_number(chain, &params),
        "eth_getUncleCountByBlockHash" => blocks::uncle_count_by_hash(chain, &params),

        "eth_getLogs" => logs::logs(chain, &params),
        "eth_newFilter" => logs::new_filter(chain, &params),
        "eth_newBlockFilter" => logs::new_block_filter(chain),
        "eth_newPendingTransactionFilter" => logs::new_pending_filter(chain),
        "eth_getFilterChanges" => logs::filter_changes(chain, &params),
        "eth_getFilterLogs" => logs::filter_logs(chain, &params),
        "eth_uninstallFilter" => logs::uninstall(chain, &params),

        "eth_getProof" => Err(no_proofs()),

        _ if chain.dev_rpc() => dev::dispatch(chain, method, &params),
        _ => Err(unknown(method)),
    }
}

pub(super) fn unknown(method: &str) -> RpcError {
    let mut shown: String = method.chars().take(64).collect();
    if shown.len() < method.len() {
        shown.push('…');
    }
    let text = format!("the method {shown} does not exist/is not available");
    RpcError::new(RpcError::METHOD_NOT_FOUND, text)
}

/// State is committed to by a hash over what changed (spec: 05 embedded chain, section 8), in which nothing can be proved.
fn no_proofs() -> RpcError {
    let text = "the method eth_getProof does not exist/is not available: this chain keeps its state in no Merkle tree, so \
                it has no proofs";
    RpcError::new(RpcError::METHOD_NOT_FOUND, text)
}

/// A reply of any type that serialises.
fn reply(value: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value)
        .map_err(|error| RpcError::new(RpcError::INTERNAL, error.to_string()))
}

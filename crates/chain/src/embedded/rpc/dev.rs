//! Methods that move time and mine at will, for tests. Offered only where the configuration says so, since a caller that
//! moves time decides when a withdrawal may be finalised.

use serde_json::{Value, json};

use super::params::{Params, quantity};
use super::{reply, unknown};
use crate::embedded::limits::MAX_MINED_BLOCKS;
use crate::embedded::sequencer::Command;
use crate::embedded::{Embedded, MAX_TIMESTAMP_S, RpcError};

/// Answers a development method, under the names that anvil and hardhat share.
pub(super) fn dispatch(chain: &Embedded, method: &str, params: &Params) -> Result<Value, RpcError> {
    match method {
        "evm_increaseTime" => increase_time(chain, params),
        "evm_setNextBlockTimestamp" => set_next_timestamp(chain, params),
        "evm_mine" => mine_one(chain, params),
        "anvil_mine" | "hardhat_mine" => mine_many(chain, params),
        _ => Err(unknown(method)),
    }
}

/// Moves time forward for the next block and all calls; the reply is by how much it is ahead in all, in seconds.
fn increase_time(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let seconds = required(params, "seconds")?;
    if chain.shared().now_s().saturating_add(seconds) > MAX_TIMESTAMP_S {
        return Err(RpcError::invalid_params(format!(
            "time would pass {MAX_TIMESTAMP_S}, the end of the year 9999"
        )));
    }
    Ok(json!(chain.shared().shift_time_by(seconds)))
}

fn set_next_timestamp(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let timestamp_s = required(params, "timestamp")?;
    chain.ask(|reply| Command::SetNextTimestamp { timestamp_s, reply })?;
    Ok(Value::Null)
}

/// Mines one block, at a timestamp if one is given.
fn mine_one(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let timestamp_s = params.number(0, "timestamp")?;
    chain.ask(|reply| Command::Mine {
        blocks: 1,
        timestamp_s,
        reply,
    })?;
    reply(quantity(0))
}

fn mine_many(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let blocks = params.number(0, "blocks")?.unwrap_or(1);
    if blocks > MAX_MINED_BLOCKS {
        return Err(RpcError::invalid_params(format!(
            "at most {MAX_MINED_BLOCKS} blocks at once; ask again for more"
        )));
    }
    if params.number(1, "interval")?.unwrap_or(0) > 0 {
        return Err(RpcError::invalid_params(
            "an interval between blocks is not supported; use evm_increaseTime",
        ));
    }
    chain.ask(|reply| Command::Mine {
        blocks,
        timestamp_s: None,
        reply,
    })?;
    Ok(Value::Null)
}

fn required(params: &Params, name: &str) -> Result<u64, RpcError> {
    let missing =
        || RpcError::invalid_params(format!("missing value for required argument 0 ({name})"));
    params.number(0, name)?.ok_or_else(missing)
}

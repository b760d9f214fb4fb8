//! Test money for a device that has none: what it mints is worth nothing, and lets it buy at once.
//!
//! Anybody may mint the test token of an embedded chain, so a device does so for itself: nobody has to be asked, and
//! nobody gives anything away. Gas is free there. It mints only while it is short, and not often, so that a host that
//! shows it wrong balances wins no more than a few transactions.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use hearth_causes::WithCauses;
use hearth_chain::bindings::TestDollar::mintCall;
use hearth_chain::embedded::TEST_DOLLAR_ADDRESS;
use hearth_chain::sender::{IntentId, TxIntent};
use hearth_payments::escrow::Escrow;
use tracing::{debug, info};

/// What is minted at a time, in atomic units: 100 whole tokens.
const MINTED: u64 = 100_000_000;
/// With less than this, in atomic units, a device is short: 20 whole tokens, what it may spend in a day.
const SHORT: u64 = 20_000_000;
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How soon it looks again where the chain did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a mint may take, in milliseconds.
const MINT_DEADLINE_MS: u64 = 60_000;
/// The most gas that it takes.
const MINT_GAS_MAX: u64 = 200_000;

/// Keeps the account of `escrow` in test money for as long as it is polled. Cancel-safe.
pub(crate) async fn keep_supplied(escrow: Arc<Escrow>) {
    loop {
        let wait = match supply(&escrow).await {
            Ok(()) => LOOK_EVERY,
            Err(reason) => {
                debug!(%reason, "test money could not be looked after");
                LOOK_AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Mints where the account is short.
///
/// # Errors
/// The words of what the chain or the sender met.
pub(crate) async fn supply(escrow: &Escrow) -> Result<(), String> {
    let (client, account) = (escrow.client(), escrow.account());
    let held = client.balance_of(TEST_DOLLAR_ADDRESS, account).await;
    let held = held.map_err(|error| error.with_causes().to_string())?;
    if held >= U256::from(SHORT) {
        return Ok(());
    }
    let call = mintCall {
        to: account,
        value: U256::from(MINTED),
    };
    let now_ms = client.environment().now_ms();
    let intent = TxIntent {
        to: TEST_DOLLAR_ADDRESS,
        data: call.abi_encode().into(),
        value: U256::ZERO,
        gas_cap: MINT_GAS_MAX,
        deadline_ms: now_ms.saturating_add(MINT_DEADLINE_MS),
    };
    let name = IntentId::new(format!("test money {now_ms}"));
    let name = name.map_err(|error| error.with_causes().to_string())?;
    let sent = escrow.sender().submit(name.clone(), intent).await;
    sent.map_err(|error| error.with_causes().to_string())?;
    info!("minted test money, which is worth nothing");
    // The name is never asked for again; that it stays in the journal would cost a row, and no more.
    drop(escrow.sender().forget(name).await);
    Ok(())
}

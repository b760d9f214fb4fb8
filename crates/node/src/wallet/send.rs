//! One transfer: parsed, checked against the chain, shown, and sent once.

use std::sync::Arc;

use alloy_primitives::{Address, U256, hex};
use alloy_sol_types::SolCall;
use futures::future::BoxFuture;
use hearth_api::money::Money;
use hearth_api::wallet::Sent;
use hearth_causes::WithCauses;
use hearth_chain::bindings::TestDollar::transferCall;
use hearth_chain::client::ChainError;
use hearth_chain::sender::{
    IntentId, RedbJournal, SendError, Sender, SenderConfig, SenderStopped, TxIntent,
};
use hearth_environment::Environment;
use hearth_protocol::address::{self, TypedAddressError};
use hearth_protocol::money::Amount;
use thiserror::Error;

use super::{coin, money};
use crate::advice::Advice;
use crate::chains::{self, AccessError, ChainAccess, ChainChoice};
use crate::home::{AssetConfig, Config, Home, HomeError, Part};
use crate::keys::Unlocked;

/// The most gas that a transfer may use: plain tokens need a quarter of it, and none of ours asks for more.
const TRANSFER_GAS_MAX: u64 = 200_000;
/// How long a transfer may wait for its first signature, for example for gas to become cheaper, in milliseconds.
const TRANSFER_DEADLINE_MS: u64 = 10 * 60 * 1_000;
/// How often the chain is asked how the transfer is, in milliseconds: somebody is waiting.
const POLL_INTERVAL_MS: u64 = 250;

/// A transfer as a person orders it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whole tokens, such as `1.25`.
    pub amount: String,
    /// A configured name or a CAIP-19 id.
    pub asset: String,
    /// The account to pay, `0x` and 40 hex digits.
    pub to: String,
}

/// Why an order makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The asset is not configured.
    #[error("the asset {wanted:?} is not configured; there is {known}")]
    UnknownAsset {
        /// What was named.
        wanted: String,
        /// The names of those that are.
        known: String,
    },
    /// Not an amount of it.
    #[error("{given:?} is not an amount of {symbol}: {reason}")]
    Amount {
        /// What was given.
        given: String,
        /// The asset.
        symbol: String,
        /// Why not.
        reason: String,
    },
    /// Not an account.
    #[error("{0:?} is not an account: it must be 0x and 40 hex digits")]
    Account(String),
    /// Its capital letters do not fit: a digit is wrong.
    #[error(transparent)]
    Checksum(TypedAddressError),
    /// An account from which nothing comes back.
    #[error("{0} is {1}: what is sent there is lost")]
    Lost(Address, &'static str),
}

impl Advice for OrderError {
    fn code(&self) -> &str {
        match self {
            Self::UnknownAsset { .. } => "unknown_asset",
            Self::Amount { .. } => "bad_amount",
            Self::Account(_) | Self::Checksum(_) | Self::Lost(..) => "bad_account",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::UnknownAsset { .. } => {
                "Name one of those, or add the asset to config.toml".to_owned()
            }
            Self::Amount { .. } => "Give whole tokens, such as 1.25".to_owned(),
            Self::Account(_) | Self::Checksum(_) => {
                "Copy the account again from where it is shown".to_owned()
            }
            Self::Lost(..) => "Check whom you want to pay".to_owned(),
        }
    }
}

/// Why a transfer was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The order.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The chain cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The chain said something that cannot be used.
    #[error("the chain could not be asked")]
    Chain(#[from] ChainError),
    /// There is not enough.
    #[error("the account holds {held} {symbol}, which is less than {wanted}")]
    TooLittle {
        /// The asset.
        symbol: String,
        /// Whole tokens held.
        held: String,
        /// Whole tokens ordered.
        wanted: String,
    },
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The journal of transactions.
    #[error("the wallet's journal cannot be used: {0}")]
    Journal(String),
    /// It was not sent, or it failed.
    #[error(transparent)]
    Send(Box<SendError>),
    /// The sender stopped.
    #[error(transparent)]
    Stopped(#[from] SenderStopped),
}

impl From<SendError> for TransferError {
    fn from(error: SendError) -> Self {
        Self::Send(Box::new(error))
    }
}

impl Advice for TransferError {
    fn code(&self) -> &str {
        match self {
            Self::Order(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Home(error) => error.code(),
            Self::Chain(_) => "chain_unavailable",
            Self::TooLittle { .. } => "too_little",
            Self::Journal(_) | Self::Stopped(_) => "journal",
            Self::Send(_) => "not_sent",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Order(error) => error.next_step(),
            Self::Access(error) => error.next_step(),
            Self::Home(error) => error.next_step(),
            Self::Chain(_) => "Try again, or name another endpoint with --rpc".to_owned(),
            Self::TooLittle { .. } => {
                "Send less, or see `hearth wallet balances` for what there is".to_owned()
            }
            Self::Journal(_) | Self::Stopped(_) => {
                "Check the disk; run the same command again afterwards".to_owned()
            }
            Self::Send(error) if matches!(**error, SendError::Reverted { .. }) => {
                "Look at the transaction with `hearth chain tx`".to_owned()
            }
            Self::Send(_) => {
                "Check `hearth wallet balances`, also for the chain's own coin, and try again"
                    .to_owned()
            }
        }
    }
}

/// A transfer that was checked and can be shown for confirmation.
#[derive(Debug, Clone)]
pub struct TransferPlan {
    access: ChainAccess,
    symbol: String,
    asset: AssetConfig,
    amount: Amount,
    from: Address,
    to: Address,
}

impl TransferPlan {
    /// Checks `order` against the configuration and the chain.
    ///
    /// # Errors
    /// See [`TransferError`]; nothing was sent.
    pub fn make<'a>(
        config: &'a Config,
        choice: ChainChoice,
        household: Address,
        order: &'a Order,
    ) -> BoxFuture<'a, Result<Self, TransferError>> {
        Box::pin(async move {
            let (symbol, asset, amount, to) = parse(config, order)?;
            let choice = ChainChoice {
                chain: Some(asset.id.chain.to_string()),
                ..choice
            };
            let access = chains::connect(config, &choice).await?;
            let held = access.client.balance_of(asset.id.token, household).await?;
            if held < U256::from(amount.units()) {
                let held = Amount::new(held.saturating_to());
                return Err(TransferError::TooLittle {
                    held: held.to_decimal(asset.decimals),
                    wanted: amount.to_decimal(asset.decimals),
                    symbol,
                });
            }
            Ok(Self {
                access,
                symbol,
                asset,
                amount,
                from: household,
                to,
            })
        })
    }

    /// What is to be sent.
    pub fn money(&self) -> Money {
        money(&self.symbol, &self.asset, self.amount)
    }

    /// The account that is paid.
    pub fn to(&self) -> String {
        self.to.to_string()
    }

    /// The chain's configured name.
    pub fn chain_name(&self) -> &str {
        &self.access.name
    }

    /// Sends it and waits until it is final.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn send<'a>(
        self,
        home: &'a Home,
        keys: &'a Unlocked,
    ) -> BoxFuture<'a, Result<Sent, TransferError>> {
        Box::pin(self.send_now(home, keys))
    }

    async fn send_now<'a>(self, home: &'a Home, keys: &'a Unlocked) -> Result<Sent, TransferError> {
        let _lock = home.lock(Part::Wallet)?;
        let journal = open_journal(home)?;
        let config = SenderConfig {
            confirmations: self.access.confirmations,
            poll_interval_ms: POLL_INTERVAL_MS,
            ..SenderConfig::default()
        };
        let signer = Arc::new(keys.household());
        let client = self.access.client.clone();
        let id = fresh_id(&**client.environment())?;
        let (sender, task) = Sender::new(client, signer, Arc::new(journal), config)
            .map_err(|error| TransferError::Journal(error.with_causes().to_string()))?;
        let submit = sender.submit(id, self.intent());
        let receipt = tokio::select! {
            outcome = submit => outcome?,
            stopped = task.run() => {
                stopped?;
                return Err(SendError::Stopped.into());
            }
        };
        let fee =
            U256::from(receipt.gas_used).saturating_mul(U256::from(receipt.effective_gas_price));
        Ok(Sent {
            from: self.from.to_string(),
            to: self.to.to_string(),
            sent: self.money(),
            chain: self.access.id.to_string(),
            transaction: receipt.transaction_hash.to_string(),
            block: receipt.block_number,
            fee: coin(self.access.id, fee),
        })
    }

    fn intent(&self) -> TxIntent {
        let call = transferCall {
            to: self.to,
            value: U256::from(self.amount.units()),
        };
        let now_ms = self.access.client.environment().now_ms();
        TxIntent {
            to: self.asset.id.token,
            data: call.abi_encode().into(),
            value: U256::ZERO,
            gas_cap: TRANSFER_GAS_MAX,
            deadline_ms: now_ms.saturating_add(TRANSFER_DEADLINE_MS),
        }
    }
}

fn parse(
    config: &Config,
    order: &Order,
) -> Result<(String, AssetConfig, Amount, Address), OrderError> {
    let (symbol, asset) = config.asset(&order.asset).ok_or_else(|| {
        let known: Vec<&str> = config.assets.keys().map(String::as_str).collect();
        OrderError::UnknownAsset {
            wanted: order.asset.clone(),
            known: known.join(", "),
        }
    })?;
    let bad_amount = |reason: String| OrderError::Amount {
        given: order.amount.clone(),
        symbol: symbol.to_owned(),
        reason,
    };
    let amount = Amount::parse_decimal(&order.amount, asset.decimals)
        .map_err(|error| bad_amount(error.to_string()))?;
    if amount.is_zero() {
        return Err(bad_amount("it is nothing".to_owned()));
    }
    let to = parse_account(&order.to)?;
    if to == Address::ZERO {
        return Err(OrderError::Lost(to, "nobody's account"));
    }
    if to == asset.id.token {
        return Err(OrderError::Lost(to, "the token's own contract"));
    }
    Ok((symbol.to_owned(), asset.clone(), amount, to))
}

/// An account as a person gives it. Mixed capitals are a checksum, which must be right.
pub(crate) fn parse_account(text: &str) -> Result<Address, OrderError> {
    address::typed(text).map_err(|error| match error {
        TypedAddressError::Checksum { .. } => OrderError::Checksum(error),
        _ => OrderError::Account(text.chars().take(64).collect()),
    })
}

/// A name that no other transfer has: ordering the same twice means two transfers.
fn fresh_id(environment: &dyn Environment) -> Result<IntentId, TransferError> {
    let unique: [u8; 16] = environment
        .draw()
        .map_err(|error| TransferError::Journal(error.to_string()))?;
    let name = format!("wallet:{}", hex::encode(unique));
    Ok(IntentId::new(name).expect("the name is shorter than an intent's may be"))
}

fn open_journal(home: &Home) -> Result<RedbJournal, TransferError> {
    let failed = |error: String| TransferError::Journal(error);
    let database = redb::Database::create(home.store_path(Part::Wallet))
        .map_err(|error| failed(error.with_causes().to_string()))?;
    RedbJournal::new(Arc::new(database)).map_err(|error| failed(error.with_causes().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let folder = tempfile::tempdir().unwrap();
        Home::open(folder.path()).unwrap().config().unwrap()
    }

    fn order(amount: &str, asset: &str, to: &str) -> Order {
        Order {
            amount: amount.to_owned(),
            asset: asset.to_owned(),
            to: to.to_owned(),
        }
    }

    const TO: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    #[test]
    fn an_order_is_understood_as_people_write_it() {
        let (symbol, _, amount, to) = parse(&config(), &order("1.25", "TESTUSD", TO)).unwrap();
        assert_eq!(
            (symbol.as_str(), amount),
            ("TESTUSD", Amount::new(1_250_000))
        );
        assert_eq!(to.to_string(), TO);
        for same in [TO.to_lowercase(), format!("0x{}", TO[2..].to_uppercase())] {
            assert_eq!(parse_account(&same).unwrap(), to);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let typo = TO.replace("0xf39F", "0xf39f");
        let token = "0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E".to_lowercase();
        let zero = format!("0x{}", "0".repeat(40));
        let cases = [
            (order("1", "EUR", TO), "unknown_asset"),
            (order("", "TESTUSD", TO), "bad_amount"),
            (order("0", "TESTUSD", TO), "bad_amount"),
            (order("-1", "TESTUSD", TO), "bad_amount"),
            (order("1.0000001", "TESTUSD", TO), "bad_amount"),
            (order(&"9".repeat(60), "TESTUSD", TO), "bad_amount"),
            (order("1", "TESTUSD", "bob"), "bad_account"),
            (order("1", "TESTUSD", &TO[..41]), "bad_account"),
            (order("1", "TESTUSD", &typo), "bad_account"),
            (order("1", "TESTUSD", &token), "bad_account"),
            (order("1", "TESTUSD", &zero), "bad_account"),
        ];
        for (order, code) in cases {
            assert_eq!(
                parse(&config(), &order).unwrap_err().code(),
                code,
                "{order:?}"
            );
        }
    }
}

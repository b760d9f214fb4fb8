//! `hearth wallet balances` and `send`.

use clap::Args;
use hearth_api::wallet::{Balances, Sent};
use hearth_node::keys::Keystore;
use hearth_node::wallet::{self, Order, TransferPlan};

use super::WhichChain;
use crate::commands::chain::money_rows;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::{secrets, wait};

/// What to send to whom.
#[derive(Debug, Args)]
pub(crate) struct SendArguments {
    /// Whole tokens, such as 1.25
    #[arg(allow_negative_numbers = true)]
    amount: String,

    /// The asset, by its name in config.toml or its CAIP-19 id
    asset: String,

    /// The account that gets it
    to: String,

    /// Ask this endpoint instead of the configured ones
    #[arg(long, value_name = "URL")]
    rpc: Option<String>,

    /// Do not ask, send
    #[arg(long)]
    yes: bool,
}

/// Shows what the household holds.
pub(crate) async fn balances(global: &Global) -> Result<(), Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let spinner = wait::spinner(global.json, "asking the chains");
    let balances = wallet::balances(&config, keystore.household()).await;
    drop(spinner);
    print(&balances, global.json)
}

/// Sends tokens.
pub(crate) async fn send(global: &Global, arguments: SendArguments) -> Result<(), Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let order = Order {
        amount: arguments.amount,
        asset: arguments.asset,
        to: arguments.to,
    };
    let which = WhichChain {
        chain: None,
        rpc: arguments.rpc,
    };
    let spinner = wait::spinner(global.json, "asking the chain");
    let plan = TransferPlan::make(&config, which.into(), keystore.household(), &order).await?;
    drop(spinner);
    let money = plan.money();
    let question = format!(
        "Send {} {} to {} on {}? This cannot be taken back.",
        money.amount,
        money.symbol,
        plan.to(),
        plan.chain_name()
    );
    confirm(arguments.yes, &question)?;
    let unlocked = secrets::unlock(global, &keystore)?;
    let spinner = wait::spinner(global.json, "sending, until it is final");
    let sent = plan.send(&home, &unlocked).await?;
    drop(spinner);
    print(&sent, global.json)
}

impl Show for Balances {
    fn show(&self, page: &mut Page) {
        page.line(&format!("household {}", self.household));
        for chain in &self.chains {
            page.line("");
            let name = page.styled(Style::Strong, &chain.name);
            page.line(&format!("{name} ({})", chain.chain));
            match &chain.problem {
                Some(problem) => {
                    let problem = page.styled(Style::Warning, problem);
                    page.line(&format!("  not known: {problem}"));
                }
                None => page.table(
                    &["asset", "amount", "id"],
                    &[false, true, false],
                    &money_rows(&chain.balances),
                ),
            }
        }
    }
}

impl Show for Sent {
    fn show(&self, page: &mut Page) {
        page.line(&format!("Sent {} {}.", self.sent.amount, self.sent.symbol));
        page.pairs(&[
            ("to", self.to.clone()),
            ("transaction", self.transaction.clone()),
            ("block", self.block.to_string()),
            ("fee", format!("{} {}", self.fee.amount, self.fee.symbol)),
        ]);
    }
}

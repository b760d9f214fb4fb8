//! `hearth chain blocks`, `block`, `tx` and `balances`: looking at any chain.

use hearth_api::chain::{AccountBalances, Block, Blocks, Transaction, TransactionStatus};
use hearth_api::money::Money;
use hearth_node::chains::{self, ChainAccess};
use hearth_node::explorer;
use hearth_node::home::Config;

use crate::failure::Failure;
use crate::global::{Global, WhichChain};
use crate::screen::{Page, Show, Style, print};
use crate::wait;

async fn connect(global: &Global, which: WhichChain) -> Result<(Config, ChainAccess), Failure> {
    let config = global.open_home()?.config()?;
    let _spinner = wait::spinner(global.json, "asking the chain");
    let access = chains::connect(&config, &which.into()).await?;
    Ok((config, access))
}

/// Lists the newest blocks.
pub(crate) async fn blocks(global: &Global, which: WhichChain, count: u64) -> Result<(), Failure> {
    let (_, access) = connect(global, which).await?;
    print(&explorer::blocks(&access, count).await?, global.json)
}

/// Shows one block.
pub(crate) async fn block(global: &Global, which: WhichChain, block: &str) -> Result<(), Failure> {
    let (_, access) = connect(global, which).await?;
    print(&explorer::block(&access, block).await?, global.json)
}

/// Shows one transaction.
pub(crate) async fn transaction(
    global: &Global,
    which: WhichChain,
    hash: &str,
) -> Result<(), Failure> {
    let (config, access) = connect(global, which).await?;
    print(
        &explorer::transaction(&config, &access, hash).await?,
        global.json,
    )
}

/// Shows what an account holds.
pub(crate) async fn balances(
    global: &Global,
    which: WhichChain,
    account: &str,
) -> Result<(), Failure> {
    let (config, access) = connect(global, which).await?;
    print(
        &explorer::balances(&config, &access, account).await?,
        global.json,
    )
}

/// Rows of amounts.
pub(crate) fn money_rows<'a>(all: impl IntoIterator<Item = &'a Money>) -> Vec<Vec<String>> {
    all.into_iter()
        .map(|money| {
            vec![
                money.symbol.clone(),
                money.amount.clone(),
                money.asset.clone(),
            ]
        })
        .collect()
}

impl Show for Blocks {
    fn show(&self, page: &mut Page) {
        let row = |block: &Block| {
            vec![
                block.number.to_string(),
                block.timestamp_s.to_string(),
                block.transactions.len().to_string(),
                block.gas_used.to_string(),
                block.hash.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = self.blocks.iter().map(row).collect();
        page.table(
            &["block", "unix time", "transactions", "gas", "hash"],
            &[true, true, true, true, false],
            &rows,
        );
    }
}

impl Show for Block {
    fn show(&self, page: &mut Page) {
        page.pairs(&[
            ("block", self.number.to_string()),
            ("hash", self.hash.clone()),
            ("parent", self.parent_hash.clone()),
            ("unix time", self.timestamp_s.to_string()),
            ("gas used", self.gas_used.to_string()),
            ("transactions", self.transactions.len().to_string()),
        ]);
        for hash in &self.transactions {
            page.line(&format!("  {hash}"));
        }
    }
}

impl Show for Transaction {
    fn show(&self, page: &mut Page) {
        let (style, status) = match self.status {
            TransactionStatus::Pending => (Style::Warning, "pending"),
            TransactionStatus::Succeeded => (Style::Good, "succeeded"),
            TransactionStatus::Reverted => (Style::Bad, "reverted"),
        };
        let status = page.styled(style, status);
        let shown = |number: Option<u64>| {
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        let to = self.to.clone().or_else(|| {
            self.contract
                .as_ref()
                .map(|made| format!("new contract {made}"))
        });
        let mut rows = vec![
            ("transaction", self.hash.clone()),
            ("status", status),
            ("block", shown(self.block)),
            ("from", self.from.clone()),
            ("to", to.unwrap_or_else(|| "-".to_owned())),
            ("nonce", self.nonce.to_string()),
            ("gas used", shown(self.gas_used)),
            (
                "call",
                format!("{} ({} bytes)", self.input, self.input_bytes),
            ),
        ];
        if self.value.units != "0" {
            rows.push((
                "value",
                format!("{} {}", self.value.amount, self.value.symbol),
            ));
        }
        page.pairs(&rows);
        for transfer in &self.transfers {
            let amount = match &transfer.money {
                Some(money) => format!("{} {}", money.amount, money.symbol),
                None => format!("{} units of {}", transfer.units, transfer.token),
            };
            page.line(&format!("  {amount}: {} -> {}", transfer.from, transfer.to));
        }
    }
}

impl Show for AccountBalances {
    fn show(&self, page: &mut Page) {
        page.line(&self.account);
        page.table(
            &["asset", "amount", "id"],
            &[false, true, false],
            &money_rows(&self.balances),
        );
    }
}

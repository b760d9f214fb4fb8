//! `hearth chain run`.

use clap::Args;
use hearth_api::chain::{ChainEvent, ChainReady};
use hearth_node::local_chain::{DEFAULT_PORT, LocalChain, LocalChainOptions};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print, print_line};

/// How to run the embedded chain.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The loopback port; 0 lets the system choose
    #[arg(long, default_value_t = DEFAULT_PORT, value_name = "PORT")]
    port: u16,

    /// Milliseconds between blocks; without it a transaction gets its block at once
    #[arg(long, value_name = "MS")]
    block_time: Option<u64>,

    /// Give an account worthless test dollars at the start, such as 0x…=100; may be repeated
    #[arg(long, alias = "faucet", value_name = "ACCOUNT=AMOUNT")]
    fund: Vec<String>,

    /// The number of a new chain, 402402 unless another is said; a data folder keeps the one it began with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9_007_199_254_740_991))]
    chain_id: Option<u64>,

    /// A household that founds the ledger of a new chain, instead of that of the data folder's wallet; may be repeated
    #[arg(long, value_name = "ACCOUNT")]
    founder: Vec<String>,

    /// Seconds of an epoch of a new chain's ledger, instead of what config.toml says
    #[arg(long, value_name = "SECONDS")]
    epoch: Option<u64>,

    /// Seconds in which a record of a new chain's ledger can be challenged, instead of what config.toml says
    #[arg(long, value_name = "SECONDS")]
    window: Option<u64>,

    /// For tests only: let whoever reaches the port move the chain's time
    #[arg(long)]
    dev_rpc: bool,
}

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(global: &Global, arguments: RunArguments) -> Result<(), Failure> {
    let home = global.open_home()?;
    let options = LocalChainOptions {
        port: arguments.port,
        chain_id: arguments.chain_id,
        block_time_ms: arguments.block_time,
        dev_rpc: arguments.dev_rpc,
        fund: arguments.fund,
        founders: arguments.founder,
        epoch_s: arguments.epoch,
        window_s: arguments.window,
    };
    // Before the chain is ready to be asked, so that no signal is missed.
    let stop = crate::commands::interrupted()?;
    let chain = LocalChain::open(&home, options).await?;
    let ready = chain.ready().clone();
    if global.json {
        print_line(&ChainEvent::Ready(ready))?;
    } else {
        print(&Running(ready), false)?;
    }
    let block = chain.serve(stop).await?;
    if global.json {
        print_line(&ChainEvent::Stopped { block })
    } else {
        print(&Stopped { block }, false)
    }
}

#[derive(Serialize)]
struct Running(ChainReady);

impl Show for Running {
    fn show(&self, page: &mut Page) {
        let ready = &self.0;
        let title = page.styled(
            Style::Strong,
            &format!("The chain answers at {}", ready.url),
        );
        page.line(&title);
        let ledger = ready.ledger.clone();
        page.pairs(&[
            ("chain", ready.chain.clone()),
            ("block", ready.block.to_string()),
            ("file", ready.store.clone()),
            ("settlement", ready.settlement.clone()),
            (
                "ledger",
                ledger.unwrap_or_else(|| "none: nobody founded one".to_owned()),
            ),
            ("TESTUSD", format!("{} (worthless)", ready.test_dollar)),
        ]);
        for funded in &ready.funded {
            page.line(&format!(
                "{} got {} {}",
                funded.account, funded.money.amount, funded.money.symbol
            ));
        }
        page.line("Stop it with Ctrl-C; what is in blocks is safe.");
    }
}

#[derive(Serialize)]
struct Stopped {
    block: u64,
}

impl Show for Stopped {
    fn show(&self, page: &mut Page) {
        page.line(&format!("Stopped at block {}.", self.block));
    }
}

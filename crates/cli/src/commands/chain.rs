//! `hearth chain`.

mod deploy;
mod run;
mod view;

use std::process::ExitCode;

use clap::Subcommand;

use hearth_api::chain::ChainLeft;
use hearth_node::shared_chain;

use crate::failure::Failure;
use crate::global::{Global, WhichChain};
use crate::screen::{Page, Show, print};

pub(crate) use view::money_rows;

/// What can be done with chains.
#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Run the embedded chain of the data folder on a loopback port, until it is interrupted
    #[command(after_help = "\
The chain has free gas, the x402 payment contracts at their canonical addresses, and TESTUSD, a worthless token for
trying things out. Whoever runs it orders its transactions: it is for one household or for development.

Examples:
  hearth chain run
  hearth chain run --port 0 --json
  hearth chain run --fund 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266=100
  hearth chain run --block-time 2000")]
    Run(run::RunArguments),

    /// Put up a ledger on a public chain: rewards, votes, validators and runs
    #[command(after_help = "\
Anyone may do it, for any founders. Addresses follow from code and terms: the same terms lead to the same ledger, and what
stands is not put up twice. A chain of `hearth up` or `hearth chain run` begins with a ledger and needs none put up.

Examples:
  hearth chain deploy --chain eip155:84532
  hearth chain deploy --chain base --founder 0xf39F… --founder 0x7099… --epoch 86400 --window 172800")]
    Deploy(deploy::DeployArguments),

    /// List the newest blocks
    #[command(
        after_help = "Examples:\n  hearth chain blocks\n  hearth chain blocks --count 3 --chain eip155:31337 --rpc http://127.0.0.1:8546"
    )]
    Blocks {
        #[command(flatten)]
        which: WhichChain,

        /// How many, at most 100
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
        count: u64,
    },

    /// Show one block
    #[command(after_help = "Examples:\n  hearth chain block latest\n  hearth chain block 12")]
    Block {
        #[command(flatten)]
        which: WhichChain,

        /// Its number, its hash, or `latest`
        #[arg(value_name = "NUMBER|HASH")]
        block: String,
    },

    /// Show one transaction and the tokens it moved
    #[command(after_help = "Example:\n  hearth chain tx 0x5c50…")]
    Tx {
        #[command(flatten)]
        which: WhichChain,

        /// Its hash
        #[arg(value_name = "HASH")]
        hash: String,
    },

    /// Use this device's own chain again, instead of the one of the device that it joined
    #[command(after_help = "\
Where config.toml names no chain, a device uses the chain of the device by whose ticket it joined. What it has on that
chain stays there; the same ticket leads back. It counts from the next start of `hearth up` on.

Example:
  hearth chain leave")]
    Leave,

    /// Show what any account holds
    #[command(
        after_help = "Example:\n  hearth chain balances 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    )]
    Balances {
        #[command(flatten)]
        which: WhichChain,

        /// The account
        #[arg(value_name = "ACCOUNT")]
        account: String,
    },
}

/// Does it.
pub(crate) async fn run(global: &Global, command: ChainCommand) -> Result<ExitCode, Failure> {
    match command {
        ChainCommand::Run(arguments) => run::run(global, arguments).await?,
        ChainCommand::Deploy(arguments) => deploy::run(global, arguments).await?,
        ChainCommand::Blocks { which, count } => view::blocks(global, which, count).await?,
        ChainCommand::Block { which, block } => view::block(global, which, &block).await?,
        ChainCommand::Tx { which, hash } => view::transaction(global, which, &hash).await?,
        ChainCommand::Leave => leave(global)?,
        ChainCommand::Balances { which, account } => {
            view::balances(global, which, &account).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn leave(global: &Global) -> Result<(), Failure> {
    let left = shared_chain::leave(&global.open_home()?)?;
    let (own, before) = left.ok_or_else(|| {
        Failure::new(
            "which_chain",
            "config.toml names the chains that this device uses",
            "Change [chains] there; without it the network's chain is used",
        )
    })?;
    let left = ChainLeft {
        chain: own.to_string(),
        left: (own != before).then(|| before.to_string()),
    };
    print(&left, global.json)
}

impl Show for ChainLeft {
    fn show(&self, page: &mut Page) {
        match &self.left {
            None => page.line("This device uses its own chain already."),
            Some(left) => page.line(&format!(
                "This device leaves {left} and uses its own chain, {}, from the next start of `hearth up` on.",
                self.chain
            )),
        }
    }
}

//! `hearth wallet`.

mod create;
mod export;
mod money;
mod passphrase;
mod sessions;

use std::process::ExitCode;

use clap::Subcommand;
use hearth_api::wallet::WalletShown;
use hearth_node::keys::Keystore;

use crate::failure::Failure;
use crate::global::{Global, WhichChain};
use crate::screen::{Page, Show, print};

/// What can be done with the wallet.
#[derive(Debug, Subcommand)]
pub(crate) enum WalletCommand {
    /// Make a wallet and show its recovery phrase, this once
    #[command(after_help = "\
Write the phrase on paper: anyone who has it has everything, and without it a lost device is a lost wallet.

Examples:
  hearth wallet new
  hearth wallet new --words 24
  hearth wallet new --json --passphrase-file /run/secrets/hearth")]
    New {
        /// How many words the recovery phrase has: 12 or 24
        #[arg(long, default_value_t = 12, value_name = "N")]
        words: usize,
    },

    /// Get a wallet back from its recovery phrase
    #[command(after_help = "\
The phrase is asked for, or read from the standard input; it is never an argument.

Examples:
  hearth wallet recover
  hearth wallet recover < phrase.txt")]
    Recover,

    /// Show the household's account and this device; needs no passphrase
    Show,

    /// Show what the household holds, by chain and asset; needs no passphrase
    Balances,

    /// Send tokens to an account, after showing what will happen
    #[command(after_help = "\
Examples:
  hearth wallet send 1.25 TESTUSD 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266
  hearth wallet send 5 TESTUSD 0xf39F… --yes --json")]
    Send(money::SendArguments),

    /// Show the recovery phrase again, or the account's private key, for another wallet
    #[command(after_help = "\
Examples:
  hearth wallet export phrase
  hearth wallet export private-key")]
    Export(export::ExportArguments),

    /// Seal the wallet on this device with another passphrase
    #[command(after_help = "\
The recovery phrase stays the same. A node that runs goes on; one that is started by a service needs the new passphrase
in its file. Wallets on other devices keep their own passphrases. Give the same passphrase twice to bring an old
keystore into today's form.

Examples:
  hearth wallet passphrase
  hearth wallet passphrase --passphrase-file old.txt --new-passphrase-file new.txt")]
    Passphrase(passphrase::PassphraseArguments),

    /// Show the session keys of the household's devices, and sign statements for them
    #[command(after_help = "\
Examples:
  hearth wallet sessions
  hearth wallet sessions --devices 3
  hearth wallet sessions --authorize --days 365 --json")]
    Sessions(sessions::SessionArguments),
}

/// Does it.
pub(crate) async fn run(global: &Global, command: WalletCommand) -> Result<ExitCode, Failure> {
    match command {
        WalletCommand::New { words } => create::new(global, words)?,
        WalletCommand::Recover => create::recover(global)?,
        WalletCommand::Show => show(global)?,
        WalletCommand::Balances => money::balances(global).await?,
        WalletCommand::Send(arguments) => money::send(global, arguments).await?,
        WalletCommand::Export(arguments) => export::run(global, &arguments)?,
        WalletCommand::Passphrase(arguments) => passphrase::run(global, &arguments)?,
        WalletCommand::Sessions(arguments) => sessions::run(global, &arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global) -> Result<(), Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let shown = WalletShown {
        household: keystore.household().to_string(),
        keystore: home.keystore_path().display().to_string(),
        home: home.root().display().to_string(),
        device_index: config.device.index.number(),
        device_name: config.device.name,
        chains: config.chains.keys().map(ToString::to_string).collect(),
    };
    print(&shown, global.json)
}

impl Show for WalletShown {
    fn show(&self, page: &mut Page) {
        page.pairs(&[
            ("household", self.household.clone()),
            (
                "device",
                format!("{} (number {})", self.device_name, self.device_index),
            ),
            ("chains", self.chains.join(", ")),
            ("keystore", self.keystore.clone()),
            ("data folder", self.home.clone()),
        ]);
    }
}

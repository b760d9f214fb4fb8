//! `hearth chain deploy`.

use clap::Args;
use hearth_api::chain::LedgerDeployed;
use hearth_node::chains;
use hearth_node::home::LedgerConfig;
use hearth_node::keys::Keystore;
use hearth_node::ledger;

use crate::confirm::confirm;
use crate::failure::Failure;
use crate::global::{Global, WhichChain};
use crate::screen::{Page, Show, Style, print};
use crate::{secrets, wait};

/// What the ledger begins with.
#[derive(Debug, Args)]
pub(crate) struct DeployArguments {
    #[command(flatten)]
    which: WhichChain,

    /// A household that founds the ledger, instead of this wallet's; may be repeated
    #[arg(long, value_name = "ACCOUNT")]
    founder: Vec<String>,

    /// Seconds of an epoch: a number that divides four years of 365 days
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    epoch: u64,

    /// Seconds in which a record can be challenged
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    window: u64,

    /// Do not ask, send
    #[arg(long)]
    yes: bool,
}

/// Puts the ledger up, as far as it does not stand.
pub(crate) async fn run(global: &Global, arguments: DeployArguments) -> Result<(), Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let mut founders = LedgerConfig::founders(&arguments.founder)?;
    if founders.is_empty() {
        founders.push(keystore.household());
    }
    let terms = LedgerConfig::new(arguments.epoch, arguments.window)?.terms(founders);
    let spinner = wait::spinner(global.json, "asking the chain");
    let access = chains::connect(&config, &arguments.which.into()).await?;
    drop(spinner);
    let question = format!(
        "Send up to three transactions from {} on {}, which pay for their gas?",
        keystore.household(),
        access.name
    );
    confirm(arguments.yes, &question)?;
    let unlocked = secrets::unlock(global, &keystore)?;
    let spinner = wait::spinner(global.json, "sending, until it is final");
    let deployed = ledger::deploy(&home, &unlocked, &access, &terms).await?;
    drop(spinner);
    print(&deployed, global.json)
}

impl Show for LedgerDeployed {
    fn show(&self, page: &mut Page) {
        let title = match self.transactions.len() {
            0 => format!(
                "The ledger of these terms stands on {} already.",
                self.chain
            ),
            _ => format!("The ledger stands on {}.", self.chain),
        };
        let title = page.styled(Style::Strong, &title);
        page.line(&title);
        page.pairs(&[
            ("founders", self.founders.join(", ")),
            ("epoch", format!("{} s", self.epoch_s)),
            ("window", format!("{} s", self.window_s)),
            ("Devices", self.devices.clone()),
            ("Ember", self.ember.clone()),
            ("Voice", self.voice.clone()),
            ("Validators", self.validators.clone()),
            ("Rewards", self.rewards.clone()),
            ("Runs", self.runs.clone()),
        ]);
        for transaction in &self.transactions {
            page.line(&format!("transaction {transaction}"));
        }
        page.line(&format!(
            "Write this line into [chains.\"{}\"] of config.toml to use it:",
            self.chain
        ));
        page.line(&format!("ledger = \"{}\"", self.runs));
    }
}

//! `hearth keys`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hearth_api::household::{KeyLimit, KeyShown, KeysShown, NewKey};
use hearth_environment::SystemEnvironment;
use hearth_node::api_keys::{Keys, StoredCap, StoredKey};
use hearth_node::owner::client::post_if_up;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};

/// What can be done with API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show the keys, without their texts
    List,

    /// Make a key and show its text, this once
    New(NewArguments),

    /// Take a key away
    Remove {
        /// Its name
        name: String,
    },
}

/// What a new key may do.
#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    /// Its name: the program or the person that asks with it
    name: String,

    /// How far its prompts may travel: device, household or network
    #[arg(long, default_value = "network", value_name = "TIER")]
    tier: String,

    /// Limit what it spends of this asset
    #[arg(long, value_name = "ASSET", requires_all = ["per_request", "per_day"])]
    asset: Option<String>,

    /// For one answer, in whole tokens
    #[arg(long, value_name = "AMOUNT", requires = "asset")]
    per_request: Option<String>,

    /// In one day by UTC, in whole tokens
    #[arg(long, value_name = "AMOUNT", requires = "asset")]
    per_day: Option<String>,
}

/// Does what was asked.
pub(crate) async fn run(global: &Global, command: Option<KeyCommand>) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    let mut keys = Keys::open(&home)?;
    match command.unwrap_or(KeyCommand::List) {
        KeyCommand::List => print(&shown(&keys), global.json)?,
        KeyCommand::New(arguments) => {
            let cap = match (arguments.asset, arguments.per_request, arguments.per_day) {
                (Some(asset), Some(per_request), Some(per_day)) => Some(StoredCap {
                    asset,
                    per_request,
                    per_day,
                }),
                _ => None,
            };
            let caps = cap.into_iter().collect();
            let key = keys.add(&arguments.name, &arguments.tier, caps, &SystemEnvironment)?;
            let name = arguments.name;
            tell_node(&home).await?;
            print(&NewKey { name, key }, global.json)?;
        }
        KeyCommand::Remove { name } => {
            keys.remove(&name)?;
            tell_node(&home).await?;
            print(&shown(&keys), global.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A node that is up takes the keys in at once.
async fn tell_node(home: &hearth_node::home::Home) -> Result<(), Failure> {
    let nothing = serde_json::json!({});
    // One that is not up reads them when it starts.
    post_if_up::<serde_json::Value>(home, "/hearth/keys", &nothing).await?;
    Ok(())
}

fn shown(keys: &Keys) -> KeysShown {
    let one = |key: &StoredKey| KeyShown {
        name: key.name.clone(),
        tier: key.tier.clone(),
        limits: key
            .caps
            .iter()
            .map(|cap| KeyLimit {
                asset: cap.asset.clone(),
                per_request: cap.per_request.clone(),
                per_day: cap.per_day.clone(),
            })
            .collect(),
    };
    KeysShown {
        keys: keys.list().iter().map(one).collect(),
    }
}

impl Show for NewKey {
    fn show(&self, page: &mut Page) {
        page.line(&self.key);
        let note = page.styled(
            Style::Faint,
            "Give it to the program as its API key. It is not kept and cannot be shown again.",
        );
        page.line(&note);
    }
}

impl Show for KeysShown {
    fn show(&self, page: &mut Page) {
        if self.keys.is_empty() {
            page.line("There is no API key yet: `hearth keys new NAME` makes one.");
            return;
        }
        let rows: Vec<_> = self
            .keys
            .iter()
            .map(|key| {
                let limit = |limit: &KeyLimit| {
                    format!(
                        "{} an answer, {} a day, {}",
                        limit.per_request, limit.per_day, limit.asset
                    )
                };
                let limits: Vec<_> = key.limits.iter().map(limit).collect();
                vec![key.name.clone(), key.tier.clone(), limits.join("; ")]
            })
            .collect();
        page.table(&["key", "tier", "limits"], &[false, false, false], &rows);
    }
}

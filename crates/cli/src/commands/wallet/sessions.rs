//! `hearth wallet sessions`.

use clap::Args;
use hearth_api::wallet::{Session, Sessions};
use hearth_environment::SystemEnvironment;
use hearth_node::home::Config;
use hearth_node::keys::{DeviceIndex, Keystore, Unlocked};

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, print};
use crate::secrets;

/// Which session keys to show.
#[derive(Debug, Args)]
pub(crate) struct SessionArguments {
    /// Show the keys of this many devices, counted from 0; this device alone without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    devices: Option<u32>,

    /// Sign a statement for each key on each configured chain, that it may act for the household
    #[arg(long)]
    authorize: bool,

    /// How long such a statement holds, in days
    #[arg(long, default_value_t = 365, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
}

/// Shows session keys.
pub(crate) fn run(global: &Global, arguments: &SessionArguments) -> Result<(), Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let unlocked = secrets::unlock(global, &keystore)?;
    let this = config.device.index;
    let numbers: Vec<u32> = match arguments.devices {
        Some(count) => (0..count).collect(),
        None => vec![this.number()],
    };
    let mut sessions = Vec::new();
    for number in numbers {
        let device = DeviceIndex::new(number)?;
        sessions.push(Session {
            device_index: number,
            key: unlocked.session(device).address().to_string(),
            this_device: device == this,
            authorizations: if arguments.authorize {
                authorizations(&config, &unlocked, device, arguments.days)?
            } else {
                Vec::new()
            },
        });
    }
    let shown = Sessions {
        household: unlocked.address().to_string(),
        sessions,
    };
    print(&shown, global.json)
}

fn authorizations(
    config: &Config,
    unlocked: &Unlocked,
    device: DeviceIndex,
    days: u32,
) -> Result<Vec<serde_json::Value>, Failure> {
    let name = if device == config.device.index {
        config.device.name.clone()
    } else {
        format!("device {}", device.number())
    };
    let mut statements = Vec::new();
    for chain in config.chains.keys() {
        let statement =
            unlocked.authorize_for_days(*chain, device, &name, days, &SystemEnvironment)?;
        statements.push(serde_json::to_value(statement).expect("a statement serialises"));
    }
    Ok(statements)
}

impl Show for Sessions {
    fn show(&self, page: &mut Page) {
        page.line(&format!("household {}", self.household));
        let row = |session: &Session| {
            vec![
                session.device_index.to_string(),
                session.key.clone(),
                if session.this_device {
                    "this device"
                } else {
                    ""
                }
                .to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = self.sessions.iter().map(row).collect();
        page.table(&["device", "session key", ""], &[true, false, false], &rows);
        for statement in self
            .sessions
            .iter()
            .flat_map(|session| &session.authorizations)
        {
            page.line("");
            page.line(&statement.to_string());
        }
    }
}

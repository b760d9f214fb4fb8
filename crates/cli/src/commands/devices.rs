//! `hearth invite`, `hearth join` and `hearth devices`: who belongs to the household.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hearth_api::household::{
    DeviceView, Devices, Invitation, InviteAsked, Joined, Left, WhichDevice,
};
use hearth_node::owner::client::{Client, post_if_up};
use hearth_node::shared_chain::join_later;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};

/// What a ticket is for.
#[derive(Debug, Args)]
pub(crate) struct InviteArguments {
    /// Only let the other device find this one's network, as a stranger that pays
    #[arg(long)]
    network: bool,

    /// How long the ticket can be used, in hours
    #[arg(long, default_value_t = 24, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=168))]
    hours: u32,
}

/// A ticket.
#[derive(Debug, Args)]
pub(crate) struct JoinArguments {
    /// The line that `hearth invite` printed on the other device
    ticket: String,
}

/// What can be done with the household's devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Show the devices of the household
    List,

    /// Remove a device: it is a stranger from now on
    Remove {
        /// Its name, its key, or the beginning of that
        device: String,
    },

    /// Leave the household that this device joined, and tell its host
    Leave,
}

fn client(global: &Global) -> Result<Client, Failure> {
    Ok(Client::of(&global.open_home()?)?)
}

/// Prints a ticket.
pub(crate) async fn invite(
    global: &Global,
    arguments: InviteArguments,
) -> Result<ExitCode, Failure> {
    let asked = InviteAsked {
        household_hours: (!arguments.network).then_some(arguments.hours),
    };
    let invitation: Invitation = client(global)?.post("/hearth/invite", &asked).await?;
    print(&invitation, global.json)?;
    if !global.json && !arguments.network {
        eprintln!(
            "One device can join this household with it, within {} h: `hearth join TICKET`. Keep it secret.",
            arguments.hours
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Joins the household, or the network, of a ticket.
pub(crate) async fn join(global: &Global, arguments: JoinArguments) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    let invitation = Invitation {
        ticket: arguments.ticket,
    };
    let joined = match post_if_up(&home, "/hearth/join", &invitation).await? {
        Some(joined) => joined,
        None => Joined {
            household: None,
            chain: join_later(&home, &invitation.ticket)?.map(|chain| chain.to_string()),
            is_later: true,
        },
    };
    print(&joined, global.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows or changes who belongs to the household.
pub(crate) async fn devices(
    global: &Global,
    command: Option<DeviceCommand>,
) -> Result<ExitCode, Failure> {
    let client = client(global)?;
    let nothing = serde_json::json!({});
    let devices: Devices = match command.unwrap_or(DeviceCommand::List) {
        DeviceCommand::List => client.get("/hearth/devices").await?,
        DeviceCommand::Remove { device } => {
            let which = WhichDevice { device };
            client.post("/hearth/devices/remove", &which).await?
        }
        DeviceCommand::Leave => {
            let left: Left = client.post("/hearth/devices/leave", &nothing).await?;
            print(&left, global.json)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    print(&devices, global.json)?;
    Ok(ExitCode::SUCCESS)
}

impl Show for Invitation {
    fn show(&self, page: &mut Page) {
        page.line(&self.ticket);
    }
}

impl Show for Joined {
    fn show(&self, page: &mut Page) {
        if self.is_later {
            page.line("The ticket is kept: `hearth up` joins by it.");
            if self.chain.is_some() {
                page.line("It uses the chain of that network from then on.");
            }
            return;
        }
        match &self.household {
            None => {
                page.line("Joined. `hearth offers` shows what is offered, in a few seconds.");
            }
            Some(household) => {
                page.line(&format!(
                    "This device belongs to the household {household} now."
                ));
                page.line("Its devices answer each other without pay. `hearth devices` shows them; `hearth devices leave` ends it.");
            }
        }
        if self.chain.is_some() {
            page.line("To pay and be paid on the chain of that network, stop `hearth up` and start it again.");
        }
    }
}

impl Show for Left {
    fn show(&self, page: &mut Page) {
        page.line(&format!(
            "This device left the household {}.",
            self.household
        ));
        page.line(if self.is_host_told {
            "Its host knows, and counts this device no more."
        } else {
            "Its host could not be reached, and counts this device until you remove it there, with `hearth devices remove`."
        });
    }
}

impl Show for Devices {
    fn show(&self, page: &mut Page) {
        page.pairs(&[("household", self.household.clone())]);
        let row = |one: &DeviceView| {
            let key = one.device.get(..10).unwrap_or(&one.device).to_owned();
            let place = match (one.is_this, one.is_near) {
                (true, _) if self.is_host => "this device, the host",
                (true, _) => "this device",
                (false, true) => "connected",
                (false, false) => "",
            };
            vec![one.name.clone(), key, place.to_owned()]
        };
        let rows: Vec<_> = self.devices.iter().map(row).collect();
        page.table(&["device", "key", ""], &[false, false, false], &rows);
        let next = if !self.is_host {
            "The household's key is on another device: invite and remove there."
        } else if self.devices.len() > 1 {
            "`hearth devices remove NAME` removes one."
        } else {
            "`hearth invite` prints a ticket with which another device joins."
        };
        let next = page.styled(Style::Faint, next);
        page.line(&next);
    }
}

//! `hearth up`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use hearth_api::household::{Audience, ModelPrice, NetworkChainView, NodeEvent, NodeReady};
use hearth_node::device::{Device, UpOptions};
use hearth_node::home::Home;
use hearth_node::runs::LocalTrainer;
use hearth_node::shared_chain::{JoinLaterError, join_now};

use super::first_run::{self, Consent};
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print, print_line};
use crate::wait;

/// How to bring this device up.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// Where programs ask, instead of what config.toml says; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Sell answers of the models that have a price there, over HTTP to anyone who pays with x402, instead of where
    /// config.toml says ([api.sold]); port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS")]
    sell_at: Option<SocketAddr>,

    /// Run this model too, for this household only; may be said several times
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,

    /// Join the device of this ticket (`hearth invite` prints one); may be said several times
    #[arg(long, value_name = "TICKET")]
    join: Vec<String>,

    /// Go on with another provider when no token comes for so long
    #[arg(long, value_name = "MILLISECONDS")]
    stall_ms: Option<u64>,

    /// Promise at most so many output tokens ahead
    #[arg(long, value_name = "TOKENS")]
    window_tokens: Option<u32>,

    /// Agree to everything the first run would ask: make a wallet, fetch a model that fits
    #[arg(long)]
    yes: bool,

    /// Do not offer to fetch a model
    #[arg(long)]
    no_model: bool,
}

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(global: &Global, arguments: UpArguments) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    home.config()?;
    for ticket in &arguments.join {
        use_chain_of(&home, ticket)?;
    }
    let consent = Consent {
        yes: arguments.yes,
        no_model: arguments.no_model || !arguments.models.is_empty(),
    };
    let keys = first_run::wallet(global, &home, consent)?;
    let notes = first_run::model(global, &home, consent).await?;
    // A model that was just fetched stands in it.
    let config = home.config()?;
    // Before the node is ready to be asked, so that no signal is missed.
    let stop = crate::commands::interrupted()?;
    let spinner = wait::spinner(global.json, "loading models and looking for others");
    let options = UpOptions {
        launcher: crate::reader::launcher()?,
        listen: arguments.listen,
        sell_at: arguments.sell_at,
        models: arguments.models,
        join: arguments.join,
        stall_ms: arguments.stall_ms,
        window_tokens: arguments.window_tokens,
        trainer: Arc::new(LocalTrainer),
    };
    let device = Device::up(&home, &config, &keys, options).await?;
    drop(spinner);
    let mut ready = device.ready().clone();
    ready.warnings.extend(notes);
    if global.json {
        print_line(&NodeEvent::Ready(Box::new(ready)))?;
    } else {
        print(&ready, false)?;
    }
    device.serve(stop).await?;
    if global.json {
        print_line(&NodeEvent::Stopped)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Uses the chain of a ticket from now on. What is wrong with the ticket is said once the device is up.
fn use_chain_of(home: &Home, ticket: &str) -> Result<(), Failure> {
    match join_now(home, ticket) {
        Ok(_) | Err(JoinLaterError::Ticket(_) | JoinLaterError::Payload(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Show for NodeReady {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, "This device is up");
        page.line(&title);
        let mut rows = vec![("programs ask at", format!("{}/v1", self.url))];
        let sold = self.sold_at.as_ref();
        rows.extend(sold.map(|url| ("sold to others at", format!("{url}/v1"))));
        rows.push(("household", self.household.clone()));
        rows.push(("device", self.device.clone()));
        rows.extend(
            self.chain
                .as_ref()
                .map(|chain| ("chain", chain.chain.clone())),
        );
        page.pairs(&rows);
        if self.models.is_empty() {
            page.line("It runs no model of its own, and asks others. See `hearth models`.");
        }
        let rows: Vec<_> = self
            .models
            .iter()
            .map(|model| {
                vec![
                    model.name.clone(),
                    model.context_tokens.to_string(),
                    model.runs_on.clone(),
                    prices(model.audience, &model.prices),
                ]
            })
            .collect();
        if !rows.is_empty() {
            let headings = [
                "model",
                "context",
                "runs on",
                "for others, a million tokens",
            ];
            page.table(&headings, &[false, true, false, false], &rows);
        }
        for warning in &self.warnings {
            let warning = page.styled(Style::Warning, warning);
            page.line(&warning);
        }
        if let Some(chain) = &self.chain {
            page.line(&ordered_by(chain));
        }
        page.line("Talk to it with `hearth chat`, add a device with `hearth invite`, run it always with `hearth service`.");
        page.line("Stop it with Ctrl-C.");
    }
}

/// Who orders the network's chain, and what that means.
fn ordered_by(chain: &NetworkChainView) -> String {
    let who = if chain.is_own {
        "This device alone orders its chain, also for those who join it".to_owned()
    } else {
        let host = chain.host.get(..10).unwrap_or(&chain.host);
        format!("One device ({host}…) orders the chain of this network")
    };
    format!(
        "{who}: its money (TESTUSD) is worth nothing. To be paid in real money, name a public chain in config.toml: see \
         docs/guide/chain.md."
    )
}

/// Prices in one cell.
pub(super) fn prices(audience: Audience, prices: &[ModelPrice]) -> String {
    match audience {
        Audience::Household => return "household only".to_owned(),
        Audience::Everyone if prices.is_empty() => return "free".to_owned(),
        Audience::Everyone => {}
    }
    let said = prices.iter().map(|price| {
        let (prompt, output) = (&price.per_million_prompt, &price.per_million_output);
        format!(
            "{} prompt, {} output {}",
            prompt.amount, output.amount, output.symbol
        )
    });
    said.collect::<Vec<_>>().join(" or ")
}

//! `hearth serve-paid`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use hearth_api::money::Money;
use hearth_api::payments::{ServiceEvent, ServiceReady};
use hearth_node::keys::Keystore;
use hearth_node::trade::{FacilitatorOptions, PaidService, ServeOptions};

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print, print_line};
use crate::{secrets, wait};

/// What to sell, for how much.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The price of a request, in whole tokens
    #[arg(long, value_name = "AMOUNT")]
    price: String,

    /// Quote a ceiling of this many prices, so that a client's parallel requests fit on one voucher. Each request
    /// is still charged its price at most; payers deposit and sign for more
    #[arg(long, default_value_t = 1, value_name = "N")]
    at_once: u32,

    /// The service behind the price
    #[arg(long, value_name = "URL")]
    to: String,

    /// The asset, by its name in config.toml or its CAIP-19 id
    #[arg(long, default_value = "TESTUSD", value_name = "ASSET")]
    asset: String,

    /// Where to listen; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:4021", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// The address under which the world knows the service
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,

    /// What is sold, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Wait with a claim until it brings this many whole tokens, unless it is urgent
    #[arg(long, default_value = "1", value_name = "AMOUNT")]
    claim_at_least: String,

    /// Hand every claim to the watchtower there (`hearth watch`), which sends it if a payer withdraws while this
    /// device is off
    #[arg(long, value_name = "URL")]
    watchtower: Option<String>,

    /// Serve the x402 facilitator (/verify, /settle, /supported) for other services of this household here. Loopback
    /// only: whoever reaches it spends this household's gas and has claims and refunds signed by its session key
    #[arg(long, value_name = "ADDRESS")]
    facilitator: Option<SocketAddr>,

    /// Take payments by channel only. A one-off payment (scheme "exact") costs this device a transaction; without this
    /// it is offered where its gas is worth it
    #[arg(long)]
    no_exact: bool,

    /// Let --facilitator listen where others can reach it, because you trust all of them
    #[arg(long, requires = "facilitator")]
    facilitator_beyond_loopback: bool,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(global: &Global, arguments: ServeArguments) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let options = ServeOptions {
        price: arguments.price,
        at_once: arguments.at_once,
        asset: arguments.asset,
        upstream: arguments.to,
        listen: arguments.listen,
        base_url: arguments.base_url,
        description: arguments.description,
        claim_at_least: arguments.claim_at_least,
        watchtower: arguments.watchtower,
        facilitator: arguments.facilitator.map(|listen| FacilitatorOptions {
            listen,
            beyond_loopback: arguments.facilitator_beyond_loopback,
        }),
        exact: !arguments.no_exact,
    };
    let keys = secrets::unlock(global, &keystore)?;
    // Before the service is ready to be asked, so that no signal is missed.
    let stop = crate::commands::interrupted()?;
    let spinner = wait::spinner(global.json, "asking the chain");
    let service = PaidService::open(&home, &config, &keys, options).await?;
    drop(spinner);
    let ready = service.ready().clone();
    if global.json {
        print_line(&ServiceEvent::Ready(Box::new(ready)))?;
    } else {
        print(&ready, false)?;
    }
    service.serve(stop).await?;
    if global.json {
        print_line(&ServiceEvent::Stopped)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Show for ServiceReady {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &format!("Selling at {}", self.url));
        page.line(&title);
        let money = |money: &Money| format!("{} {}", money.amount, money.symbol);
        let mut rows = vec![
            ("behind it", self.upstream.clone()),
            ("price", format!("{} a request", money(&self.price))),
            (
                "quoted",
                format!("{} at most, by channel", money(&self.ceiling)),
            ),
            ("paid to", self.pay_to.clone()),
            ("withdrawals take", format!("{} s", self.withdraw_delay_s)),
        ];
        let optional = [
            ("facilitator", self.facilitator.clone()),
            ("watchtower", self.watchtower.clone()),
        ];
        rows.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        page.pairs(&rows);
        for warning in &self.warnings {
            let warning = page.styled(Style::Warning, warning);
            page.line(&warning);
        }
        page.line("Stop it with Ctrl-C; what was promised is safe.");
    }
}

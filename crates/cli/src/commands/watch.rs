//! `hearth watch`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use hearth_api::payments::{WatchEvent, WatchReady, WatchedClaim};
use hearth_node::keys::Keystore;
use hearth_node::trade::{WatchOptions, WatchService};

use crate::commands::channels::amount;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print, print_line};
use crate::{secrets, wait};

/// For whom to watch, and where.
#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// Serve this session key (repeat it for more); without it, the first 16 devices of this household
    #[arg(long = "for", value_name = "ADDRESS")]
    authorizers: Vec<String>,

    /// Where to listen; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:4022", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Look at the watched channels every so many seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=300))]
    every: u64,
}

/// Watches until SIGINT or SIGTERM.
pub(crate) async fn run(global: &Global, arguments: WatchArguments) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    let keystore = Keystore::read(&home.keystore_path())?;
    let config = home.config()?;
    let options = WatchOptions {
        authorizers: arguments.authorizers,
        listen: arguments.listen,
        every_s: arguments.every,
    };
    let keys = secrets::unlock(global, &keystore)?;
    // Before the watchtower is ready to be asked, so that no signal is missed.
    let stop = crate::commands::interrupted()?;
    let spinner = wait::spinner(global.json, "asking the chains");
    let service = WatchService::open(&home, &config, &keys, options).await?;
    drop(spinner);
    let ready = service.ready().clone();
    if global.json {
        print_line(&WatchEvent::Ready(Box::new(ready)))?;
    } else {
        print(&ready, false)?;
    }
    let mut unprinted = Ok(());
    let mut tell = |event: WatchEvent| {
        let printed = match &event {
            WatchEvent::Watching(claim) | WatchEvent::Claimed(claim) if !global.json => {
                print(claim, false)
            }
            event => print_line(event),
        };
        // Watching is more important than saying so: it goes on, and the fault is told at the end.
        if printed.is_err() {
            unprinted = printed;
        }
    };
    service.serve(stop, &mut tell).await?;
    unprinted?;
    if global.json {
        print_line(&WatchEvent::Stopped)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Show for WatchReady {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &format!("Watching at {}", self.url));
        page.line(&title);
        page.pairs(&[
            ("on", self.chains.join(", ")),
            ("for", self.authorizers.join(", ")),
            ("gas is paid by", self.account.clone()),
        ]);
        for warning in &self.warnings {
            let warning = page.styled(Style::Warning, warning);
            page.line(&warning);
        }
        page.line("Stop it with Ctrl-C; what it was given is on disk.");
    }
}

impl Show for WatchedClaim {
    fn show(&self, page: &mut Page) {
        let Self { chain, channel, .. } = self;
        let amount = amount(self.money.as_ref(), &self.units);
        match (&self.transaction, &self.problem) {
            (Some(hash), _) => page.line(&format!(
                "Claimed {amount} of channel {channel} on {chain}, transaction {hash}"
            )),
            (None, Some(problem)) => {
                let text = format!("The claim of channel {channel} on {chain} failed: {problem}");
                let text = page.styled(Style::Bad, &text);
                page.line(&text);
            }
            (None, None) => page.line(&format!(
                "Watching channel {channel} on {chain}, {amount} claimed in all"
            )),
        }
    }
}

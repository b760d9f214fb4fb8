//! `hearth relay`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hearth_api::household::{RelayEvent, RelayReady};
use hearth_node::relay::{RelayChoice, RelayService};

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print, print_line};

/// Where to relay, and for whom.
#[derive(Debug, Args)]
pub(crate) struct RelayArguments {
    /// Where to listen; port 0 lets the system choose
    #[arg(long, default_value = "0.0.0.0:3340", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Listen with HTTPS: the certificate with its chain, as PEM
    #[arg(long, requires = "key", value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// The certificate's private key, as PEM
    #[arg(long, requires = "certificate", value_name = "FILE")]
    key: Option<PathBuf>,

    /// Forward at most so much from each connection, in KiB per second
    #[arg(long, default_value_t = 4_096, value_name = "KIB", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    kib_per_s: u32,

    /// Take at most so many connections at once
    #[arg(long, default_value_t = 1_024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    connections: u32,

    /// Serve this device alone (repeat it for more); without it, whoever finds the relay
    #[arg(long, value_name = "DEVICE")]
    only: Vec<String>,
}

/// Forwards until SIGINT or SIGTERM.
pub(crate) async fn run(global: &Global, arguments: RelayArguments) -> Result<ExitCode, Failure> {
    // Before the relay is ready to be used, so that no signal is missed.
    let stop = crate::commands::interrupted()?;
    let service = RelayService::open(RelayChoice {
        listen: arguments.listen,
        certificate: arguments.certificate.zip(arguments.key),
        kib_per_s: arguments.kib_per_s,
        connections_max: usize::try_from(arguments.connections).unwrap_or(usize::MAX),
        only: arguments.only,
    })
    .await?;
    let ready = service.ready().clone();
    if global.json {
        print_line(&RelayEvent::Ready(ready))?;
    } else {
        print(&ready, false)?;
    }
    service.serve(stop).await?;
    if global.json {
        print_line(&RelayEvent::Stopped)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Show for RelayReady {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, &format!("Relaying at {}", self.url));
        page.line(&title);
        let only = if self.only.is_empty() {
            "anyone who finds it".to_owned()
        } else {
            self.only.join(", ")
        };
        page.pairs(&[
            ("for", only),
            ("connections at once", self.connections.to_string()),
        ]);
        let place = if self.url.starts_with("https:") {
            "the name that its certificate is for"
        } else {
            "an address by which others reach this machine"
        };
        page.line(&format!(
            "Write its URL, with {place}, into `relays` of [network] in their config.toml."
        ));
        page.line("Stop it with Ctrl-C. It cannot read what it forwards.");
    }
}

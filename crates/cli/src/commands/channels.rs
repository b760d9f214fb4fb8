//! `hearth channels`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hearth_api::money::Money;
use hearth_api::payments::{Channel, ChannelTerms, Channels, Claims, Opened, Refunds, Returned};
use hearth_node::home::Home;
use hearth_node::household::client::{get_if_up, post_if_up};
use hearth_node::keys::{Keystore, Unlocked};
use hearth_node::trade::{self, Books};

use crate::confirm::confirm;
use crate::failure::Failure;
use crate::global::Global;
use crate::purse::Purse;
use crate::screen::{Page, Show, Style, print};
use crate::{secrets, wait};

/// What to do with channels.
#[derive(Debug, Args)]
pub(crate) struct ChannelArguments {
    #[command(subcommand)]
    action: Option<ChannelAction>,
}

#[derive(Debug, Subcommand)]
enum ChannelAction {
    /// Show the channels as this device knows them
    List,

    /// Ask the chains how the channels are, then show them
    Look,

    /// Put a deposit into a new channel with a service, before anything is bought (needs gas on a public chain)
    Open {
        /// The service's address
        url: String,

        /// What goes into the channel, in whole tokens of what the service takes
        #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
        deposit: String,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },

    /// Ask the other side to return what is left in the channels with it
    Refund {
        /// The service's address, what the list has under "with" (such as hearth:…), or a channel's id
        with: String,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },

    /// Take back what is left without the service: begins a withdrawal, and after its delay finishes it
    Close {
        /// The channel's id
        channel: String,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },

    /// Take what was earned to the household's account, by the node that is up or, where none is, by this command
    Claim {
        /// The asset, by its name in config.toml or its CAIP-19 id; a node that is up claims in all
        #[arg(long, default_value = "TESTUSD", value_name = "ASSET")]
        asset: String,
    },
}

/// Does it.
pub(crate) async fn run(global: &Global, arguments: ChannelArguments) -> Result<ExitCode, Failure> {
    match arguments.action.unwrap_or(ChannelAction::List) {
        ChannelAction::List => list(global).await?,
        ChannelAction::Look => {
            let purse = Purse::open(global).await?;
            print(&purse.look().await?, global.json)?;
        }
        ChannelAction::Open { url, deposit, yes } => {
            let purse = Purse::open(global).await?;
            let agree = |terms: &ChannelTerms| confirm(yes, &question(terms));
            let opened = purse.open_channel(&url, &deposit, agree, global.json);
            print(&opened.await?, global.json)?;
        }
        ChannelAction::Refund { with, yes } => {
            confirm(yes, &format!("Take back what is left with {with}?"))?;
            return refund(global, &with).await;
        }
        ChannelAction::Close { channel, yes } => {
            if !yes {
                check_known(global, &channel).await?;
            }
            confirm(yes, "Withdraw what is left, without the service?")?;
            let purse = Purse::open(global).await?;
            print(&purse.close(&channel).await?, global.json)?;
        }
        ChannelAction::Claim { asset } => return claim(global, &asset).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn question(terms: &ChannelTerms) -> String {
    let ChannelTerms {
        price,
        deposit,
        pay_to,
        withdraw_delay_s,
    } = terms;
    format!(
        "A request costs at most {} {}. Put {} {} into a channel with {pay_to}? What is not spent comes back by refund, \
         or without the service {withdraw_delay_s} s after you ask.",
        price.amount, price.symbol, deposit.amount, deposit.symbol
    )
}

async fn list(global: &Global) -> Result<(), Failure> {
    print(&all(global).await?, global.json)
}

/// Every channel, as the node that is up or the books have them.
async fn all(global: &Global) -> Result<Channels, Failure> {
    let home = global.open_home()?;
    let channels: Option<Channels> = get_if_up(&home, "/hearth/channels").await?;
    Ok(match channels {
        Some(channels) => channels,
        None => trade::list(&home, &home.config()?)?,
    })
}

/// Refuses a channel on which this device does not pay, before anybody is asked about it.
async fn check_known(global: &Global, channel: &str) -> Result<(), Failure> {
    let channels = all(global).await?;
    let is_meant = |known: &Channel| known.channel.eq_ignore_ascii_case(channel);
    // Books that are in use by another process show nothing.
    if !channels.problems.is_empty() || channels.paying.iter().any(is_meant) {
        return Ok(());
    }
    let message = format!("this device pays on no channel {channel}");
    let next = "See `hearth channels` for what there is";
    Err(Failure::new("no_channel", message, next))
}

fn unlocked(global: &Global) -> Result<Unlocked, Failure> {
    let keystore = Keystore::read(&global.open_home()?.keystore_path())?;
    secrets::unlock(global, &keystore)
}

async fn refund(global: &Global, with: &str) -> Result<ExitCode, Failure> {
    let purse = Purse::open(global).await?;
    let spinner = wait::spinner(global.json, "waiting for what comes back");
    let refunds = purse.refund(with).await?;
    drop(spinner);
    print(&refunds, global.json)?;
    let failed = refunds.refunds.iter().any(|one| one.problem.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn claim(global: &Global, asset: &str) -> Result<ExitCode, Failure> {
    let home = global.open_home()?;
    let spinner = wait::spinner(global.json, "claiming, until it is final");
    let nothing = serde_json::json!({});
    let claims: Option<Claims> = post_if_up(&home, "/hearth/claim", &nothing).await?;
    drop(spinner);
    let claims = match claims {
        Some(claims) => claims,
        None => claim_here(global, &home, asset).await?,
    };
    print(&claims, global.json)?;
    let failed = claims.claims.iter().any(|claim| claim.problem.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Claims with the books of a node that is down.
async fn claim_here(global: &Global, home: &Home, asset: &str) -> Result<Claims, Failure> {
    let config = home.config()?;
    let keys = unlocked(global)?;
    let _spinner = wait::spinner(global.json, "claiming, until it is final");
    let books = Books::open(home, &config, &keys, asset).await?;
    Ok(books.claim().await?)
}

impl Show for Channels {
    fn show(&self, page: &mut Page) {
        section(page, "Paying", "refundable", &self.paying);
        section(page, "Earning", "unclaimed", &self.earning);
        if self.paying.is_empty() && self.earning.is_empty() && self.problems.is_empty() {
            page.line("No channel yet. `hearth pay URL` opens one where a service takes channels.");
        }
        for problem in &self.problems {
            let problem = page.styled(Style::Warning, problem);
            page.line(&problem);
        }
    }
}

fn section(page: &mut Page, title: &str, due: &str, channels: &[Channel]) {
    if channels.is_empty() {
        return;
    }
    let title = page.styled(Style::Strong, title);
    page.line(&title);
    let row = |channel: &Channel| {
        vec![
            channel.status.clone(),
            channel.balance.amount.clone(),
            channel.reserved.amount.clone(),
            channel.charged.amount.clone(),
            channel.claimed.amount.clone(),
            channel.due.amount.clone(),
            channel.balance.symbol.clone(),
            channel
                .url
                .clone()
                .unwrap_or_else(|| channel.counterpart.clone()),
            channel.channel.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = channels.iter().map(row).collect();
    page.table(
        &[
            "status", "balance", "reserved", "charged", "claimed", due, "asset", "with", "channel",
        ],
        &[false, true, true, true, true, true, false, false, false],
        &rows,
    );
}

impl Show for Opened {
    fn show(&self, page: &mut Page) {
        page.line(&format!(
            "{} {} are in a new channel with {}. `hearth pay` spends from it.",
            self.deposit.amount, self.deposit.symbol, self.url
        ));
        page.pairs(&[
            ("channel", self.channel.clone()),
            ("transaction", self.transaction.clone()),
        ]);
    }
}

impl Show for Refunds {
    fn show(&self, page: &mut Page) {
        for refund in &self.refunds {
            let channel = match &refund.channel {
                Some(channel) => format!("channel {channel}"),
                None => "a channel".to_owned(),
            };
            if let Some(problem) = &refund.problem {
                page.line(&format!("Nothing came back from {channel}: {problem}"));
                continue;
            }
            let what = refund.returned.as_ref();
            let what = what.map(|money| format!("{} {}", money.amount, money.symbol));
            let what = what.unwrap_or_else(|| "What was left".to_owned());
            let how = refund.transaction.as_ref();
            let how = how.map(|hash| format!(", transaction {hash}"));
            page.line(&format!(
                "{what} came back from {channel}{}",
                how.unwrap_or_default()
            ));
        }
    }
}

impl Show for Returned {
    fn show(&self, page: &mut Page) {
        let mut rows = vec![("outcome", self.outcome.clone())];
        let optional = [
            ("transaction", self.transaction.clone()),
            (
                "came back",
                self.units
                    .as_deref()
                    .map(|units| amount(self.money.as_ref(), units)),
            ),
            (
                "ends at (unix time)",
                self.ends_at_s.map(|seconds| seconds.to_string()),
            ),
        ];
        rows.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        page.pairs(&rows);
        if self.outcome.starts_with("withdrawal") {
            page.line("Run the same command again after that time to finish it.");
        }
    }
}

/// An amount in whole tokens where it is known which.
pub(crate) fn amount(money: Option<&Money>, units: &str) -> String {
    match money {
        Some(money) => format!("{} {}", money.amount, money.symbol),
        None => format!("{units} atomic units"),
    }
}

impl Show for Claims {
    fn show(&self, page: &mut Page) {
        if self.claims.is_empty() {
            page.line("Nothing is due.");
        }
        for claim in &self.claims {
            let units = claim.units.as_deref().unwrap_or("0");
            let amount = amount(claim.money.as_ref(), units);
            match (&claim.transaction, &claim.problem) {
                (Some(hash), _) if claim.channels == 0 => page.line(&format!(
                    "Transferred {} that were claimed before on {}, transaction {hash}",
                    amount, claim.chain
                )),
                (Some(hash), _) => page.line(&format!(
                    "Claimed {amount} of {} {} on {}, transaction {hash}",
                    claim.channels,
                    if claim.channels == 1 {
                        "channel"
                    } else {
                        "channels"
                    },
                    claim.chain
                )),
                (None, problem) => page.line(&format!(
                    "Not claimed on {}: {}",
                    claim.chain,
                    problem.as_deref().unwrap_or("unknown")
                )),
            }
            for dropped in &claim.dropped {
                page.line(&format!("  left out: {dropped}"));
            }
        }
    }
}

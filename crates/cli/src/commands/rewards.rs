//! `hearth rewards`: what this household earned by training and validating.

use std::process::ExitCode;

use clap::Subcommand;
use hearth_api::money::Money;
use hearth_api::runs::{ClaimProblem, RewardsClaimed, RewardsView};
use hearth_node::owner::client::Client;
use serde_json::json;

use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};

/// Credits that are shown.
const CREDITS_SHOWN: usize = 20;

/// What can be done with rewards.
#[derive(Debug, Subcommand)]
pub(crate) enum RewardsCommand {
    /// Show what was earned: on the way, claimable, claimed
    Show,

    /// Claim what is final
    Claim,
}

/// Does what was asked.
pub(crate) async fn run(
    global: &Global,
    command: Option<RewardsCommand>,
) -> Result<ExitCode, Failure> {
    let client = Client::of(&global.open_home()?)?;
    match command.unwrap_or(RewardsCommand::Show) {
        RewardsCommand::Show => {
            let view: RewardsView = client.get("/hearth/rewards").await?;
            print(&view, global.json)?;
        }
        RewardsCommand::Claim => {
            let asked = json!({});
            let claimed: RewardsClaimed = client.post("/hearth/rewards/claim", &asked).await?;
            print(&claimed, global.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sum(money: &[Money]) -> String {
    let said: Vec<_> = money
        .iter()
        .filter(|one| one.units != "0")
        .map(|one| format!("{} {}", one.amount, one.symbol))
        .collect();
    match said.is_empty() {
        true => "nothing".to_owned(),
        false => said.join(", "),
    }
}

fn show_problems(page: &mut Page, problems: &[ClaimProblem]) {
    for one in problems {
        let line = format!("Not of {}: {}", one.asset, one.problem);
        let line = page.styled(Style::Warning, &line);
        page.line(&line);
    }
}

impl Show for RewardsView {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, "Earned by training and validating");
        page.line(&title);
        let newest = self.final_epoch;
        page.pairs(&[
            ("account", self.account.clone()),
            ("epoch", self.epoch.to_string()),
            (
                "newest final epoch",
                newest.map_or_else(|| "none yet".to_owned(), |epoch| epoch.to_string()),
            ),
            ("claimable", sum(&self.claimable)),
            ("claimed", sum(&self.claimed)),
        ]);
        show_problems(page, &self.problems);
        if self.credits.is_empty() {
            page.line("No work of this household is recorded yet.");
            return;
        }
        let first = self.credits.len().saturating_sub(CREDITS_SHOWN);
        let rows: Vec<_> = self.credits[first..]
            .iter()
            .map(|credit| {
                vec![
                    credit.run.get(..12).unwrap_or(&credit.run).to_owned(),
                    credit.index.to_string(),
                    credit.kind.clone(),
                    format!("{} {}", credit.whole.amount, credit.whole.symbol),
                    credit.vested.amount.clone(),
                    credit.why.clone(),
                ]
            })
            .collect();
        let headings = ["run", "round", "for", "pay", "vested", "why"];
        page.table(&headings, &[false, true, false, true, true, false], &rows);
    }
}

impl Show for RewardsClaimed {
    fn show(&self, page: &mut Page) {
        let line = format!("Claimed {}.", sum(&self.claimed));
        let line = page.styled(Style::Good, &line);
        page.line(&line);
        show_problems(page, &self.problems);
    }
}

//! `hearth offers` and `hearth earnings`: what the running node knows of others.

use std::process::ExitCode;

use clap::Args;
use hearth_api::household::{Earnings, OfferView, Offers, Trade};
use hearth_api::money::Money;
use hearth_node::household::client::Client;

use super::up::prices;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};

/// Which offers.
#[derive(Debug, Args)]
pub(crate) struct OfferArguments {
    /// Only offers of this model, by name or by the hash of its weights
    model: Option<String>,
}

fn client(global: &Global) -> Result<Client, Failure> {
    Ok(Client::of(&global.open_home()?)?)
}

/// Shows what is offered.
pub(crate) async fn offers(
    global: &Global,
    arguments: OfferArguments,
) -> Result<ExitCode, Failure> {
    let path = match &arguments.model {
        Some(model) => format!("/hearth/offers?model={model}"),
        None => "/hearth/offers".to_owned(),
    };
    let offers: Offers = client(global)?.get(&path).await?;
    print(&offers, global.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows what was earned and spent.
pub(crate) async fn earnings(global: &Global) -> Result<ExitCode, Failure> {
    let earnings: Earnings = client(global)?.get("/hearth/earnings").await?;
    print(&earnings, global.json)?;
    Ok(ExitCode::SUCCESS)
}

fn sum(money: &[Money]) -> String {
    if money.is_empty() {
        return "nothing".to_owned();
    }
    let said = money
        .iter()
        .map(|one| format!("{} {}", one.amount, one.symbol));
    said.collect::<Vec<_>>().join(", ")
}

impl Show for Offers {
    fn show(&self, page: &mut Page) {
        if self.offers.is_empty() {
            page.line("Nobody offers anything yet. `hearth join` joins a device by its ticket.");
            return;
        }
        let rows: Vec<_> = self.offers.iter().map(row).collect();
        let headings = [
            "model",
            "device",
            "a million tokens",
            "500+500 tokens",
            "takes",
            "free",
            "seen",
            "score",
            "",
        ];
        let right = [false, false, false, true, true, true, true, true, false];
        page.table(&headings, &right, &rows);
        let note = page.styled(
            Style::Faint,
            "The lowest score is asked first: what the answer costs as a share of what one payment may cost, and how \
             long it takes.",
        );
        page.line(&note);
    }
}

fn row(offer: &OfferView) -> Vec<String> {
    let cost = offer.cost.as_ref();
    let cost = cost.map_or_else(
        || "-".to_owned(),
        |cost| format!("{} {}", cost.amount, cost.symbol),
    );
    let device = offer.device.get(..10).unwrap_or(&offer.device).to_owned();
    vec![
        offer.model.clone(),
        device,
        prices(offer.audience, &offer.prices),
        cost,
        format!(
            "{:.1} s",
            std::time::Duration::from_millis(offer.time_ms).as_secs_f32()
        ),
        format!("{}/{}", offer.free_slots, offer.slots),
        format!("{} ok, {} failed", offer.answers, offer.failures),
        offer.score.to_string(),
        offer.passed.clone().unwrap_or_default(),
    ]
}

impl Show for Earnings {
    fn show(&self, page: &mut Page) {
        let mut part = |title: &str, trades: &[Trade]| {
            let title = page.styled(Style::Strong, title);
            page.line(&title);
            if trades.is_empty() {
                page.line("nothing yet");
                return;
            }
            let rows: Vec<_> = trades
                .iter()
                .map(|trade| {
                    vec![
                        trade.model.clone(),
                        trade.answers.to_string(),
                        trade.output_tokens.to_string(),
                        sum(&trade.charged),
                    ]
                })
                .collect();
            let headings = ["model", "answers", "tokens", "charged"];
            page.table(&headings, &[false, true, true, true], &rows);
        };
        part("Sold to others", &self.sold);
        part("Bought from others", &self.bought);
        page.pairs(&[(
            "earned and not claimed on the chain yet",
            sum(&self.unclaimed),
        )]);
    }
}

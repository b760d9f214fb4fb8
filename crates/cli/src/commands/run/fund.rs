//! `hearth run fund`: pledges to a run.

use clap::Args;
use hearth_api::money::Money;
use hearth_api::runs::{
    FundRun, FundingAct, FundingDone, FundingOrder, FundingPlan, FundingState, FundingView,
    MakeFunding, WhichRun,
};

use super::client;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{Page, Show, Style, print};
use crate::wait;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

/// What to do about the pledges to a run.
#[derive(Debug, Args)]
pub(crate) struct FundArguments {
    /// The run's id, or the beginning of it, or its ticket
    run: String,

    /// Pledge so much, in whole tokens of the run's asset; with --withdraw, take so much back
    #[arg(allow_negative_numbers = true, conflicts_with_all = ["refund", "release"])]
    amount: Option<String>,

    /// The asset that is meant, by its name in config.toml or its CAIP-19 id: it must be the run's
    #[arg(long, value_name = "ASSET")]
    asset: Option<String>,

    /// Take a pledge back before the deadline; all of it where no amount is said
    #[arg(long, conflicts_with_all = ["refund", "release"])]
    withdraw: bool,

    /// Take back what goes back after the deadline: all below the soft cap, or what is left at the end
    #[arg(long, conflicts_with = "release")]
    refund: bool,

    /// Send the parts of the checkpoints that were reached to those who trained; anyone may
    #[arg(long)]
    release: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl FundArguments {
    fn act(&self) -> Option<FundingAct> {
        match (self.withdraw, self.refund, self.release) {
            (true, ..) => Some(FundingAct::Withdraw),
            (_, true, _) => Some(FundingAct::Refund),
            (.., true) => Some(FundingAct::Release),
            _ => self.amount.is_some().then_some(FundingAct::Pledge),
        }
    }
}

/// Does what was asked, or shows what is pledged.
pub(super) async fn run(global: &Global, arguments: FundArguments) -> Result<(), Failure> {
    let client = client(global)?;
    let Some(act) = arguments.act() else {
        let asked = WhichRun { run: arguments.run };
        let view: FundingView = client.post("/hearth/runs/funding", &asked).await?;
        return print(&view, global.json);
    };
    let order = FundingOrder {
        run: arguments.run,
        act,
        amount: arguments.amount,
        asset: arguments.asset,
    };
    let spinner = wait::spinner(global.json, "asking the chain");
    let plan: FundingPlan = client.post("/hearth/runs/fund/plan", &order).await?;
    drop(spinner);
    confirm(arguments.yes, &question(&plan))?;
    let asked = FundRun {
        order,
        seen: plan.funding.mine.units,
    };
    let spinner = wait::spinner(global.json, "sending, until it is final");
    let done: FundingDone = client.post("/hearth/runs/fund", &asked).await?;
    drop(spinner);
    print(&done, global.json)
}

fn said(money: &Money) -> String {
    format!("{} {}", money.amount, money.symbol)
}

/// A span of time, in the two largest units.
fn span(seconds: u64) -> String {
    match seconds {
        DAY_S.. => format!("{} d {} h", seconds / DAY_S, seconds % DAY_S / HOUR_S),
        HOUR_S.. => format!("{} h {} min", seconds / HOUR_S, seconds % HOUR_S / MINUTE_S),
        MINUTE_S.. => format!("{} min {} s", seconds / MINUTE_S, seconds % MINUTE_S),
        _ => format!("{seconds} s"),
    }
}

/// A moment, from another one.
fn moment(at_s: u64, now_s: u64) -> String {
    match at_s.checked_sub(now_s) {
        Some(left) if left > 0 => format!("in {} (unix time {at_s})", span(left)),
        _ => format!(
            "{} ago (unix time {at_s})",
            span(now_s.saturating_sub(at_s))
        ),
    }
}

fn question(plan: &FundingPlan) -> String {
    let FundingPlan {
        act,
        amount,
        to,
        funding,
    } = plan;
    let amount = said(amount);
    let run = funding.run.get(..12).unwrap_or(&funding.run);
    let (deadline, end) = (
        moment(funding.deadline_s, funding.now_s),
        moment(funding.end_s, funding.now_s),
    );
    match act {
        FundingAct::Pledge => format!(
            "Pledge {amount} to the run {run}, to be held by the contract {to}? Until the deadline, {deadline}, you can \
             withdraw it. After that all of it goes back if less than {} are pledged by everybody; otherwise each of {} \
             checkpoints pays its part to those who trained, and you get back what is left at the end, {end}.",
            said(&funding.soft_cap),
            funding.checkpoints,
        ),
        FundingAct::Withdraw => format!("Withdraw {amount} from the run {run} to {to}?"),
        FundingAct::Refund => format!("Take {amount} back from the run {run} to {to}?"),
        FundingAct::Release => format!(
            "Release {amount} of what all funders pledged to the run {run} to {to}, to be earned by those who trained? \
             This cannot be taken back."
        ),
    }
}

/// What a run that is planned promises to its funders.
pub(super) fn show_promise(page: &mut Page, funding: &MakeFunding, rounds: u32) {
    page.line(&format!(
        "  Pledges in {} are taken for {}; the first round is recorded after that. Under {} of them all go back.",
        funding.asset,
        span(funding.open_s),
        funding.soft_cap,
    ));
    page.line(&format!(
        "  {} checkpoints, one every {} rounds, release them in equal parts; what is left goes back {} after the deadline.",
        funding.checkpoints,
        rounds / funding.checkpoints.max(1),
        span(funding.lasts_s),
    ));
}

fn stand(view: &FundingView) -> String {
    match view.state {
        FundingState::Open => "open: pledges can be made and withdrawn".to_owned(),
        FundingState::Bound => "bound: checkpoints release them".to_owned(),
        FundingState::Missed => "the soft cap was missed: all go back".to_owned(),
        FundingState::Ended => "ended: what no checkpoint released goes back".to_owned(),
    }
}

impl Show for FundingView {
    fn show(&self, page: &mut Page) {
        let title = page.styled(Style::Strong, "Pledges");
        page.line(&title);
        page.pairs(&[
            ("run", self.run.clone()),
            ("state", stand(self)),
            (
                "pledged",
                format!(
                    "{} of at least {}",
                    said(&self.pledged),
                    said(&self.soft_cap)
                ),
            ),
            ("by you", format!("{} ({})", said(&self.mine), self.account)),
            ("deadline", moment(self.deadline_s, self.now_s)),
            ("end", moment(self.end_s, self.now_s)),
            (
                "checkpoints",
                format!(
                    "{} of {} reached, {} rounds each; {} released",
                    self.checkpoints_reached,
                    self.checkpoints,
                    self.rounds_per_checkpoint,
                    self.checkpoints_released
                ),
            ),
            ("released", said(&self.released)),
        ]);
        if self.releasable.units != "0" {
            let waits = said(&self.releasable);
            page.line(&format!(
                "{waits} wait for `--release`, which anyone may say."
            ));
        }
        if self.refundable.units != "0" {
            let back = said(&self.refundable);
            page.line(&format!("`--refund` gives you {back} back."));
        }
    }
}

impl Show for FundingDone {
    fn show(&self, page: &mut Page) {
        let moved = said(&self.moved);
        let line = match self.act {
            FundingAct::Pledge => format!("Pledged {moved}."),
            FundingAct::Withdraw => format!("Withdrew {moved}."),
            FundingAct::Refund => format!("{moved} went back to you."),
            FundingAct::Release => format!(
                "Released {moved}. It is earned by those who trained, with the epoch that goes on: `hearth rewards` shows it."
            ),
        };
        let line = page.styled(Style::Good, &line);
        page.line(&line);
        if self.moved.units != self.ordered.units {
            let ordered = said(&self.ordered);
            let line = format!("Of {ordered} that were sent, the rest was kept by the token.");
            let line = page.styled(Style::Warning, &line);
            page.line(&line);
        }
        page.pairs(&[("transaction", self.transaction.clone())]);
        self.funding.show(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(units: u64) -> Money {
        Money::of_units("EMBER", "eip155:1/erc20:0x0", 0, units)
    }

    fn plan(act: FundingAct) -> FundingPlan {
        FundingPlan {
            act,
            amount: money(25),
            to: "0xabc".to_owned(),
            funding: FundingView {
                run: "3f2a".repeat(16),
                state: FundingState::Open,
                account: "0xdef".to_owned(),
                pledged: money(100),
                mine: money(0),
                soft_cap: money(500),
                deadline_s: 2 * DAY_S + 3 * HOUR_S,
                end_s: 30 * DAY_S,
                now_s: 0,
                checkpoints: 4,
                rounds_per_checkpoint: 5,
                checkpoints_reached: 0,
                checkpoints_released: 0,
                released: money(0),
                releasable: money(0),
                refundable: money(0),
            },
        }
    }

    #[test]
    fn the_question_says_how_much_to_where_and_what_comes_back_until_when() {
        let asked = question(&plan(FundingAct::Pledge));
        for part in [
            "25 EMBER",
            "3f2a3f2a3f2a",
            "0xabc",
            "in 2 d 3 h",
            "500 EMBER",
            "in 30 d 0 h",
        ] {
            assert!(asked.contains(part), "{part}: {asked}");
        }
        let asked = question(&plan(FundingAct::Release));
        assert!(asked.contains("cannot be taken back"), "{asked}");
    }

    #[test]
    fn moments_are_said_from_now_on() {
        assert_eq!(moment(100, 40), "in 1 min 0 s (unix time 100)");
        assert_eq!(moment(40, 100), "1 min 0 s ago (unix time 40)");
        assert_eq!(moment(40, 40), "0 s ago (unix time 40)");
        assert_eq!(span(2 * HOUR_S + 61), "2 h 1 min");
    }
}

//! Pledging, withdrawing, refunding and releasing: checked, shown, and sent once.

use alloy_primitives::{U256, hex};
use hearth_api::runs::{FundRun, FundingAct, FundingDone, FundingOrder, FundingPlan, FundingState};
use hearth_causes::WithCauses;
use hearth_chain::ledger::{LedgerCall, LedgerError, LedgerRefusal};
use hearth_chain::sender::IntentId;
use hearth_protocol::money::Amount;
use tracing::warn;

use super::super::Runs;
use super::{Funding, FundingError, less};

/// How often an order is sent: a name that an order of long ago left in the journal is found, and forgotten, once.
const SENDS_MAX: u32 = 2;
/// The longest text of an order that is repeated in an error, in characters.
const SAID_CHARS_MAX: usize = 96;

/// An order that can be carried out as things are.
struct Checked {
    funding: Funding,
    amount: Amount,
}

fn said(given: &str) -> String {
    given.chars().take(SAID_CHARS_MAX).collect()
}

impl Funding {
    /// What `order` moves.
    pub(super) fn amount_of(&self, order: &FundingOrder) -> Result<Amount, FundingError> {
        if let Some(given) = &order.asset
            && *given != self.asset.symbol
            && *given != self.asset.id.to_string()
        {
            return Err(FundingError::OtherAsset {
                wanted: self.asset.symbol.clone(),
                given: said(given),
            });
        }
        let given = order.amount.as_deref();
        let typed = given.map(|given| self.typed(given)).transpose()?;
        match order.act {
            FundingAct::Pledge => self.pledged(typed),
            FundingAct::Withdraw => self.withdrawn(typed),
            FundingAct::Refund => self.refunded(),
            FundingAct::Release => self.released(),
        }
    }

    fn typed(&self, given: &str) -> Result<Amount, FundingError> {
        let bad = |reason: String| FundingError::Amount {
            given: said(given),
            symbol: self.asset.symbol.clone(),
            reason,
        };
        let amount = Amount::parse_decimal(given, self.asset.decimals);
        let amount = amount.map_err(|error| bad(error.to_string()))?;
        match amount.is_zero() {
            true => Err(bad("it is nothing".to_owned())),
            false => Ok(amount),
        }
    }

    fn pledged(&self, typed: Option<Amount>) -> Result<Amount, FundingError> {
        let missing = || FundingError::Amount {
            given: String::new(),
            symbol: self.asset.symbol.clone(),
            reason: "nothing is said".to_owned(),
        };
        match self.state() {
            FundingState::Open => typed.ok_or_else(missing),
            _ => Err(FundingError::Closed),
        }
    }

    fn withdrawn(&self, typed: Option<Amount>) -> Result<Amount, FundingError> {
        let amount = typed.unwrap_or(self.mine);
        if self.mine.is_zero() {
            return Err(FundingError::NothingPledged);
        }
        match self.state() {
            FundingState::Open if amount > self.mine => Err(FundingError::ExceedsPledge {
                pledged: self.asset.said(self.mine),
                wanted: self.asset.said(amount),
            }),
            FundingState::Open => Ok(amount),
            _ => Err(FundingError::Closed),
        }
    }

    fn refunded(&self) -> Result<Amount, FundingError> {
        if self.mine.is_zero() {
            return Err(FundingError::NothingPledged);
        }
        match self.state() {
            FundingState::Open => Err(FundingError::Open),
            FundingState::Bound => Err(FundingError::Bound),
            _ if self.refundable().is_zero() => Err(FundingError::NothingLeft),
            _ => Ok(self.refundable()),
        }
    }

    fn released(&self) -> Result<Amount, FundingError> {
        match self.state() {
            FundingState::Open => Err(FundingError::Open),
            FundingState::Missed => Err(FundingError::Missed),
            _ if self.releasable().is_zero() => Err(FundingError::NothingToRelease),
            _ => Ok(self.releasable()),
        }
    }

    /// A name that no other order of the household has at this state of its pledge.
    pub(super) fn name_of(&self, act: FundingAct) -> IntentId {
        let run = hex::encode(self.run);
        let name = match act {
            FundingAct::Pledge => format!("pledge:{run}:{}", self.mine.units()),
            FundingAct::Withdraw => format!("withdraw:{run}:{}", self.mine.units()),
            FundingAct::Refund => format!("refund:{run}:{}", self.mine.units()),
            FundingAct::Release => format!("release:{run}:{}", self.progress.released),
        };
        IntentId::new(name).expect("the name of an order is shorter than an intent's may be")
    }

    /// Whether nothing of what an order changes is otherwise here.
    fn is_as(&self, other: &Self) -> bool {
        let of = |one: &Self| (one.mine, one.progress.released);
        of(self) == of(other)
    }
}

impl Runs {
    async fn checked(&self, order: &FundingOrder) -> Result<Checked, FundingError> {
        let funding = self.pledges(self.terms_of(&order.run)?).await?;
        let amount = funding.amount_of(order)?;
        if order.act == FundingAct::Pledge {
            let client = self.ledger().client();
            let held = client.balance_of(funding.terms.token, funding.account);
            let held = held.await.map_err(LedgerError::from)?;
            if held < U256::from(amount.units()) {
                return Err(FundingError::TooLittle {
                    held: funding.asset.said(Amount::new(held.saturating_to())),
                    wanted: funding.asset.said(amount),
                });
            }
        }
        Ok(Checked { funding, amount })
    }

    /// What an order would do, for the person to agree to. Nothing is sent.
    ///
    /// # Errors
    /// When it cannot be carried out as things are.
    pub(crate) async fn plan_funding(
        &self,
        order: &FundingOrder,
    ) -> Result<FundingPlan, FundingError> {
        let Checked { funding, amount } = self.checked(order).await?;
        let addresses = self.ledger().addresses();
        let to = match order.act {
            FundingAct::Pledge => addresses.runs,
            FundingAct::Withdraw | FundingAct::Refund => funding.account,
            FundingAct::Release => addresses.rewards,
        };
        Ok(FundingPlan {
            act: order.act,
            amount: funding.asset.money(amount),
            to: to.to_checksum(None),
            funding: funding.view(),
        })
    }

    /// Carries out an order, once: where the household's pledge is not what the person saw, nothing is sent.
    ///
    /// # Errors
    /// See [`FundingError`].
    pub(crate) async fn fund(&self, asked: &FundRun) -> Result<FundingDone, FundingError> {
        let _alone = self.0.funding.lock().await;
        let Checked { funding, amount } = self.checked(&asked.order).await?;
        if funding.mine.units().to_string() != asked.seen {
            return Err(FundingError::Changed);
        }
        let act = asked.order.act;
        if act == FundingAct::Pledge {
            self.allow(&funding, amount).await?;
        }
        let sent = self.send_order(act, &funding, amount).await;
        if let (FundingAct::Pledge, Err(error)) = (act, &sent)
            && !matches!(error, FundingError::UnderWay | FundingError::ChainAway(_))
            && let Err(error) = self.allow(&funding, Amount::ZERO).await
        {
            warn!(error = %error.with_causes(), "what the run's contract may take is not taken back");
        }
        let (transaction, after) = sent?;
        let moved = match act {
            FundingAct::Pledge => less(after.mine, funding.mine),
            FundingAct::Withdraw | FundingAct::Refund | FundingAct::Release => amount,
        };
        Ok(FundingDone {
            act,
            ordered: funding.asset.money(amount),
            moved: funding.asset.money(moved),
            transaction,
            funding: after.view(),
        })
    }

    /// Lets `Runs` take exactly `amount` of the household's tokens.
    async fn allow(&self, funding: &Funding, amount: Amount) -> Result<(), FundingError> {
        let (ledger, token) = (self.ledger(), funding.terms.token);
        let allowed = ledger.allowance(token, funding.account).await?;
        if allowed == amount {
            return Ok(());
        }
        // Some tokens let an allowance be changed only from nothing.
        let first = (!allowed.is_zero() && !amount.is_zero()).then_some(Amount::ZERO);
        for allowance in first.into_iter().chain([amount]) {
            let runs = ledger.addresses().runs;
            let call = ledger.addresses().approve(token, runs, allowance);
            ledger.send(&self.0.parts.sender, &call).await?;
        }
        match ledger.allowance(token, funding.account).await? == amount {
            true => Ok(()),
            false => Err(FundingError::NotAllowed(token)),
        }
    }

    /// Sends an order, and returns its transaction and what stands on chain then.
    async fn send_order(
        &self,
        act: FundingAct,
        funding: &Funding,
        amount: Amount,
    ) -> Result<(String, Funding), FundingError> {
        let token = funding.terms.token;
        let call = self.call_of(act, funding, amount);
        let mut sends = 0;
        loop {
            let name = funding.name_of(act);
            let sent = self.ledger().send_named(&self.0.parts.sender, name, &call);
            let receipt = sent.await.map_err(|error| match error.refusal() {
                Some(LedgerRefusal::InvalidAmount(_)) if act == FundingAct::Pledge => {
                    FundingError::NothingArrived(token)
                }
                Some(LedgerRefusal::InvalidAmount(_)) => FundingError::Changed,
                Some(LedgerRefusal::TooLittleAllowed { .. }) => FundingError::NotAllowed(token),
                _ => error.into(),
            })?;
            sends += 1;
            let after = self.pledges(funding.terms).await?;
            // Where nothing changed, the receipt is of an order of long ago, that a crash left in the journal. It is
            // forgotten now.
            if !after.is_as(funding) || sends >= SENDS_MAX {
                return Ok((receipt.transaction_hash.to_string(), after));
            }
        }
    }

    fn call_of(&self, act: FundingAct, funding: &Funding, amount: Amount) -> LedgerCall {
        let (addresses, terms) = (self.ledger().addresses(), &funding.terms);
        match act {
            FundingAct::Pledge => addresses.pledge(terms, amount),
            FundingAct::Withdraw => addresses.withdraw_pledge(terms, amount),
            FundingAct::Refund => addresses.refund(terms, funding.account),
            FundingAct::Release => addresses.release(terms),
        }
    }
}

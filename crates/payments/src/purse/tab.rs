//! A tab: what one answer is paid with while it is delivered in parts, over a stream of its own.
//!
//! Each part is a payment on one and the same channel: a promise, then the provider's statement of
//! what it charged. The same channels, limits and corrections hold as for requests over HTTP; only
//! the carrier differs. A tab that is dropped without a statement leaves its promise on record: the
//! next payment on the channel learns what became of it.

use alloy_primitives::B256;
use futures::future::BoxFuture;
use hearth_protocol::channel::payer::Outcome;
use hearth_protocol::eip712::SettlementDomain;
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Declined, asset_of};
use hearth_protocol::x402::{
    BatchExtra, HeaderError, PaymentJson, PaymentPayload, PaymentRequirements, RequirementsJson,
    SettlementJson, Version,
};
use serde_json::Map;

use super::channels::Held;
use super::{PayError, Purse, begin_promise, channel_terms, is_recoverable, statement};

/// Payments for one answer.
#[derive(Debug)]
pub struct Tab {
    purse: Purse,
    /// The way to pay; its amount is what the next promise is at most.
    requirements: PaymentRequirements,
    extra: BatchExtra,
    domain: SettlementDomain,
    limit: AssetLimit,
    held: Held,
    charged: Amount,
    /// What was promised on the channel before the tab.
    promised_before: Amount,
    /// What the newest promise added to what can be taken.
    counted: Amount,
    /// The most that the tab can come to, by what it promised.
    risked: Amount,
    corrected: bool,
    deposits: bool,
}

impl Purse {
    /// Opens a tab with a provider, on a channel that no other request holds.
    ///
    /// `requirements.amount` is what the first promise will be; `provider` names the provider in
    /// the list of channels.
    ///
    /// # Errors
    /// When the way to pay is not within the limits, or the books cannot be read.
    pub fn open_tab<'a>(
        &'a self,
        provider: &'a str,
        requirements: PaymentRequirements,
    ) -> BoxFuture<'a, Result<Tab, PayError>> {
        Box::pin(self.tab(provider, requirements))
    }

    async fn tab(
        &self,
        provider: &str,
        requirements: PaymentRequirements,
    ) -> Result<Tab, PayError> {
        let ways = [requirements];
        let (_, limit) = self.choose(&ways).await?;
        let [requirements] = ways;
        let extra = channel_terms(&requirements)?;
        let config = self.config(&requirements, &extra, B256::from(self.environment.draw()?));
        let domain = SettlementDomain::new(requirements.network);
        let mut held = self.channels.take(&domain, config, provider).await?;
        let promised_before = held.channel().record().promised();
        Ok(Tab {
            purse: self.clone(),
            requirements,
            extra,
            domain,
            limit,
            held,
            charged: Amount::ZERO,
            promised_before,
            counted: Amount::ZERO,
            risked: Amount::ZERO,
            corrected: false,
            deposits: false,
        })
    }
}

impl Tab {
    /// The token that pays.
    pub fn asset(&self) -> AssetId {
        asset_of(&self.requirements)
    }

    /// Whether the newest promise brings a deposit with it.
    pub fn deposits(&self) -> bool {
        self.deposits
    }

    /// What the newest promise added to what can be taken from the household.
    pub fn newly_counted(&self) -> Amount {
        self.counted
    }

    /// The most that the tab can come to, by what it promised.
    pub fn risked(&self) -> Amount {
        self.risked
    }

    /// Lets all of the tab cost no more than `most`, where the household's limit is higher.
    pub fn cap(&mut self, most: Amount) {
        self.limit.per_payment = self.limit.per_payment.min(most);
    }

    /// Goes on with what other tabs began: they can take so much of what all may cost.
    pub fn go_on_after(&mut self, risked: Amount) {
        self.limit.per_payment = self.limit.per_payment.saturating_sub(risked);
    }

    /// Promises `amount` for what comes next, durably.
    ///
    /// # Errors
    /// When the answer would cost more than one payment or one day may, or the books fail.
    pub async fn promise(&mut self, amount: Amount) -> Result<PaymentJson, PayError> {
        self.requirements.amount = amount;
        let risked = self.check_limits()?;
        if self.held.channel().record().deposit_in_doubt && !self.held.channel().covers(amount) {
            let channel = self.held.channel().id();
            let state = self.purse.read(self.domain.chain(), channel).await?;
            self.held.channel().observe(&state);
        }
        let (requirements, held) = (&self.requirements, &mut self.held);
        let promise = begin_promise(requirements, &self.extra, held, &self.limit)?;
        self.counted = self
            .purse
            .reserve(requirements, held, &promise, &self.limit)
            .await?;
        self.risked = self.risked.max(risked);
        self.deposits = promise.deposit.is_some();
        let payload = self.purse.sign_promise(
            &self.requirements,
            &self.extra,
            &self.domain,
            &mut self.held,
            promise,
        )?;
        let now = self.purse.now();
        self.held.save_signed(now).await?;
        Ok(PaymentJson::from(&PaymentPayload {
            x402_version: Version,
            resource: None,
            accepted: &self.requirements,
            payload,
            extensions: Map::new(),
        }))
    }

    /// What the tab comes to at most with the next promise: an answer is one payment, however many parts it is paid in.
    /// What the provider corrects upwards counts, as far as it was not promised before the tab.
    fn check_limits(&mut self) -> Result<Amount, PayError> {
        let amount = self.requirements.amount;
        let max_claimable = self.held.channel().record().charged.saturating_add(amount);
        let stated = self.charged.saturating_add(amount);
        let asked = stated.max(max_claimable.saturating_sub(self.promised_before));
        let limit = self.limit.per_payment;
        if asked > limit {
            let declined = Declined::PerPayment { asked, limit };
            return Err(PayError::Declined(vec![declined]));
        }
        Ok(asked)
    }

    /// Takes the provider's statement of what it charged. Returns what that was.
    ///
    /// # Errors
    /// When it cannot be read, or says what cannot be true: then the channel signs nothing more.
    pub async fn settle(&mut self, settlement: &SettlementJson) -> Result<Amount, PayError> {
        let settled = settlement.read().map_err(unreadable)?;
        let before = self.held.channel().record().charged;
        let outcome = if settled.success {
            Outcome::Stated(Box::new(statement(&settled).map_err(PayError::Unreadable)?))
        } else {
            Outcome::NotCharged
        };
        let trusted = self.held.channel().finish(outcome).map(|_| ());
        self.held.save().await?;
        trusted?;
        let charged = self.held.channel().record().charged.saturating_sub(before);
        self.charged = self.charged.saturating_add(charged);
        Ok(charged)
    }

    /// Takes a provider's correction, once.
    ///
    /// # Errors
    /// When the refusal is final, or the correction is not proved.
    pub async fn correct(&mut self, required: &RequirementsJson) -> Result<(), PayError> {
        self.held.channel().finish(Outcome::NotCharged)?;
        let required = required.read().map_err(unreadable)?;
        let code = required.error.clone().unwrap_or_default();
        let outcome = if self.corrected || !is_recoverable(&code) {
            Err(PayError::Refused { code })
        } else {
            self.corrected = true;
            let (purse, domain) = (self.purse.clone(), self.domain.clone());
            purse.correct(&required, &domain, &mut self.held).await
        };
        self.held.save().await?;
        outcome
    }

    /// Ends the tab where the provider refused to work: nothing was charged.
    ///
    /// # Errors
    /// When the books fail.
    pub async fn not_charged(mut self) -> Result<(), PayError> {
        self.held.channel().finish(Outcome::NotCharged)?;
        self.held.save().await?;
        Ok(())
    }

    /// Ends the tab where nobody knows what became of the last promise: the link broke.
    ///
    /// # Errors
    /// When the books fail.
    pub async fn lost(mut self) -> Result<(), PayError> {
        self.held.channel().finish(Outcome::Unknown)?;
        self.held.save().await?;
        Ok(())
    }
}

fn unreadable(error: serde_json::Error) -> PayError {
    PayError::Unreadable(HeaderError::Json(error))
}

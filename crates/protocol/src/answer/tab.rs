//! How one answer is paid: promises in, charges out.

use alloy_primitives::Address;
use serde::Deserialize;

use super::price::Price;
use super::provider::Meter;
use super::request::AnswerRequest;
use crate::accepted::{AcceptedAsset, RequestPrice};
use crate::channel::provider::{Correction, PaymentStatement, Quote};
use crate::channel::{CheckedPayment, PaymentKind, check};
use crate::id::{AssetId, ChainId, ChannelId};
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{
    BatchPayload, ErrorCode, Extensions, PaymentJson, PaymentRequired, PaymentRequirements,
    RequirementsJson, ResourceInfo, Scheme, SettlementJson, Version,
};

/// What a paid answer has been promised, and owes.
#[derive(Debug, Clone)]
pub(super) struct Tab {
    /// The assets that it can be paid in.
    priced: Vec<(AcceptedAsset, Price)>,
    prompt_tokens: u32,
    output_tokens_max: u32,
    paying: Option<Paying>,
    admitting: Option<Admitting>,
}

#[derive(Debug, Clone)]
struct Paying {
    asset: AcceptedAsset,
    payer: Address,
    channel: ChannelId,
    /// What the channel had been charged when the answer began, by the payer's first promise.
    before: Amount,
    meter: Meter,
}

/// A promise that is being admitted.
#[derive(Debug, Clone)]
struct Admitting {
    /// What is promised for the whole answer.
    total: Amount,
    /// The payment that it would begin, where none has begun.
    begun: Option<Paying>,
}

/// What is to be admitted on a channel.
#[derive(Debug)]
pub(super) struct PartsToAdmit {
    pub(super) payment: CheckedPayment,
    pub(super) chain: ChainId,
    pub(super) quote: Quote,
    pub(super) needs: Vec<Amount>,
}

impl Tab {
    pub(super) fn new(
        accepts: &[AcceptedAsset],
        prices: &[Price],
        request: &AnswerRequest,
    ) -> Self {
        let priced = prices.iter().filter_map(|price| {
            let asset = accepts.iter().find(|asset| asset.asset == price.asset)?;
            Some((asset.clone(), *price))
        });
        Self {
            priced: priced.collect(),
            prompt_tokens: u32::try_from(request.ids.len()).unwrap_or(u32::MAX),
            output_tokens_max: request.output_tokens_max,
            paying: None,
            admitting: None,
        }
    }

    /// The channel that pays, once one does.
    pub(super) fn channel(&self) -> Option<ChannelId> {
        self.paying.as_ref().map(|paying| paying.channel)
    }

    /// The asset that pays, once one does.
    pub(super) fn asset(&self) -> Option<AssetId> {
        self.paying.as_ref().map(|paying| paying.asset.asset)
    }

    /// Output tokens that admitted promises cover.
    pub(super) fn covered_tokens(&self) -> u32 {
        let paying = self.paying.as_ref();
        paying.map_or(0, |paying| paying.meter.covered_tokens())
    }

    /// What was charged for the answer so far.
    pub(super) fn charged(&self) -> Amount {
        let paying = self.paying.as_ref();
        paying.map_or(Amount::ZERO, |paying| paying.meter.charged())
    }

    /// Whether a promise is being admitted.
    pub(super) fn is_admitting(&self) -> bool {
        self.admitting.is_some()
    }

    /// Notes tokens that were sent.
    pub(super) fn deliver(&mut self, tokens: u32) {
        if let Some(paying) = &mut self.paying {
            paying.meter.deliver(tokens);
        }
    }

    /// What must be promised first, in every asset that is taken.
    pub(super) fn required(&self, error: ErrorCode) -> RequirementsJson {
        let accepts = self.priced.iter().map(|(asset, price)| {
            let least = self.meter(*price).least();
            asset.batch_requirements(RequestPrice::fixed(least))
        });
        required(accepts.collect(), error)
    }

    /// The same, for a channel whose state the payer does not know.
    pub(super) fn corrected(
        &self,
        correction: Correction,
        code: ErrorCode,
    ) -> Option<RequirementsJson> {
        let begun = self
            .admitting
            .as_ref()
            .and_then(|admitting| admitting.begun.as_ref());
        let paying = self.paying.as_ref().or(begun)?;
        Some(corrected(
            &paying.asset,
            paying.meter.least(),
            correction,
            code,
        ))
    }

    /// Reads a promise. Returns what is to be admitted; nothing where it covers no further token.
    ///
    /// # Errors
    /// Why the promise is of no use.
    pub(super) fn promise(
        &mut self,
        payment: &PaymentJson,
        now: Timestamp,
    ) -> Result<Option<PartsToAdmit>, ErrorCode> {
        let accepts = self.priced.iter().map(|(asset, _)| asset);
        let paid = Paid::read(accepts, payment, now)?;
        if matches!(paid.checked.kind, PaymentKind::Refund(_)) {
            return Err(ErrorCode::VoucherPayload);
        }
        let begun = match &self.paying {
            Some(_) => None,
            None => Some(self.begin(&paid)?),
        };
        let Some(paying) = self.paying.as_ref().or(begun.as_ref()) else {
            return Err(ErrorCode::InvalidRequirements);
        };
        // An answer is paid from one channel.
        if paying.channel != paid.checked.channel || !paying.asset.is_meant_by(&paid.accepted) {
            return Err(ErrorCode::ChannelIdMismatch);
        }
        let max_claimable = paid.checked.voucher.max_claimable;
        let total = max_claimable.saturating_sub(paying.before);
        let needs = paying.meter.clone().cover(total);
        if needs.is_empty() {
            return Ok(None);
        }
        let parts = PartsToAdmit {
            chain: paying.asset.chain(),
            quote: Quote {
                ceiling: paid.accepted.amount,
                need: needs
                    .iter()
                    .copied()
                    .fold(Amount::ZERO, Amount::saturating_add),
                // An offer names no least deposit: the gas of one decides whether it is worth sending.
                least_deposit: Amount::ZERO,
            },
            payment: paid.checked,
            needs,
        };
        self.admitting = Some(Admitting { total, begun });
        Ok(Some(parts))
    }

    /// Takes it that the promise is admitted. Returns the output tokens that are covered now.
    pub(super) fn admit(&mut self) -> u32 {
        if let Some(Admitting { total, begun }) = self.admitting.take() {
            self.paying = self.paying.take().or(begun);
            if let Some(paying) = &mut self.paying {
                paying.meter.cover(total);
            }
        }
        self.covered_tokens()
    }

    /// Takes it that the promise is refused. Where nothing was ever admitted, the next may come
    /// from another channel.
    pub(super) fn refuse(&mut self) {
        self.admitting = None;
    }

    fn begin(&self, paid: &Paid) -> Result<Paying, ErrorCode> {
        let asset = paid.asset.asset;
        let priced = self
            .priced
            .iter()
            .find(|(accepted, _)| accepted.asset == asset);
        let (_, price) = priced.ok_or(ErrorCode::InvalidRequirements)?;
        let meter = self.meter(*price);
        let ceiling = paid.accepted.amount;
        if ceiling < meter.least() {
            return Err(ErrorCode::InvalidRequirements);
        }
        Ok(Paying {
            asset: paid.asset.clone(),
            payer: paid.checked.config.payer,
            channel: paid.checked.channel,
            before: paid.checked.voucher.max_claimable.saturating_sub(ceiling),
            meter,
        })
    }

    fn meter(&self, price: Price) -> Meter {
        Meter::new(price, self.prompt_tokens, self.output_tokens_max)
    }

    /// What the oldest part is charged if it is used up and more is to come. Nothing is while a
    /// promise is being admitted: its parts go with the meter that it was measured by.
    pub(super) fn charge_part(&mut self) -> Option<Amount> {
        if self.is_admitting() {
            return None;
        }
        self.paying.as_mut()?.meter.charge_part()
    }

    /// Ends the tab: what each part that is left is charged, the oldest first, up to the last one
    /// that is charged anything.
    pub(super) fn charge_rest(&mut self) -> Vec<Amount> {
        self.admitting = None;
        let Some(paying) = &mut self.paying else {
            return Vec::new();
        };
        let mut amounts = paying.meter.charge_rest();
        let charged = amounts.iter().rposition(|amount| !amount.is_zero());
        amounts.truncate(charged.map_or(0, |last| last + 1));
        amounts
    }

    /// What a statement of the channel says to the payer.
    pub(super) fn settlement(&self, statement: &PaymentStatement) -> Option<SettlementJson> {
        let paying = self.paying.as_ref()?;
        let response = statement.response(paying.asset.chain(), paying.payer);
        Some(SettlementJson::from(&response))
    }
}

/// A payment by a channel, with signatures that hold.
pub(super) struct Paid {
    pub(super) asset: AcceptedAsset,
    accepted: PaymentRequirements,
    pub(super) checked: CheckedPayment,
}

impl Paid {
    /// Reads a payment in one of the assets, and checks its signatures.
    ///
    /// # Errors
    /// What the payer is told.
    pub(super) fn read<'a>(
        accepts: impl IntoIterator<Item = &'a AcceptedAsset>,
        payment: &PaymentJson,
        now: Timestamp,
    ) -> Result<Self, ErrorCode> {
        let payment = payment.read().map_err(|_| ErrorCode::InvalidPayload)?;
        let accepted = payment.accepted;
        let is_meant = |asset: &&AcceptedAsset| {
            accepted.scheme == Scheme::BatchSettlement && asset.is_meant_by(&accepted)
        };
        let asset = accepts.into_iter().find(is_meant);
        let asset = asset.ok_or(ErrorCode::InvalidRequirements)?;
        let payload = BatchPayload::deserialize(&payment.payload);
        let payload = payload.map_err(|_| ErrorCode::VoucherPayload)?;
        Ok(Self {
            checked: check(&payload, &asset.terms(), now)?,
            asset: asset.clone(),
            accepted,
        })
    }
}

/// Tells a payer how its channel stands.
pub(super) fn corrected(
    asset: &AcceptedAsset,
    need: Amount,
    correction: Correction,
    code: ErrorCode,
) -> RequirementsJson {
    let corrected = asset.corrected(RequestPrice::fixed(need), correction);
    required(vec![corrected], code)
}

fn required(accepts: Vec<PaymentRequirements>, error: ErrorCode) -> RequirementsJson {
    RequirementsJson::from(&PaymentRequired {
        x402_version: Version,
        error: Some(error.as_str().to_owned()),
        resource: ResourceInfo {
            url: "hearth:answer".to_owned(),
            description: None,
            mime_type: None,
        },
        accepts,
        extensions: Extensions::new(),
    })
}

//! How one answer is paid: promises in, charges and receipts out.

use std::collections::VecDeque;
use std::pin::Pin;

use alloy_primitives::Address;
use hearth_payments::desk::{Admission, Alongside, Desk, DeskStopped, Refusal, Ticket};
use hearth_payments::gate::batch_response;
use hearth_payments::offer::{self, AcceptedAsset};
use hearth_payments::store::Batch;
use hearth_protocol::answer::provider::Meter;
use hearth_protocol::answer::{Price, SignedReceipt};
use hearth_protocol::channel::provider::{Correction, Quote, Statement};
use hearth_protocol::channel::{CheckedPayment, PaymentKind, check};
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchPayload, ErrorCode, Extensions, PaymentPayload, PaymentRequired, PaymentRequirements,
    ResourceInfo, Scheme, SettleResponse, Version,
};
use serde::Deserialize;

use super::{SALES, SaleNumber, Sales, StoredSale};

/// What a paid answer has been promised, and owes.
pub(super) struct Tab<'a> {
    sales: &'a Sales,
    prices: &'a [Price],
    prompt_tokens: u32,
    output_tokens_max: u32,
    number: SaleNumber,
    paying: Option<Paying>,
}

struct Paying {
    asset: AcceptedAsset,
    payer: Address,
    channel: ChannelId,
    /// What the channel had been charged when the answer began, by the payer's first promise.
    before: Amount,
    meter: Meter,
    tickets: VecDeque<Ticket>,
}

/// What became of a promise.
pub(super) enum Promised {
    /// It reaches to this many output tokens.
    Until(u32),
    /// It must be made otherwise: the JSON of an x402 `PaymentRequired`.
    Corrected(Vec<u8>),
    /// It is refused for good.
    Refused(String),
}

/// A promise that is being admitted, for as long as its deposit takes.
pub(super) type Admitting =
    Pin<Box<dyn Future<Output = Result<Outcome, DeskStopped>> + Send + 'static>>;

/// What came of a promise.
pub(super) struct Outcome {
    /// What is promised for the whole answer.
    total: Amount,
    /// The payment that it would begin, where none has begun.
    begun: Option<Box<Paying>>,
    /// A ticket for each part that it adds.
    tickets: Result<Vec<Ticket>, Refusal>,
}

/// Something that is charged, and to be stated.
pub(super) struct Charge {
    /// The JSON of an x402 `SettleResponse`.
    pub(super) settlement: Vec<u8>,
}

impl<'a> Tab<'a> {
    pub(super) fn new(
        sales: &'a Sales,
        prices: &'a [Price],
        (prompt_tokens, output_tokens_max): (u32, u32),
        number: SaleNumber,
    ) -> Self {
        Self {
            sales,
            prices,
            prompt_tokens,
            output_tokens_max,
            number,
            paying: None,
        }
    }

    /// The channel that pays; zero before one does.
    pub(super) fn channel(&self) -> ChannelId {
        self.paying
            .as_ref()
            .map_or(ChannelId(alloy_primitives::B256::ZERO), |paying| {
                paying.channel
            })
    }

    /// Output tokens that promises cover.
    pub(super) fn covered_tokens(&self) -> u32 {
        self.paying
            .as_ref()
            .map_or(0, |paying| paying.meter.covered_tokens())
    }

    pub(super) fn deliver(&mut self, tokens: u32) {
        if let Some(paying) = &mut self.paying {
            paying.meter.deliver(tokens);
        }
    }

    /// What was charged for the answer so far.
    pub(super) fn charged(&self) -> Amount {
        self.paying
            .as_ref()
            .map_or(Amount::ZERO, |paying| paying.meter.charged())
    }

    /// What was owed and not charged yet.
    pub(super) fn owed(&self) -> Amount {
        self.paying
            .as_ref()
            .map_or(Amount::ZERO, |paying| paying.meter.owed())
    }

    /// What must be promised first, in every token that is taken: the JSON of an x402
    /// `PaymentRequired`.
    pub(super) fn ask(&self, error: ErrorCode) -> Vec<u8> {
        let accepts = self
            .prices
            .iter()
            .filter_map(|price| {
                let asset = self.sales.assets.iter().find(|a| a.asset == price.asset)?;
                let need = Meter::new(*price, self.prompt_tokens, self.output_tokens_max).least();
                Some(asset.batch_requirements(offer::Price {
                    need,
                    ceiling: need,
                }))
            })
            .collect();
        required(accepts, error)
    }

    /// Reads a promise, the JSON of an x402 `PaymentPayload`, and begins to have it admitted. Work
    /// that is covered goes on meanwhile; nothing is charged before [`Tab::admitted`] took what
    /// came of it.
    ///
    /// # Errors
    /// What becomes of a promise that cannot be admitted.
    pub(super) fn promise(&self, payment: &[u8], now: Timestamp) -> Result<Admitting, Promised> {
        let correct = || Promised::Corrected(self.ask(ErrorCode::InvalidRequirements));
        let read = self.read(payment, now).map_err(|code| match code {
            ErrorCode::InvalidRequirements => correct(),
            code => Promised::Refused(code.message().to_owned()),
        })?;
        let begun = match &self.paying {
            Some(_) => None,
            None => self.begin(&read).map(Box::new),
        };
        let Some(paying) = self.paying.as_ref().or(begun.as_deref()) else {
            return Err(correct());
        };
        let ReadPayment {
            accepted, checked, ..
        } = read;
        if paying.channel != checked.channel || !paying.asset.is_meant_by(&accepted) {
            return Err(Promised::Refused(
                "an answer is paid from one channel".to_owned(),
            ));
        }
        let total = checked.voucher.max_claimable.saturating_sub(paying.before);
        let needs = paying.meter.clone().cover(total);
        let payment = Payment {
            desk: self.sales.desk.clone(),
            chain: paying.asset.chain(),
            ceiling: accepted.amount,
            checked,
        };
        Ok(Box::pin(async move {
            Ok(Outcome {
                total,
                begun,
                tickets: payment.admit(&needs).await?,
            })
        }))
    }

    /// Takes what came of a promise.
    pub(super) fn admitted(&mut self, outcome: Outcome) -> Promised {
        let Some(mut paying) = self.paying.take().or(outcome.begun.map(|begun| *begun)) else {
            return Promised::Corrected(self.ask(ErrorCode::InvalidRequirements));
        };
        let promised = match outcome.tickets {
            Ok(tickets) => {
                paying.meter.cover(outcome.total);
                paying.tickets.extend(tickets);
                Promised::Until(paying.meter.covered_tokens())
            }
            Err(refusal) => self.refused(&paying, refusal),
        };
        // What nothing was ever promised for may be promised from another channel.
        if paying.meter.covered_tokens() > 0 {
            self.paying = Some(paying);
        }
        promised
    }

    fn begin(&self, payment: &ReadPayment<'_>) -> Option<Paying> {
        let ReadPayment {
            asset,
            accepted,
            checked,
        } = payment;
        let price = self.prices.iter().find(|p| p.asset == asset.asset)?;
        let meter = Meter::new(*price, self.prompt_tokens, self.output_tokens_max);
        (accepted.amount >= meter.least()).then(|| Paying {
            asset: (*asset).clone(),
            payer: checked.config.payer,
            channel: checked.channel,
            before: checked
                .voucher
                .max_claimable
                .saturating_sub(accepted.amount),
            meter,
            tickets: VecDeque::new(),
        })
    }

    fn read(&self, payment: &[u8], now: Timestamp) -> Result<ReadPayment<'_>, ErrorCode> {
        let read = read(self.sales, payment, now)?;
        match read.checked.kind {
            PaymentKind::Refund(_) => Err(ErrorCode::VoucherPayload),
            _ => Ok(read),
        }
    }

    fn refused(&self, paying: &Paying, refusal: Refusal) -> Promised {
        let Some(correction) = refusal.correction else {
            return Promised::Refused(refusal.code.message().to_owned());
        };
        let need = paying.meter.least();
        Promised::Corrected(corrected(&paying.asset, need, *correction, refusal.code))
    }

    /// Charges the oldest part if it is used up and more is to come; `sign` makes the receipt of
    /// what is charged then.
    pub(super) async fn charge_part(
        &mut self,
        sign: impl FnOnce(Amount, ChannelId) -> SignedReceipt,
        model: &str,
        device: DeviceId,
    ) -> Result<Option<(SignedReceipt, Charge)>, DeskStopped> {
        let Some(paying) = &mut self.paying else {
            return Ok(None);
        };
        let Some(amount) = paying.meter.charge_part() else {
            return Ok(None);
        };
        let Some(ticket) = paying.tickets.pop_front() else {
            return Ok(None);
        };
        let receipt = sign(paying.meter.charged(), paying.channel);
        let sale = (self.number, paying.sale(receipt.clone(), model, device));
        let charge = paying.charge(ticket, amount, Some(sale)).await?;
        Ok(Some((receipt, charge)))
    }

    /// Charges what is left, and ends the tab. The receipt is kept with the last charge.
    pub(super) async fn charge_rest(
        &mut self,
        receipt: &SignedReceipt,
        model: &str,
        device: DeviceId,
    ) -> Result<Option<Charge>, DeskStopped> {
        let Some(mut paying) = self.paying.take() else {
            return Ok(None);
        };
        let charges = paying.meter.charge_rest();
        let last = charges.iter().rposition(|charge| !charge.is_zero());
        let tickets = std::mem::take(&mut paying.tickets);
        let mut stated = None;
        for (index, (ticket, amount)) in tickets.into_iter().zip(charges).enumerate() {
            // A part that was not needed is dropped with its ticket: nothing is charged for it.
            if last.is_some_and(|last| index <= last) {
                let is_last = Some(index) == last;
                let sale = || paying.sale(receipt.clone(), model, device);
                let kept = is_last.then(|| (self.number, sale()));
                stated = Some(paying.charge(ticket, amount, kept).await?);
            }
        }
        Ok(stated)
    }
}

/// A payment that the desk is asked to admit.
struct Payment {
    desk: Desk,
    chain: ChainId,
    ceiling: Amount,
    checked: CheckedPayment,
}

impl Payment {
    /// Has each part admitted. The deposit goes with the first, and the same voucher with all.
    async fn admit(self, needs: &[Amount]) -> Result<Result<Vec<Ticket>, Refusal>, DeskStopped> {
        let mut rest = needs
            .iter()
            .fold(Amount::ZERO, |sum, need| sum.saturating_add(*need));
        if needs.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        // The parts are admitted together, or not at all; the voucher that came with them starts them
        // all, whatever becomes known of it meanwhile.
        let quote = Quote {
            ceiling: self.ceiling,
            need: rest,
            // An offer names no least deposit: the gas of one decides whether it is worth sending.
            least_deposit: Amount::ZERO,
        };
        let admission = self.desk.pay(self.chain, self.checked, quote).await?;
        let mut ticket = match admission {
            Admission::Admitted(ticket) => ticket,
            Admission::Refused(refusal) => return Ok(Err(refusal)),
            Admission::Refunded(_) => unreachable!("refunds are not read here"),
        };
        let mut tickets = Vec::new();
        for need in &needs[..needs.len() - 1] {
            rest = rest.saturating_sub(*need);
            let further = ticket.split(rest)?;
            tickets.push(std::mem::replace(&mut ticket, further));
        }
        tickets.push(ticket);
        Ok(Ok(tickets))
    }
}

impl Paying {
    fn sale(&self, receipt: SignedReceipt, model: &str, device: DeviceId) -> StoredSale {
        StoredSale {
            receipt,
            asset: self.asset.asset,
            model: model.to_owned(),
            device,
        }
    }

    async fn charge(
        &self,
        ticket: Ticket,
        amount: Amount,
        sale: Option<(SaleNumber, StoredSale)>,
    ) -> Result<Charge, DeskStopped> {
        let keep = sale.map(|(number, sale)| {
            let keep: Alongside = Box::new(move |_| {
                let mut batch = Batch::default();
                batch.put(SALES, &sale.key(number), &sale)?;
                Ok(batch)
            });
            keep
        });
        let charged = ticket.charge(amount, keep).await?;
        Ok(Charge {
            settlement: self.settlement(&charged.statement),
        })
    }

    fn settlement(&self, statement: &Statement) -> Vec<u8> {
        let response = batch_response(self.asset.chain(), self.payer, statement);
        serde_json::to_vec(&response).unwrap_or_default()
    }
}

/// What came of a refund that was asked for.
pub(super) enum Refunding {
    /// The JSON of an x402 `SettleResponse`.
    Settled(Vec<u8>),
    /// It has to be signed for another figure: the JSON of an x402 `PaymentRequired`.
    Corrected(Vec<u8>),
    /// It cannot be read, or is no refund.
    Refused(ErrorCode),
}

/// A payment by a channel, with signatures that hold.
struct ReadPayment<'a> {
    asset: &'a AcceptedAsset,
    accepted: PaymentRequirements,
    checked: CheckedPayment,
}

/// Reads the JSON of an x402 `PaymentPayload` by a channel, and checks its signatures.
fn read<'a>(
    sales: &'a Sales,
    payment: &[u8],
    now: Timestamp,
) -> Result<ReadPayment<'a>, ErrorCode> {
    let payment: PaymentPayload =
        serde_json::from_slice(payment).map_err(|_| ErrorCode::InvalidPayload)?;
    let accepted = payment.accepted;
    let asset = sales.assets.iter().find(|a| a.is_meant_by(&accepted));
    let asset = asset.filter(|_| accepted.scheme == Scheme::BatchSettlement);
    let asset = asset.ok_or(ErrorCode::InvalidRequirements)?;
    let payload: BatchPayload =
        BatchPayload::deserialize(&payment.payload).map_err(|_| ErrorCode::VoucherPayload)?;
    let checked = check(&payload, &asset.terms(), now)?;
    Ok(ReadPayment {
        asset,
        accepted,
        checked,
    })
}

/// Returns what is left in a channel: `payment` is the JSON of an x402 `PaymentPayload` with a refund.
pub(super) async fn refund(
    sales: &Sales,
    payment: &[u8],
    now: Timestamp,
) -> Result<Refunding, DeskStopped> {
    let ReadPayment { asset, checked, .. } = match read(sales, payment, now) {
        Ok(read) => read,
        Err(code) => return Ok(Refunding::Refused(code)),
    };
    if !matches!(checked.kind, PaymentKind::Refund(_)) {
        return Ok(Refunding::Refused(ErrorCode::InvalidPayload));
    }
    let (chain, payer) = (asset.chain(), checked.config.payer);
    // A refund promises nothing.
    let quote = Quote {
        ceiling: Amount::ZERO,
        need: Amount::ZERO,
        least_deposit: Amount::ZERO,
    };
    let response = match sales.desk.pay(chain, checked, quote).await? {
        Admission::Refunded(statement) => batch_response(chain, payer, &statement),
        Admission::Refused(Refusal { code, correction }) => match correction {
            Some(correction) => {
                let correction = corrected(asset, Amount::ZERO, *correction, code);
                return Ok(Refunding::Corrected(correction));
            }
            None => SettleResponse::failure(chain, Some(payer), code),
        },
        Admission::Admitted(_) => unreachable!("a refund admits no work"),
    };
    Ok(Refunding::Settled(
        serde_json::to_vec(&response).unwrap_or_default(),
    ))
}

/// The JSON of an x402 `PaymentRequired` that tells a payer how its channel stands.
fn corrected(
    asset: &AcceptedAsset,
    need: Amount,
    correction: Correction,
    code: ErrorCode,
) -> Vec<u8> {
    let price = offer::Price {
        need,
        ceiling: need,
    };
    required(vec![asset.corrected(price, correction)], code)
}

fn required(accepts: Vec<PaymentRequirements>, error: ErrorCode) -> Vec<u8> {
    let required = PaymentRequired {
        x402_version: Version,
        error: Some(error.as_str().to_owned()),
        resource: ResourceInfo {
            url: "hearth:answer".to_owned(),
            description: None,
            mime_type: None,
        },
        accepts,
        extensions: Extensions::new(),
    };
    serde_json::to_vec(&required).unwrap_or_default()
}

//! What a provider is paid: promises are admitted, charged and refunded by `channel::provider`, and nothing of it is told
//! before the disk has it.

use hearth_protocol::answer::answering::{AnsweringEvent, PaymentRefusal};
use hearth_protocol::answer::{Receipt, SignedReceipt, StopReason};
use hearth_protocol::channel::CheckedPayment;
use hearth_protocol::channel::provider::{
    ChannelEffect, ChannelEvent, Moment, PaymentStatement, ProviderChannel, ProviderRecord, Quote,
    RequestId,
};
use hearth_protocol::id::ChannelId;
use hearth_protocol::money::Amount;
use hearth_protocol::x402::ErrorCode;

use super::{Charging, Part, Seller, Turn};
use crate::chain::Transaction;
use crate::invariant::{Broken, ensure};
use crate::outside::{Happening, Outside, StreamId};
use crate::purse::nonce_of;

impl Seller {
    fn next_request(&mut self, stream: StreamId) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.streams.insert(request, stream);
        request
    }

    pub(super) fn admit(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        payment: Box<CheckedPayment>,
        quote: Quote,
        needs: Vec<Amount>,
    ) -> Result<(), Broken> {
        let request = self.next_request(stream);
        let channel = payment.channel;
        let part = Part {
            request,
            channel,
            need: quote.need,
        };
        if let Some(conversation) = self.conversations.get_mut(&stream) {
            conversation.admitting = Some((part, needs));
        }
        self.pay(outside, request, payment, quote)
    }

    pub(super) fn refund(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        payment: Box<CheckedPayment>,
    ) -> Result<(), Broken> {
        let request = self.next_request(stream);
        if let Some(conversation) = self.conversations.get_mut(&stream) {
            conversation.refunding = Some(request);
        }
        let quote = Quote {
            ceiling: Amount::ZERO,
            need: Amount::ZERO,
            least_deposit: Amount::ZERO,
        };
        self.pay(outside, request, payment, quote)
    }

    fn pay(
        &mut self,
        outside: &mut Outside,
        request: RequestId,
        payment: Box<CheckedPayment>,
        quote: Quote,
    ) -> Result<(), Broken> {
        let channel = payment.channel;
        let durable = self.durable.get(&channel).cloned();
        let record = durable.unwrap_or_else(|| ProviderRecord::new(payment.config));
        self.channels
            .entry(channel)
            .or_insert_with(|| ProviderChannel::restored(channel, record));
        self.feed(
            outside,
            channel,
            ChannelEvent::Pay {
                request,
                payment,
                quote,
            },
        )
    }

    pub(super) fn feed(
        &mut self,
        outside: &mut Outside,
        channel: ChannelId,
        event: ChannelEvent,
    ) -> Result<(), Broken> {
        let at = Moment {
            now: outside.now,
            heard: self.heard,
        };
        let Some(machine) = self.channels.get_mut(&channel) else {
            return Ok(());
        };
        let mut out = Vec::new();
        machine.handle(at, event, &mut out);
        let mut turn = Turn {
            channel,
            record: None,
            leaving: Vec::new(),
        };
        for effect in out {
            match effect {
                ChannelEffect::Persist(record) => turn.record = Some(*record),
                effect => turn.leaving.push(effect),
            }
        }
        if turn.record.is_none() && self.turns.is_empty() {
            return self.let_out(outside, channel, turn.leaving);
        }
        self.turns.push_back(turn);
        let latency_ms = outside.random.between(1, 20);
        outside.after(latency_ms, Happening::Written(self.number, self.life));
        Ok(())
    }

    /// The disk has the oldest turn.
    pub(crate) fn written(&mut self, outside: &mut Outside, life: u64) -> Result<(), Broken> {
        if life != self.life {
            return Ok(());
        }
        let Some(turn) = self.turns.pop_front() else {
            return Ok(());
        };
        if let Some(record) = turn.record {
            self.durable.insert(turn.channel, record);
        }
        for effect in &turn.leaving {
            if let ChannelEffect::Charged {
                request, amount, ..
            } = effect
            {
                self.tally.charges += 1;
                let paid_for = self.paid_for.entry(turn.channel).or_default();
                *paid_for = paid_for.saturating_add(*amount);
                let stream = self.streams.get(request);
                if let Some(one) = stream.and_then(|stream| self.conversations.get_mut(stream)) {
                    one.charged = one.charged.saturating_add(*amount);
                }
            }
        }
        self.let_out(outside, turn.channel, turn.leaving)
    }

    pub(super) fn write_all(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        while !self.turns.is_empty() {
            self.written(outside, self.life)?;
        }
        Ok(())
    }

    fn let_out(
        &mut self,
        outside: &mut Outside,
        channel: ChannelId,
        effects: Vec<ChannelEffect>,
    ) -> Result<(), Broken> {
        for effect in effects {
            match effect {
                ChannelEffect::ReadChain => {
                    let answer = outside.look(channel);
                    let delay_ms = outside.random.between(1, 300);
                    let answers = Happening::ChainAnswers(self.number, self.life, channel, answer);
                    outside.after(delay_ms, answers);
                }
                ChannelEffect::Admit { request } => self.admitted(outside, channel, request)?,
                ChannelEffect::Refuse {
                    request,
                    code,
                    correction,
                } => {
                    self.refused(outside, request, PaymentRefusal { code, correction })?;
                }
                ChannelEffect::Charged {
                    request, statement, ..
                } => {
                    self.charged(outside, request, statement)?;
                }
                ChannelEffect::Refunded { request, statement } => {
                    if let Some(stream) = self.streams.remove(&request) {
                        self.tell(outside, stream, AnsweringEvent::Refunded(Ok(statement)))?;
                    }
                }
                ChannelEffect::SendDeposit { request, deposit } => {
                    let transaction = Transaction::Deposit {
                        channel,
                        amount: deposit.amount,
                        nonce: nonce_of(channel, &deposit.authorization),
                        valid_before_s: deposit.authorization.valid_before,
                    };
                    if outside.is_away() || outside.random.one_in(12) {
                        let outcome = Err(ErrorCode::DepositSimulation);
                        self.feed(outside, channel, ChannelEvent::Done { request, outcome })?;
                    } else {
                        self.send_transaction(outside, transaction, channel, request);
                    }
                }
                ChannelEffect::SendRefund {
                    request,
                    claim,
                    amount,
                    nonce,
                } => {
                    let claim = claim.map(|row| row.total_claimed);
                    let transaction = Transaction::Refund {
                        channel,
                        claim,
                        amount,
                        nonce,
                    };
                    self.send_transaction(outside, transaction, channel, request);
                }
                ChannelEffect::Persist(_) | ChannelEffect::StateEarly { .. } => {}
            }
        }
        Ok(())
    }

    fn send_transaction(
        &mut self,
        outside: &mut Outside,
        transaction: Transaction,
        channel: ChannelId,
        request: RequestId,
    ) {
        let number = outside.chain.send(transaction, outside.now);
        self.awaited.push((number, channel, request));
    }

    fn admitted(
        &mut self,
        outside: &mut Outside,
        channel: ChannelId,
        request: RequestId,
    ) -> Result<(), Broken> {
        let stream = self.streams.get(&request).copied();
        let conversation = stream.and_then(|stream| self.conversations.get_mut(&stream));
        let admitting = conversation.and_then(|one| one.admitting.take());
        let (Some(stream), Some((part, needs))) = (stream, admitting) else {
            return self.feed(outside, channel, ChannelEvent::Abort { request });
        };
        let mut rest = part.need;
        let mut current = part;
        let mut parts = Vec::new();
        for need in &needs[..needs.len() - 1] {
            rest = rest.saturating_sub(*need);
            let further = self.next_request(stream);
            let split = ChannelEvent::Split {
                request: current.request,
                rest: further,
                need: rest,
            };
            self.feed(outside, channel, split)?;
            parts.push(Part {
                need: *need,
                ..current
            });
            current = Part {
                request: further,
                channel,
                need: rest,
            };
        }
        parts.push(current);
        if let Some(conversation) = self.conversations.get_mut(&stream) {
            conversation.admitted = conversation.admitted.saturating_add(part.need);
            conversation.parts.extend(parts);
        }
        self.tell(outside, stream, AnsweringEvent::Admitted(Ok(())))
    }

    fn refused(
        &mut self,
        outside: &mut Outside,
        request: RequestId,
        refusal: PaymentRefusal,
    ) -> Result<(), Broken> {
        self.tally.refused += 1;
        let Some(stream) = self.streams.remove(&request) else {
            return Ok(());
        };
        let Some(conversation) = self.conversations.get_mut(&stream) else {
            return Ok(());
        };
        let event = if conversation.refunding == Some(request) {
            AnsweringEvent::Refunded(Err(refusal))
        } else {
            conversation.admitting = None;
            AnsweringEvent::Admitted(Err(refusal))
        };
        self.tell(outside, stream, event)
    }

    pub(super) fn charge(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        receipt: Receipt,
        amounts: &[Amount],
    ) -> Result<(), Broken> {
        let signature = self.session.sign(receipt.digest());
        let Some(conversation) = self.conversations.get_mut(&stream) else {
            return Ok(());
        };
        let is_last = receipt.stop != StopReason::Unfinished;
        if is_last {
            conversation.model = None;
        }
        ensure(
            amounts.len() <= conversation.parts.len(),
            "charges-have-parts",
            || {
                format!(
                    "{} charges for {} parts",
                    amounts.len(),
                    conversation.parts.len()
                )
            },
        )?;
        let parts: Vec<_> = conversation.parts.drain(..amounts.len()).collect();
        conversation.charging = Some(Charging {
            receipt: Box::new(SignedReceipt { receipt, signature }),
            parts: parts.clone(),
            statement: None,
        });
        if parts.is_empty() {
            return self.charge_is_done(outside, stream);
        }
        for (part, amount) in parts.iter().zip(amounts) {
            let (request, amount) = (part.request, *amount);
            self.feed(
                outside,
                part.channel,
                ChannelEvent::Charge { request, amount },
            )?;
        }
        Ok(())
    }

    fn charged(
        &mut self,
        outside: &mut Outside,
        request: RequestId,
        statement: PaymentStatement,
    ) -> Result<(), Broken> {
        let Some(stream) = self.streams.remove(&request) else {
            return Ok(());
        };
        let conversation = self.conversations.get_mut(&stream);
        let Some(charging) = conversation.and_then(|one| one.charging.as_mut()) else {
            return Ok(());
        };
        charging.parts.retain(|part| part.request != request);
        charging.statement = Some(statement);
        if charging.parts.is_empty() {
            return self.charge_is_done(outside, stream);
        }
        Ok(())
    }

    fn charge_is_done(&mut self, outside: &mut Outside, stream: StreamId) -> Result<(), Broken> {
        let conversation = self.conversations.get_mut(&stream);
        let Some(charging) = conversation.and_then(|one| one.charging.take()) else {
            return Ok(());
        };
        let event = AnsweringEvent::Charged {
            receipt: charging.receipt,
            statement: charging.statement,
        };
        self.tell(outside, stream, event)
    }
}

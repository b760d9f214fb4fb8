//! A household that answers: drives `answer::answering` for each stream, and `channel::provider` for each
//! channel, with a disk that takes its time.

mod till;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alloy_primitives::Address;
use hearth_protocol::accepted::AcceptedAsset;
use hearth_protocol::answer::answering::{
    Answering, AnsweringEffect, AnsweringEvent, AnsweringTerms, Found,
};
use hearth_protocol::answer::{
    BackendClass, KvType, Price, ProviderFrame, Serving, SignedReceipt, StopReason,
};
use hearth_protocol::channel::OnchainState;
use hearth_protocol::channel::provider::{
    ChannelEffect, ChannelEvent, PaymentStatement, ProviderChannel, ProviderRecord, RequestId,
    Sight, Transacted,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{Audience, DeviceId, Offer, OfferedModel, Openness};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::ErrorCode;

use crate::chain::{TOKEN_NAME, TOKEN_VERSION, Transaction, TransactionNumber, WITHDRAW_DELAY_S};
use crate::invariant::{Broken, ensure};
use crate::key::Key;
use crate::outside::{Down, Happening, Outside, SellerNumber, StreamId, Up};
use crate::payer::WINDOW_TOKENS;

/// How often a provider follows the chain, in milliseconds.
const HOUSEKEEPING_MS: u64 = 4_000;
/// How often claims are looked at, in milliseconds.
const SETTLE_MS: u64 = 20_000;
/// A stream on which nothing is under way ends within this time, in milliseconds.
const IDLE_MS_MAX: u64 = 15_000;

/// What a provider does to payers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// It keeps the rules.
    Honest,
    /// It says nothing any more after so many frames.
    Stalls(u32),
    /// Its receipts are signed by another key.
    Forges,
    /// It charges more than its price.
    Overcharges,
    /// Its receipts count other tokens than came.
    Miscounts,
    /// It leaves tokens out.
    Skips,
    /// It sends tokens without end.
    Floods,
    /// It sends what is not a frame, after so many frames.
    Garbage(u32),
    /// It breaks off after so many frames.
    BreaksOff(u32),
    /// It takes what it is paid and answers nothing.
    TakesAndIsSilent,
    /// It claims all that it was ever promised.
    ClaimsAll,
    /// It ends answers early.
    EndsEarly,
    /// It names a model's file with absurd sizes.
    OffersAbsurdFile,
}

impl Nature {
    /// Everything that is not honest.
    pub const BAD: [Self; 12] = [
        Self::Stalls(4),
        Self::Forges,
        Self::Overcharges,
        Self::Miscounts,
        Self::Skips,
        Self::Floods,
        Self::Garbage(5),
        Self::BreaksOff(6),
        Self::TakesAndIsSilent,
        Self::ClaimsAll,
        Self::EndsEarly,
        Self::OffersAbsurdFile,
    ];
}

/// A turn of a channel's machine whose record is on its way to the disk, and what leaves once it is there.
#[derive(Debug)]
struct Turn {
    channel: ChannelId,
    record: Option<ProviderRecord>,
    leaving: Vec<ChannelEffect>,
}

/// What generates.
#[derive(Debug)]
struct Model {
    answered_tokens: u32,
    output_tokens_max: u32,
    made: u32,
    allowance: u32,
    is_scheduled: bool,
    has_begun: bool,
}

/// A part of a promise that is admitted and not charged.
#[derive(Debug, Clone, Copy)]
struct Part {
    request: RequestId,
    channel: ChannelId,
    need: Amount,
}

/// Parts that are being charged.
#[derive(Debug)]
struct Charging {
    receipt: Box<SignedReceipt>,
    parts: Vec<Part>,
    statement: Option<PaymentStatement>,
}

#[derive(Debug)]
struct Conversation {
    machine: Answering,
    model: Option<Model>,
    prompt_tokens: u32,
    parts: VecDeque<Part>,
    admitting: Option<(Part, Vec<Amount>)>,
    refunding: Option<RequestId>,
    charging: Option<Charging>,
    /// What was admitted of promises in all.
    admitted: Amount,
    /// What is durably charged.
    charged: Amount,
    sent: Vec<u32>,
    frames: u32,
    busy_at: Timestamp,
    is_free: bool,
}

/// What happened at a provider.
#[derive(Debug, Default, Clone)]
pub struct SellerTally {
    /// Tokens that were sent.
    pub served_tokens: u64,
    /// Payments that were refused or corrected.
    pub refused: u64,
    /// Times that the device was killed.
    pub crashes: u64,
    /// Claims that were sent.
    pub claims: u64,
    /// Charges that became durable.
    pub charges: u64,
}

/// A household that answers.
#[derive(Debug)]
pub(crate) struct Seller {
    pub(crate) number: SellerNumber,
    pub(crate) nature: Nature,
    household: Address,
    session: Key,
    pub(crate) asset: AcceptedAsset,
    pub(crate) price: Option<Price>,
    pub(crate) is_up: bool,
    life: u64,
    requests: u64,
    channels: BTreeMap<ChannelId, ProviderChannel>,
    durable: BTreeMap<ChannelId, ProviderRecord>,
    turns: VecDeque<Turn>,
    conversations: BTreeMap<StreamId, Conversation>,
    streams: BTreeMap<RequestId, StreamId>,
    /// Streams that are over: what arrives on them is dropped.
    over: BTreeSet<StreamId>,
    awaited: Vec<(TransactionNumber, ChannelId, RequestId)>,
    claiming: BTreeMap<ChannelId, TransactionNumber>,
    heard: Option<Sight>,
    followed: BTreeMap<ChannelId, OnchainState>,
    refuses_events: bool,
    settled_at: Timestamp,
    /// What was served on each channel and is durably charged.
    pub(crate) paid_for: BTreeMap<ChannelId, Amount>,
    pub(crate) tally: SellerTally,
}

/// What every provider of the simulation serves.
pub(crate) fn serving() -> Serving {
    Serving {
        adapter: None,
        backend: BackendClass::CpuAvx2,
        engine: "simulated".to_owned(),
        flash_attention: false,
        kv_type: KvType::F16,
        micro_batch_tokens: 512,
        template: ContentHash([2; 32]),
        weights: ContentHash([3; 32]),
    }
}

/// The answer to everything: the token at a position is the same whoever gives it.
pub(crate) fn token(position: u32) -> u32 {
    1_000 + position
}

impl Seller {
    pub(crate) fn new(
        number: SellerNumber,
        nature: Nature,
        asset: AssetId,
        price: Option<Price>,
    ) -> Self {
        let byte = u8::try_from(number).unwrap_or(0);
        let (household, session) = (Key::numbered(10 + byte).address(), Key::numbered(40 + byte));
        let asset = AcceptedAsset {
            asset,
            name: TOKEN_NAME.to_owned(),
            version: TOKEN_VERSION.to_owned(),
            receiver: household,
            receiver_authorizer: session.address(),
            withdraw_delay: WITHDRAW_DELAY_S,
            deposit_ceilings: 1,
            batch: true,
            exact: false,
        };
        Self {
            number,
            nature,
            household,
            session,
            asset,
            price,
            is_up: true,
            life: 0,
            requests: 0,
            channels: BTreeMap::new(),
            durable: BTreeMap::new(),
            turns: VecDeque::new(),
            conversations: BTreeMap::new(),
            streams: BTreeMap::new(),
            over: BTreeSet::new(),
            awaited: Vec::new(),
            claiming: BTreeMap::new(),
            heard: None,
            followed: BTreeMap::new(),
            refuses_events: false,
            settled_at: Timestamp(0),
            paid_for: BTreeMap::new(),
            tally: SellerTally::default(),
        }
    }

    fn is_honest(&self) -> bool {
        self.nature == Nature::Honest
    }

    /// What it offers.
    pub(crate) fn offer(&self, now: Timestamp) -> Offer {
        let byte = u8::try_from(self.number).unwrap_or(0);
        let is_absurd = self.nature == Nature::OffersAbsurdFile;
        Offer {
            device: DeviceId([byte; 32]),
            household: self.household,
            session_key: self.session.address(),
            withdraw_delay_s: WITHDRAW_DELAY_S,
            issued_at: now,
            expires_at: now.plus_ms(60_000),
            models: vec![OfferedModel {
                name: "simulated".to_owned(),
                serving: serving(),
                weights_bytes: if is_absurd { u64::MAX } else { 1_000_000 },
                head_bytes: if is_absurd { u64::MAX } else { 1_000 },
                context_tokens: 2_048,
                audience: Audience::Everyone,
                prices: self.price.into_iter().collect(),
                slots: 4,
                free_slots: 4,
                output_tokens_per_s: 50,
                prompt_tokens_per_s: 500,
            }],
        }
    }

    /// Begins to look after its channels.
    pub(crate) fn start(&mut self, outside: &mut Outside) {
        self.refuses_events = outside.random.one_in(3);
        self.settled_at = outside.now;
        outside.after(HOUSEKEEPING_MS, Happening::Housekeeping(self.number));
    }

    /// Something arrives on a stream.
    pub(crate) fn hear(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        what: Up,
    ) -> Result<(), Broken> {
        if !self.is_up || self.over.contains(&stream) {
            return Ok(());
        }
        if !self.conversations.contains_key(&stream) {
            if !matches!(what, Up::Frame(_)) {
                return Ok(());
            }
            self.begin(outside, stream);
        }
        let event = match what {
            Up::Frame(frame) => AnsweringEvent::Said(frame),
            Up::Finished => AnsweringEvent::SaidAll,
            Up::Broken => AnsweringEvent::Broken,
        };
        self.tell(outside, stream, event)
    }

    fn begin(&mut self, outside: &Outside, stream: StreamId) {
        let terms = AnsweringTerms {
            is_household: false,
            openness: Openness::Everyone,
            accepts: Some(vec![self.asset.clone()]),
        };
        let conversation = Conversation {
            machine: Answering::new(terms, outside.now),
            model: None,
            prompt_tokens: 0,
            parts: VecDeque::new(),
            admitting: None,
            refunding: None,
            charging: None,
            admitted: Amount::ZERO,
            charged: Amount::ZERO,
            sent: Vec::new(),
            frames: 0,
            busy_at: outside.now,
            is_free: self.price.is_none(),
        };
        self.conversations.insert(stream, conversation);
    }

    /// The owner lets nobody in any more, or everybody again.
    pub(crate) fn open_to(
        &mut self,
        outside: &mut Outside,
        openness: Openness,
    ) -> Result<(), Broken> {
        let streams: Vec<_> = self.conversations.keys().copied().collect();
        for stream in streams {
            self.tell(outside, stream, AnsweringEvent::Openness(openness))?;
        }
        Ok(())
    }

    /// A timer of a stream.
    pub(crate) fn tick(&mut self, outside: &mut Outside, stream: StreamId) -> Result<(), Broken> {
        let wake_at = self
            .conversations
            .get(&stream)
            .and_then(|one| one.machine.wake_at());
        if wake_at.is_some_and(|at| at <= outside.now) {
            return self.tell(outside, stream, AnsweringEvent::Tick);
        }
        Ok(())
    }

    fn tell(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        event: AnsweringEvent,
    ) -> Result<(), Broken> {
        let Some(conversation) = self.conversations.get_mut(&stream) else {
            return Ok(());
        };
        let mut out = Vec::new();
        conversation.machine.handle(outside.now, event, &mut out);
        ensure(out.len() <= 256, "bounded-work", || {
            format!("{} things at once", out.len())
        })?;
        if !out.is_empty() {
            conversation.busy_at = outside.now;
        }
        for effect in out {
            self.perform(outside, stream, effect)?;
        }
        let wake_at = self
            .conversations
            .get(&stream)
            .and_then(|one| one.machine.wake_at());
        if let Some(at) = wake_at {
            outside.at(at, Happening::StreamTick(self.number, stream));
        }
        Ok(())
    }

    fn perform(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        effect: AnsweringEffect,
    ) -> Result<(), Broken> {
        match effect {
            AnsweringEffect::Find(weights) => {
                let found = (weights == serving().weights).then(|| {
                    Box::new(Found {
                        serving: serving(),
                        audience: Audience::Everyone,
                        prices: self.price.into_iter().collect(),
                    })
                });
                self.tell(outside, stream, AnsweringEvent::Found(found))
            }
            AnsweringEffect::Admit {
                payment,
                quote,
                needs,
                ..
            } => self.admit(outside, stream, payment, quote, needs),
            AnsweringEffect::Refund { payment, .. } => self.refund(outside, stream, payment),
            AnsweringEffect::Submit { request, allowance } => {
                if let Some(conversation) = self.conversations.get_mut(&stream) {
                    conversation.prompt_tokens =
                        u32::try_from(request.ids.len()).unwrap_or(u32::MAX);
                    conversation.model = Some(Model {
                        answered_tokens: request.answered_tokens,
                        output_tokens_max: request.output_tokens_max,
                        made: 0,
                        allowance,
                        is_scheduled: false,
                        has_begun: false,
                    });
                }
                self.schedule_model(outside, stream);
                Ok(())
            }
            AnsweringEffect::Allow(tokens) => {
                if let Some(model) = self.model(stream) {
                    model.allowance = tokens;
                }
                self.schedule_model(outside, stream);
                Ok(())
            }
            AnsweringEffect::Charge {
                receipt, amounts, ..
            } => self.charge(outside, stream, *receipt, &amounts),
            AnsweringEffect::Send(frame) => self.send(outside, stream, frame),
            AnsweringEffect::End(_) => self.end(outside, stream),
        }
    }

    fn model(&mut self, stream: StreamId) -> Option<&mut Model> {
        self.conversations.get_mut(&stream)?.model.as_mut()
    }

    fn schedule_model(&mut self, outside: &mut Outside, stream: StreamId) {
        let pace_ms = outside.random.between(5, 60);
        let number = self.number;
        if let Some(model) = self.model(stream)
            && !model.is_scheduled
            && (model.made < model.allowance || !model.has_begun)
        {
            model.is_scheduled = true;
            outside.after(pace_ms, Happening::ModelMakes(number, stream));
        }
    }

    /// The model goes on.
    pub(crate) fn make(&mut self, outside: &mut Outside, stream: StreamId) -> Result<(), Broken> {
        let most = u32::try_from(outside.random.between(1, 4)).unwrap_or(1);
        let Some(model) = self.model(stream) else {
            return Ok(());
        };
        model.is_scheduled = false;
        if !std::mem::replace(&mut model.has_begun, true) {
            let waiting = u32::from(outside.random.one_in(4));
            self.tell(outside, stream, AnsweringEvent::Taken { waiting })?;
            self.tell(outside, stream, AnsweringEvent::Read { tokens: 1 })?;
            self.schedule_model(outside, stream);
            return Ok(());
        }
        let reach = model.allowance.min(model.output_tokens_max);
        let until = model.made.saturating_add(most).min(reach);
        let first = model.answered_tokens + model.made;
        let ids: Vec<_> = (first..model.answered_tokens + until).map(token).collect();
        model.made = until;
        let is_over = until == model.output_tokens_max;
        if !ids.is_empty() {
            let logprobs = Vec::new();
            self.tell(outside, stream, AnsweringEvent::Made { ids, logprobs })?;
        }
        if is_over {
            return self.tell(outside, stream, AnsweringEvent::MadeAll(StopReason::Length));
        }
        self.schedule_model(outside, stream);
        Ok(())
    }

    /// Sends a frame, as the provider's nature will have it.
    fn send(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        frame: ProviderFrame,
    ) -> Result<(), Broken> {
        self.check_frame(stream, &frame)?;
        let Some(conversation) = self.conversations.get_mut(&stream) else {
            return Ok(());
        };
        conversation.frames += 1;
        if let ProviderFrame::Tokens(tokens) = &frame {
            self.tally.served_tokens += tokens.ids.len() as u64;
        }
        let frames = conversation.frames;
        match (self.nature, frame) {
            (Nature::Stalls(after), _) if frames > after => {}
            (Nature::TakesAndIsSilent, _) => {}
            (Nature::Garbage(after), _) if frames > after => {
                outside.send_down(stream, Down::Closed { garbage: true });
            }
            (Nature::BreaksOff(after), _) if frames > after => outside.break_stream(stream),
            (Nature::Floods, ProviderFrame::Tokens(mut tokens)) => {
                for _ in 0..50 {
                    outside.send_down(stream, Down::Frame(ProviderFrame::Tokens(tokens.clone())));
                    tokens.first += u32::try_from(tokens.ids.len()).unwrap_or(1);
                }
            }
            (Nature::Skips, ProviderFrame::Tokens(mut tokens)) => {
                tokens.first += u32::from(outside.random.one_in(3));
                outside.send_down(stream, Down::Frame(ProviderFrame::Tokens(tokens)));
            }
            (
                nature,
                ProviderFrame::Charged {
                    mut receipt,
                    settlement,
                },
            ) => {
                self.spoil(nature, &mut receipt);
                let frame = ProviderFrame::Charged {
                    receipt,
                    settlement,
                };
                outside.send_down(stream, Down::Frame(frame));
            }
            (_, frame) => outside.send_down(stream, Down::Frame(frame)),
        }
        Ok(())
    }

    fn spoil(&self, nature: Nature, signed: &mut SignedReceipt) {
        let receipt = &mut signed.receipt;
        match nature {
            Nature::Overcharges => receipt.charge = receipt.charge.saturating_add(Amount::new(1)),
            Nature::Miscounts => receipt.output_tokens += 1,
            Nature::EndsEarly => receipt.stop = StopReason::EndOfText,
            Nature::Forges => {
                signed.signature = Key::numbered(99).sign(receipt.digest());
                return;
            }
            _ => return,
        }
        signed.signature = self.session.sign(receipt.digest());
    }

    /// What leaves an honest provider is covered by promises, and receipts say what was sent.
    fn check_frame(&mut self, stream: StreamId, frame: &ProviderFrame) -> Result<(), Broken> {
        let price = self.price;
        let Some(conversation) = self.conversations.get_mut(&stream) else {
            return Ok(());
        };
        match frame {
            ProviderFrame::Tokens(tokens) => {
                conversation.sent.extend_from_slice(&tokens.ids);
                let sent = u32::try_from(conversation.sent.len()).unwrap_or(u32::MAX);
                let cost = price.map_or(Amount::ZERO, |price| {
                    price.cost(conversation.prompt_tokens, sent)
                });
                let admitted = conversation.admitted;
                ensure(
                    conversation.is_free || cost <= admitted,
                    "nothing-uncovered-leaves",
                    || format!("{sent} tokens cost {cost}, and {admitted} is admitted"),
                )
            }
            ProviderFrame::Charged { receipt, .. } => {
                let sent = &conversation.sent;
                let said = receipt.receipt.output;
                ensure(
                    said == ContentHash::of_ids(sent),
                    "receipts-say-what-was-sent",
                    || format!("{} of {} tokens", receipt.receipt.output_tokens, sent.len()),
                )
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, outside: &mut Outside, stream: StreamId) -> Result<(), Broken> {
        let Some(conversation) = self.conversations.remove(&stream) else {
            return Ok(());
        };
        self.over.insert(stream);
        outside.say(format_args!(
            "stream {} ends after {} tokens",
            stream.0,
            conversation.sent.len()
        ));
        let sent = u32::try_from(conversation.sent.len()).unwrap_or(u32::MAX);
        let cost = match self.price {
            Some(price) if sent > 0 => price.cost(conversation.prompt_tokens, sent),
            _ => Amount::ZERO,
        };
        let charged = conversation.charged;
        ensure(charged == cost, "what-is-sent-is-charged", || {
            format!("{sent} tokens cost {cost}, and {charged} is charged")
        })?;
        for part in conversation.parts {
            self.streams.remove(&part.request);
            let request = part.request;
            self.feed(outside, part.channel, ChannelEvent::Abort { request })?;
        }
        if let Some((part, _)) = conversation.admitting {
            self.streams.remove(&part.request);
            let request = part.request;
            self.feed(outside, part.channel, ChannelEvent::Abort { request })?;
        }
        Ok(())
    }

    /// The chain answers.
    pub(crate) fn chain_answers(
        &mut self,
        outside: &mut Outside,
        life: u64,
        channel: ChannelId,
        answer: Option<(OnchainState, Sight)>,
    ) -> Result<(), Broken> {
        if life != self.life || !self.is_up {
            return Ok(());
        }
        let event = match answer {
            Some((state, sight)) => ChannelEvent::Onchain { state, sight },
            None => ChannelEvent::ReadFailed,
        };
        self.feed(outside, channel, event)
    }

    /// Looks after its channels: follows the chain, claims, and lets waiting requests go.
    pub(crate) fn keep_house(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        outside.after(HOUSEKEEPING_MS, Happening::Housekeeping(self.number));
        if !self.is_up {
            return Ok(());
        }
        if outside.random.below(4) > 0 {
            self.follow(outside)?;
        }
        if outside.now.ms_since(self.settled_at) >= SETTLE_MS {
            self.settle(outside, false)?;
        }
        for channel in self.channel_ids() {
            self.feed(outside, channel, ChannelEvent::Tick)?;
        }
        self.check_idle(outside)
    }

    fn channel_ids(&self) -> Vec<ChannelId> {
        self.channels.keys().copied().collect()
    }

    fn check_idle(&self, outside: &Outside) -> Result<(), Broken> {
        for (stream, one) in &self.conversations {
            let waits =
                one.admitting.is_some() || one.charging.is_some() || one.refunding.is_some();
            let idle_ms = outside.now.ms_since(one.busy_at);
            ensure(waits || idle_ms <= IDLE_MS_MAX, "every-stream-ends", || {
                format!(
                    "stream {} has done nothing for {idle_ms} ms: {:?}",
                    stream.0, one.machine
                )
            })?;
        }
        Ok(())
    }

    fn follow(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        if self.refuses_events {
            self.heard = None;
            return Ok(());
        }
        let mut heard = None;
        for channel in self.channel_ids() {
            let Some((state, sight)) = outside.look(channel) else {
                return Ok(());
            };
            if self.followed.insert(channel, state) != Some(state) {
                self.feed(outside, channel, ChannelEvent::Onchain { state, sight })?;
            }
            // What the first reading saw is known of all.
            heard = heard.or(Some(sight));
        }
        self.heard = heard.or(self.heard);
        Ok(())
    }

    /// Claims what is due: where a withdrawal is known, where asked, or as it likes.
    pub(crate) fn settle(&mut self, outside: &mut Outside, asked: bool) -> Result<(), Broken> {
        if outside.is_away() || !self.is_up {
            return Ok(());
        }
        self.settled_at = outside.now;
        self.follow(outside)?;
        self.write_all(outside)?;
        for (channel, mut record) in self.durable.clone() {
            if self.claiming.contains_key(&channel) || !record.may_be_due() {
                continue;
            }
            if let Some((state, sight)) = outside.look(channel) {
                record.onchain = Some(state);
                self.feed(outside, channel, ChannelEvent::Onchain { state, sight })?;
            }
            let is_leaving = record
                .onchain
                .is_some_and(|state| state.withdraw_requested_at != 0);
            let Some(row) = record.claim_row() else {
                continue;
            };
            let is_liar = self.nature == Nature::ClaimsAll;
            if !(is_leaving || asked || is_liar || outside.random.one_in(6)) {
                continue;
            }
            let max_claimable = row.voucher.max_claimable_amount;
            self.feed(outside, channel, ChannelEvent::Publish { max_claimable })?;
            self.write_all(outside)?;
            self.tally.claims += 1;
            let held = outside.chain.newest(channel).balance;
            let total = if is_liar {
                max_claimable.min(held)
            } else {
                row.total_claimed
            };
            let claim = Transaction::Claim { channel, total };
            outside.say(format_args!(
                "provider {} claims {total} of {channel}",
                self.number
            ));
            let number = outside.chain.send(claim, outside.now);
            self.claiming.insert(channel, number);
        }
        Ok(())
    }

    /// Tells what became of transactions, once it is final and can be seen.
    pub(crate) fn end_transactions(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        if outside.is_away() || !self.is_up {
            return Ok(());
        }
        for (channel, number) in self.claiming.clone() {
            if let Some(works) = outside.chain.outcome(number) {
                ensure(works || !self.is_honest(), "claims-are-good", || {
                    "a claim of what is gone".to_owned()
                })?;
                self.claiming.remove(&channel);
                if let Some((state, sight)) = outside.look(channel) {
                    self.feed(outside, channel, ChannelEvent::Onchain { state, sight })?;
                }
            }
        }
        for (number, channel, request) in std::mem::take(&mut self.awaited) {
            let Some(works) = outside.chain.outcome(number) else {
                self.awaited.push((number, channel, request));
                continue;
            };
            let outcome = match outside.look(channel).filter(|_| works) {
                Some((onchain, sight)) => Ok(Transacted {
                    transaction: "0xab".to_owned(),
                    amount: Amount::ZERO,
                    onchain,
                    sight,
                }),
                None => Err(ErrorCode::DepositTransaction),
            };
            self.feed(outside, channel, ChannelEvent::Done { request, outcome })?;
        }
        Ok(())
    }

    /// The device is killed. What was in flight is unpaid, and never more than one promise for each answer.
    pub(crate) fn crash(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        outside.say(format_args!("provider {} is killed", self.number));
        self.tally.crashes += 1;
        for one in self.conversations.values() {
            let Some(price) = self.price else { continue };
            let sent = u32::try_from(one.sent.len()).unwrap_or(u32::MAX);
            let cost = price.cost(one.prompt_tokens, sent);
            let owed = if sent == 0 {
                Amount::ZERO
            } else {
                cost.saturating_sub(one.charged)
            };
            let most = price.cost(one.prompt_tokens, WINDOW_TOKENS);
            ensure(owed <= most, "a-crash-costs-one-promise", || {
                format!("{owed} was sent and not charged, one promise is {most}")
            })?;
        }
        for stream in std::mem::take(&mut self.conversations).into_keys() {
            self.over.insert(stream);
            outside.after(1_200, Happening::Down(stream, Down::Unheard));
        }
        self.life += 1;
        self.is_up = false;
        self.turns.clear();
        self.channels.clear();
        self.streams.clear();
        self.awaited.clear();
        self.claiming.clear();
        self.followed.clear();
        self.heard = None;
        let away_ms = outside.random.between(100, 20_000);
        outside.after(away_ms, Happening::Restarts(self.number));
        Ok(())
    }

    /// The device starts again, from what is durable.
    pub(crate) fn restart(&mut self, outside: &mut Outside) {
        outside.say(format_args!("provider {} is back", self.number));
        self.is_up = true;
        self.settled_at = outside.now;
        for (channel, record) in &self.durable {
            let machine = ProviderChannel::restored(*channel, record.clone());
            self.channels.insert(*channel, machine);
        }
    }

    /// What must be true at every moment.
    pub(crate) fn check(&self, outside: &Outside) -> Result<(), Broken> {
        for (channel, paid_for) in &self.paid_for {
            let Some(record) = self.durable.get(channel) else {
                continue;
            };
            ensure(
                *paid_for <= record.charged,
                "charges-are-durable-first",
                || format!("{paid_for} left, {} is durable", record.charged),
            )?;
            let is_covered = record.unclaimed().is_zero() || record.claim_row().is_some();
            ensure(is_covered, "charges-have-a-voucher", || {
                "none covers what was charged".to_owned()
            })?;
            let held = outside.chain.newest(*channel).balance;
            ensure(*paid_for <= held, "charges-are-in-escrow", || {
                format!("{paid_for} served, {held} left to claim of {channel}: {record:?}")
            })?;
        }
        Ok(())
    }

    /// What must be true once all is claimed.
    pub(crate) fn check_end(&self, outside: &Outside) -> Result<(), Broken> {
        for (channel, paid_for) in &self.paid_for {
            let (state, _) = outside.chain.sure(*channel);
            ensure(
                *paid_for <= state.total_claimed,
                "charges-are-claimed",
                || format!("{paid_for} served, {} claimed", state.total_claimed),
            )?;
        }
        ensure(self.conversations.is_empty(), "every-stream-ends", || {
            format!("{} streams are left at the end", self.conversations.len())
        })
    }
}

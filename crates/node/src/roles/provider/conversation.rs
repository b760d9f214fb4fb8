//! One stream with a payer: drives `hearth_protocol::answer::answering`.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use futures::future::BoxFuture;
use hearth_models::asker::Asker;
use hearth_models::engine::{Event as Made, Generation};
use hearth_net::{FrameReceiver, FrameSender, IncomingAnswer, RecvError, SendError};
use hearth_payments::desk::{Admission, Alongside, Desk, DeskStopped, Refusal, Ticket};
use hearth_payments::signing::sign;
use hearth_payments::store::Batch;
use hearth_protocol::answer::answering::{
    Answering, AnsweringEffect, AnsweringEvent, AnsweringTerms, Found, PaymentRefusal, StreamEnd,
};
use hearth_protocol::answer::frame::FRAME_TOKENS_MAX;
use hearth_protocol::answer::{
    AnswerRequest, PayerFrame, ProviderFrame, Receipt, SignedReceipt, StopReason,
};
use hearth_protocol::channel::CheckedPayment;
use hearth_protocol::channel::provider::{PaymentStatement, Quote};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{DeviceId, Openness};
use hearth_protocol::time::Timestamp;
use thiserror::Error;
use tokio::sync::watch;

use super::{Provider, SALES, SaleNumber, StoredSale};
use crate::roles::causes;
use crate::roles::served::{Gathered, Served, asker_number, stop_reason};

/// Why a conversation ended before its last frame was taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum Ended {
    /// The payer broke the rules, or went away.
    #[error(transparent)]
    Stream(#[from] StreamEnd),
    /// The payer did not take the last frame.
    #[error("the last frame was not taken")]
    Sent(#[from] SendError),
    /// The desk stopped.
    #[error(transparent)]
    Desk(#[from] DeskStopped),
}

/// What the desk is asked to do, one thing at a time.
type Errand = BoxFuture<'static, Result<Done, DeskStopped>>;

/// What came of an errand.
enum Done {
    Admitted(Result<Vec<Ticket>, Refusal>),
    Charged(Box<SignedReceipt>, Option<PaymentStatement>),
    Refunded(Result<PaymentStatement, Refusal>),
}

/// One stream with a payer.
pub(super) struct Conversation<'a> {
    provider: &'a Provider,
    device: DeviceId,
    asker: Asker,
    machine: Answering,
    sender: FrameSender<ProviderFrame>,
    receiver: FrameReceiver<PayerFrame>,
    /// The payer may still say something.
    listening: bool,
    openness: watch::Receiver<Openness>,
    served: Option<Served>,
    generation: Option<Generation>,
    errand: Option<Errand>,
    /// The parts that are admitted and not charged, the oldest first.
    tickets: VecDeque<Ticket>,
    sale: Option<SaleNumber>,
    pace: Pacing,
    effects: VecDeque<AnsweringEffect>,
}

/// What is measured while a model answers: the next offer says it.
#[derive(Debug, Default)]
struct Pacing {
    prompt_tokens: usize,
    /// Tokens of the prompt that the engine had read before, for another answer.
    cached_tokens: u32,
    submitted_at: Timestamp,
    /// When the first tokens were made, and how many they were.
    first: Option<(Timestamp, u32)>,
}

/// What happened next.
enum Next {
    Said(Result<Option<PayerFrame>, RecvError>),
    Openness(Openness),
    Done(Box<Result<Done, DeskStopped>>),
    Made(Option<Made>),
    Tick,
}

impl<'a> Conversation<'a> {
    /// Holds one conversation, to its end.
    pub(super) async fn hold(
        provider: &'a Provider,
        incoming: IncomingAnswer,
    ) -> Result<(), Ended> {
        let device = incoming.device;
        let is_household = (provider.parts().is_household)(&device);
        let mut openness = provider.opened();
        let terms = AnsweringTerms {
            is_household,
            openness: *openness.borrow_and_update(),
            accepts: provider
                .parts()
                .sales
                .as_ref()
                .map(|sales| sales.assets.clone()),
        };
        let asker = asker(&device, is_household, &incoming);
        let (sender, receiver) = incoming.stream.split();
        let conversation = Self {
            provider,
            device,
            asker,
            machine: Answering::new(terms, provider.now()),
            sender,
            receiver,
            listening: true,
            openness,
            served: None,
            generation: None,
            errand: None,
            tickets: VecDeque::new(),
            sale: None,
            pace: Pacing::default(),
            effects: VecDeque::new(),
        };
        conversation.run().await
    }

    async fn run(mut self) -> Result<(), Ended> {
        loop {
            while let Some(effect) = self.effects.pop_front() {
                if let AnsweringEffect::End(end) = effect {
                    return self.end(end).await;
                }
                self.perform(effect).await;
            }
            match self.next().await {
                Next::Said(said) => self.said(said),
                Next::Openness(openness) => self.tell(AnsweringEvent::Openness(openness)),
                Next::Done(done) => self.done((*done)?),
                Next::Made(made) => self.made(made),
                Next::Tick => self.tell(AnsweringEvent::Tick),
            }
        }
    }

    fn tell(&mut self, event: AnsweringEvent) {
        let mut out = Vec::new();
        self.machine.handle(self.provider.now(), event, &mut out);
        self.effects.extend(out);
    }

    async fn next(&mut self) -> Next {
        let wake_ms = self
            .machine
            .wake_at()
            .map(|at| at.ms_since(self.provider.now()));
        let tick = async {
            match wake_ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => pending().await,
            }
        };
        let openness = async {
            // Where the sender is gone the node stops, and the task with it.
            match self.openness.changed().await {
                Ok(()) => *self.openness.borrow_and_update(),
                Err(_) => pending().await,
            }
        };
        let done = async {
            match &mut self.errand {
                Some(errand) => errand.await,
                None => pending().await,
            }
        };
        let made = async {
            match &mut self.generation {
                Some(generation) => generation.next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            said = self.receiver.recv(), if self.listening => Next::Said(said),
            openness = openness => Next::Openness(openness),
            done = done => Next::Done(Box::new(done)),
            made = made => Next::Made(made),
            () = tick => Next::Tick,
        }
    }

    async fn perform(&mut self, effect: AnsweringEffect) {
        match effect {
            AnsweringEffect::Find(weights) => self.find(&weights),
            AnsweringEffect::Admit {
                payment,
                chain,
                quote,
                needs,
            } => self.admit(*payment, chain, quote, needs),
            AnsweringEffect::Refund { payment, chain } => self.refund(*payment, chain),
            AnsweringEffect::Submit { request, allowance } => {
                self.submit(&request, allowance).await;
            }
            AnsweringEffect::Allow(tokens) => {
                if let Some(generation) = &self.generation {
                    generation.allow(tokens);
                }
            }
            AnsweringEffect::Charge {
                receipt,
                amounts,
                asset,
            } => self.charge(*receipt, amounts, asset),
            AnsweringEffect::Send(frame) => {
                if self.sender.send(&frame).await.is_err() {
                    self.tell(AnsweringEvent::Broken);
                }
            }
            AnsweringEffect::End(_) => {}
        }
    }

    fn said(&mut self, said: Result<Option<PayerFrame>, RecvError>) {
        let event = match said {
            Ok(Some(frame)) => AnsweringEvent::Said(frame),
            Ok(None) => AnsweringEvent::SaidAll,
            Err(_) => AnsweringEvent::Broken,
        };
        self.listening = matches!(event, AnsweringEvent::Said(_));
        self.tell(event);
    }

    fn find(&mut self, weights: &ContentHash) {
        self.served = self.provider.find(weights);
        let found = self.served.as_ref().map(|served| {
            Box::new(Found {
                serving: served.serving.clone(),
                audience: served.audience,
                prices: served.prices.clone(),
            })
        });
        self.tell(AnsweringEvent::Found(found));
    }

    async fn submit(&mut self, request: &AnswerRequest, allowance: u32) {
        let Some(served) = &self.served else { return };
        let job = served.job(request, self.asker, allowance);
        let submitted = served.generator.submit(job).await;
        self.pace.prompt_tokens = request.ids.len();
        self.pace.submitted_at = self.provider.now();
        match submitted {
            Ok(generation) => self.generation = Some(generation),
            Err(error) => self.tell(AnsweringEvent::NotTaken(causes::to_refusal(&error))),
        }
    }

    /// Takes what the engine made, and everything more that is there already.
    fn made(&mut self, made: Option<Made>) {
        let Some(made) = made else {
            self.generation = None;
            return self.tell(AnsweringEvent::MadeAll(StopReason::Failed));
        };
        let mut gathered = Gathered::default();
        let mut next = Some(made);
        while let Some(Made::Token { id, logprobs }) = next {
            gathered.push(id, logprobs);
            let is_full = gathered.len() >= FRAME_TOKENS_MAX;
            let more = self.generation.as_mut().filter(|_| !is_full);
            next = more.and_then(Generation::try_next);
        }
        if let Some((ids, logprobs)) = gathered.take() {
            let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            let now = self.provider.now();
            self.pace.first.get_or_insert((now, tokens));
            self.tell(AnsweringEvent::Made { ids, logprobs });
        }
        let event = match next {
            Some(Made::Ended(reason)) => AnsweringEvent::MadeAll(stop_reason(&reason)),
            Some(Made::Started { waiting }) => AnsweringEvent::Taken { waiting },
            Some(Made::Prompt {
                tokens_read: tokens,
                cached,
            }) => {
                self.pace.cached_tokens = cached;
                AnsweringEvent::Read { tokens }
            }
            // Nothing, or what a payer need not hear.
            _ => return,
        };
        self.tell(event);
    }

    fn admit(&mut self, payment: CheckedPayment, chain: ChainId, quote: Quote, needs: Vec<Amount>) {
        let Some(sales) = &self.provider.parts().sales else {
            return;
        };
        let desk = sales.desk.clone();
        self.errand = Some(Box::pin(async move {
            Ok(Done::Admitted(
                admit(desk, payment, chain, quote, &needs).await?,
            ))
        }));
    }

    fn refund(&mut self, payment: CheckedPayment, chain: ChainId) {
        let Some(sales) = &self.provider.parts().sales else {
            return;
        };
        let desk = sales.desk.clone();
        self.errand = Some(Box::pin(async move {
            // A refund promises nothing.
            let quote = Quote {
                ceiling: Amount::ZERO,
                need: Amount::ZERO,
                least_deposit: Amount::ZERO,
            };
            Ok(Done::Refunded(
                match desk.pay(chain, payment, quote).await? {
                    Admission::Refunded(statement) => Ok(statement),
                    Admission::Refused(refusal) => Err(refusal),
                    Admission::Admitted(_) => unreachable!("a refund admits no work"),
                },
            ))
        }));
    }

    /// Signs a receipt, and has the oldest parts charged. The sale is kept with the last charge.
    fn charge(&mut self, receipt: Receipt, amounts: Vec<Amount>, asset: Option<AssetId>) {
        if receipt.stop != StopReason::Unfinished {
            self.generation = None;
            self.note_pace(receipt.output_tokens);
        }
        let signature = sign(&self.provider.parts().session, receipt.digest());
        let receipt = SignedReceipt { receipt, signature };
        let number = *self.sale.get_or_insert_with(|| self.provider.begin_sale());
        let mut sale = asset
            .zip(self.served.as_ref())
            .map(|(asset, served)| StoredSale {
                receipt: receipt.clone(),
                asset,
                model: served.name.clone(),
                device: self.device,
            });
        let parts = self.tickets.drain(..amounts.len().min(self.tickets.len()));
        let parts: Vec<_> = parts.zip(amounts).collect();
        self.errand = Some(Box::pin(async move {
            let last = parts.len().saturating_sub(1);
            let mut statement = None;
            for (index, (ticket, amount)) in parts.into_iter().enumerate() {
                let kept = sale.take_if(|_| index == last);
                let kept = kept.map(|sale| keep(number, sale));
                statement = Some(ticket.charge(amount, kept).await?.statement);
            }
            Ok(Done::Charged(Box::new(receipt), statement))
        }));
    }

    fn done(&mut self, done: Done) {
        self.errand = None;
        let refused = |refusal: Refusal| PaymentRefusal {
            code: refusal.code,
            correction: refusal.correction,
        };
        let event = match done {
            Done::Admitted(outcome) => AnsweringEvent::Admitted(match outcome {
                Ok(tickets) => {
                    self.tickets.extend(tickets);
                    Ok(())
                }
                Err(refusal) => Err(refused(refusal)),
            }),
            Done::Charged(receipt, statement) => AnsweringEvent::Charged { receipt, statement },
            Done::Refunded(outcome) => AnsweringEvent::Refunded(outcome.map_err(refused)),
        };
        self.tell(event);
    }

    /// Takes in how fast this answer was.
    fn note_pace(&self, output_tokens: u32) {
        let (Some(served), Some((first_at, tokens))) = (&self.served, self.pace.first) else {
            return;
        };
        let prompt_tokens = u32::try_from(self.pace.prompt_tokens).unwrap_or(u32::MAX);
        // What was read before takes no time, and says nothing of the next prompt.
        let read = prompt_tokens.saturating_sub(self.pace.cached_tokens);
        let pace = &served.pace;
        pace.note_prompt(read, first_at.ms_since(self.pace.submitted_at));
        let rest = output_tokens.saturating_sub(tokens);
        pace.note_output(rest, self.provider.now().ms_since(first_at));
    }

    async fn end(mut self, end: StreamEnd) -> Result<(), Ended> {
        if end != StreamEnd::Finished {
            return Err(end.into());
        }
        // Others may have their places, however long this payer takes.
        self.generation = None;
        self.tickets.clear();
        self.sender.finish();
        // The last frame is worth nothing to a payer that does not get it.
        Ok(self.sender.taken().await?)
    }
}

/// As whom a device waits and takes its turn in the engine.
fn asker(device: &DeviceId, is_household: bool, incoming: &IncomingAnswer) -> Asker {
    let name = asker_number(&device.0);
    if is_household {
        return Asker::Household { name };
    }
    let site = asker_number(format!("{:?}", incoming.origin.site()).as_bytes());
    Asker::Stranger { site, device: name }
}

/// Has the parts of a promise admitted, together or not at all: the voucher that came with them
/// starts them all, whatever becomes known of it meanwhile. The deposit goes with the first.
async fn admit(
    desk: Desk,
    payment: CheckedPayment,
    chain: ChainId,
    quote: Quote,
    needs: &[Amount],
) -> Result<Result<Vec<Ticket>, Refusal>, DeskStopped> {
    let mut ticket = match desk.pay(chain, payment, quote).await? {
        Admission::Admitted(ticket) => ticket,
        Admission::Refused(refusal) => return Ok(Err(refusal)),
        Admission::Refunded(_) => unreachable!("a promise is not a refund"),
    };
    let mut rest = quote.need;
    let mut tickets = Vec::new();
    for need in &needs[..needs.len().saturating_sub(1)] {
        rest = rest.saturating_sub(*need);
        let further = ticket.split(rest)?;
        tickets.push(std::mem::replace(&mut ticket, further));
    }
    tickets.push(ticket);
    Ok(Ok(tickets))
}

/// Keeps a sale together with its charge.
fn keep(number: SaleNumber, sale: StoredSale) -> Alongside {
    Box::new(move |_| {
        let mut batch = Batch::default();
        batch.put(SALES, &sale.key(number), &sale)?;
        Ok(batch)
    })
}

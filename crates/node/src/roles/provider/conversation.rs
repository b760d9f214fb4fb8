//! One stream with a payer, from the question to the last receipt.

use std::future::pending;
use std::time::Duration;

use hearth_models::asker::Asker;
use hearth_models::engine::{Event as Made, Generation};
use hearth_net::{FrameReceiver, FrameSender, IncomingAnswer, Origin, RecvError, SendError};
use hearth_payments::desk::DeskStopped;
use hearth_payments::signing::sign;
use hearth_protocol::answer::frame::{FRAME_TOKENS_MAX, RefusalCode};
use hearth_protocol::answer::{
    AnswerRequest, PayerFrame, ProviderFrame, Receipt, Refusal, SignedReceipt, Spec, StopReason,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChannelId;
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{Audience, DeviceId};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::ErrorCode;
use hearth_surface::answers::Openness;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval_at, sleep_until, timeout};

use super::till::{self, Admitting, Outcome, Promised, Refunding, Tab};

use super::{Provider, refusal};
use crate::roles::causes;
use crate::roles::served::{Gathered, Served, asker_number, stop_reason};

/// How long a payer may take to ask, and to promise more once nothing is covered any more.
const PAYER_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a payer hears, before the first token, that its question is worked on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// Promises that are corrected for one answer at most.
const CORRECTIONS_MAX: usize = 3;

/// Why a conversation ended before its last receipt was sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum Ended {
    /// The payer sent what is no frame, or went away.
    #[error("nothing more could be received: {0}")]
    Received(#[from] RecvError),
    /// The payer takes nothing more.
    #[error("nothing more could be sent: {0}")]
    Sent(#[from] SendError),
    /// The payer said nothing.
    #[error("the payer said nothing in time")]
    Silent,
    /// The payer spoke out of turn.
    #[error("the payer spoke out of turn")]
    OutOfTurn,
    /// The payer ended before it asked.
    #[error("the payer went away")]
    Gone,
    /// The desk stopped.
    #[error(transparent)]
    Desk(#[from] DeskStopped),
}

/// Why no answer is given: it is said, or there is nobody to say it to.
enum Unanswered {
    Refused(Refusal),
    Ended(Ended),
}

impl<E: Into<Ended>> From<E> for Unanswered {
    fn from(error: E) -> Self {
        Self::Ended(error.into())
    }
}

/// One stream with a payer.
pub(super) struct Conversation<'a> {
    provider: &'a Provider,
    device: DeviceId,
    origin: Origin,
    sender: FrameSender<ProviderFrame>,
    receiver: FrameReceiver<PayerFrame>,
    /// The payer may still say something.
    listening: bool,
}

/// An answer in the making.
struct Work<'a> {
    request: AnswerRequest,
    served: &'a Served,
    spec: ContentHash,
    started_at: Timestamp,
    /// Tokens that the engine has read.
    read_tokens: u32,
    /// Those of them that it had read before, for another answer.
    cached_tokens: u32,
    delivered: Vec<u32>,
    /// When the first tokens were sent, and how many they were.
    first: Option<(Timestamp, u32)>,
    tab: Option<Tab<'a>>,
}

/// What is waited for while an answer is made.
struct Waits {
    open: watch::Receiver<Openness>,
    /// When a payer that owes a promise is left.
    unpaid_at: Option<Instant>,
    /// When the payer is told again that its question is worked on.
    working: Interval,
    /// A promise that is being admitted, which may take as long as its deposit.
    admitting: Option<Admitting>,
    /// A promise that came meanwhile.
    next_payment: Option<Vec<u8>>,
}

/// What happened next.
enum Next {
    Made(Option<Made>),
    Said(Result<Option<PayerFrame>, RecvError>),
    Admitted(Result<Outcome, DeskStopped>),
    Unpaid,
    Closed,
    Quiet,
}

impl<'a> Conversation<'a> {
    /// Holds one conversation, to its end.
    pub(super) async fn hold(
        provider: &'a Provider,
        incoming: IncomingAnswer,
    ) -> Result<(), Ended> {
        let device = incoming.device;
        let (sender, receiver) = incoming.stream.split();
        let mut conversation = Self {
            provider,
            device,
            origin: incoming.origin,
            sender,
            receiver,
            listening: true,
        };
        let first = timeout(PAYER_TIME_MAX, conversation.receiver.recv()).await;
        let first = first.map_err(|_| Ended::Silent)??;
        let outcome = match first {
            Some(PayerFrame::Ask { request, payment }) => match conversation.find(&request) {
                Ok((served, spec)) => conversation.answer(*request, &served, spec, payment).await,
                Err(refusal) => Err(Unanswered::Refused(refusal)),
            },
            Some(PayerFrame::Refund(payment)) => conversation.refund(payment).await,
            _ => return Err(Ended::OutOfTurn),
        };
        match outcome {
            Ok(()) => {}
            Err(Unanswered::Ended(ended)) => return Err(ended),
            Err(Unanswered::Refused(refusal)) => {
                let frame = ProviderFrame::Refused(refusal);
                conversation.sender.send(&frame).await?;
            }
        }
        conversation.sender.finish();
        // The last frame is worth nothing to a payer that does not get it.
        Ok(conversation.sender.taken().await?)
    }

    /// The model that the question is for, and the spec that it is answered with.
    fn find(&self, request: &AnswerRequest) -> Result<(Served, ContentHash), Refusal> {
        request.check().map_err(causes::request_refusal)?;
        let is_household = (self.provider.parts().is_household)(&self.device);
        let open = *self.provider.opened().borrow();
        if !open.admits(is_household) {
            let message = match open {
                Openness::Nobody => "the owner shares this device with nobody",
                _ => "the owner keeps this device to the household now",
            };
            return Err(refusal(RefusalCode::NotNow, None, None, message));
        }
        let served = self.provider.find(&request.weights).ok_or_else(|| {
            let message = "the model is not served here";
            refusal(RefusalCode::ModelNotServed, None, None, message)
        })?;
        if served.audience == Audience::Household && !is_household {
            let message = "the model answers its own household only";
            return Err(refusal(RefusalCode::ModelNotServed, None, None, message));
        }
        let spec = Spec {
            sampling: request.sampling.clone(),
            serving: served.serving.clone(),
        }
        .hash();
        if spec != request.spec {
            let message = "the model is served with another spec: take the newest offer";
            return Err(refusal(RefusalCode::SpecDiffers, None, None, message));
        }
        Ok((served, spec))
    }

    async fn answer<'w>(
        &mut self,
        request: AnswerRequest,
        served: &'w Served,
        spec: ContentHash,
        payment: Option<Vec<u8>>,
    ) -> Result<(), Unanswered>
    where
        'a: 'w,
    {
        let tab = self.open_tab(&request, served, payment).await?;
        let allowance = tab
            .as_ref()
            .map_or(request.output_tokens_max, Tab::covered_tokens);
        let job = served.job(&request, self.asker(), allowance);
        let generation = served.engine.submit(job).await;
        let generation =
            generation.map_err(|error| Unanswered::Refused(causes::to_refusal(&error)))?;
        let mut work = Work {
            request,
            served,
            spec,
            started_at: self.provider.now(),
            read_tokens: 0,
            cached_tokens: 0,
            delivered: Vec::new(),
            first: None,
            tab,
        };
        match self.generate(&mut work, generation).await {
            Ok(stop) => {
                work.note_pace(self.provider.now());
                let frame = self.settle(&mut work, stop).await?;
                Ok(self.sender.send(&frame).await?)
            }
            Err(ended) => {
                // What was sent is owed, whether or not the payer waits for the receipt.
                self.settle(&mut work, StopReason::Cancelled).await?;
                Err(ended.into())
            }
        }
    }

    /// As whom the device waits and takes its turn in the engine.
    fn asker(&self) -> Asker {
        let device = asker_number(&self.device.0);
        if (self.provider.parts().is_household)(&self.device) {
            return Asker::Household { name: device };
        }
        let site = asker_number(format!("{:?}", self.origin.site()).as_bytes());
        Asker::Stranger { site, device }
    }

    /// Returns what is left in a channel, whoever may use the device now: it is the payer's.
    async fn refund(&mut self, mut payment: Vec<u8>) -> Result<(), Unanswered> {
        let refused = |message: &str| {
            Unanswered::Refused(refusal(RefusalCode::PaymentRefused, None, None, message))
        };
        let sales = self.provider.parts().sales.as_ref();
        let sales = sales.ok_or_else(|| refused("no chain can be reached here now"))?;
        for _ in 0..CORRECTIONS_MAX {
            match till::refund(sales, &payment, self.provider.now()).await? {
                Refunding::Settled(settlement) => {
                    let frame = ProviderFrame::Refunded(settlement);
                    return Ok(self.sender.send(&frame).await?);
                }
                Refunding::Refused(code) => return Err(refused(code.message())),
                Refunding::Corrected(correction) => {
                    let frame = ProviderFrame::PaymentRequired(correction);
                    self.sender.send(&frame).await?;
                }
            }
            payment = match self.next_frame().await? {
                PayerFrame::Refund(payment) => payment,
                _ => return Err(Ended::OutOfTurn.into()),
            };
        }
        Err(refused("the refund had to be corrected too often"))
    }

    /// Takes the first promise, if the answer is to be paid.
    async fn open_tab<'w>(
        &mut self,
        request: &AnswerRequest,
        served: &'w Served,
        mut payment: Option<Vec<u8>>,
    ) -> Result<Option<Tab<'w>>, Unanswered>
    where
        'a: 'w,
    {
        let provider = self.provider;
        let parts = provider.parts();
        if served.prices.is_empty() || (parts.is_household)(&self.device) {
            return Ok(None);
        }
        let refused = |message: &str| {
            Unanswered::Refused(refusal(RefusalCode::PaymentRefused, None, None, message))
        };
        let sales = parts.sales.as_ref();
        let sales = sales.ok_or_else(|| refused("no payments can be taken here now"))?;
        let prompt_tokens = count(request.ids.len());
        let mut tab = Tab::new(
            sales,
            &served.prices,
            (prompt_tokens, request.output_tokens_max),
            provider.begin_sale(),
        );
        for _ in 0..CORRECTIONS_MAX {
            let correction = match payment.take() {
                None => tab.ask(ErrorCode::InvalidRequirements),
                Some(payment) => match promise(&mut tab, &payment, provider.now()).await? {
                    Promised::Until(_) => return Ok(Some(tab)),
                    Promised::Refused(message) => return Err(refused(&message)),
                    Promised::Corrected(correction) => correction,
                },
            };
            let frame = ProviderFrame::PaymentRequired(correction);
            self.sender.send(&frame).await?;
            payment = Some(self.next_payment().await?);
        }
        Err(refused("the promise had to be corrected too often"))
    }

    async fn next_payment(&mut self) -> Result<Vec<u8>, Ended> {
        match self.next_frame().await? {
            PayerFrame::Pay(payment) => Ok(payment),
            _ => Err(Ended::OutOfTurn),
        }
    }

    /// What the payer says next, where it has to say something.
    async fn next_frame(&mut self) -> Result<PayerFrame, Ended> {
        let said = timeout(PAYER_TIME_MAX, self.receiver.recv()).await;
        match said.map_err(|_| Ended::Silent)?? {
            Some(PayerFrame::Cancel) | None => Err(Ended::Gone),
            Some(frame) => Ok(frame),
        }
    }

    /// Generates and sends, until the answer ends.
    async fn generate(
        &mut self,
        work: &mut Work<'_>,
        mut generation: Generation,
    ) -> Result<StopReason, Ended> {
        let mut waits = Waits {
            open: self.provider.opened(),
            unpaid_at: None,
            working: interval_at(Instant::now() + WORKING_EVERY, WORKING_EVERY),
            admitting: None,
            next_payment: None,
        };
        let mut pending = None;
        loop {
            if waits.admitting.is_none() {
                self.charge_part(work).await?;
            }
            let unpaid_at = waits.unpaid_at.take();
            waits.unpaid_at = work
                .is_parked()
                .then(|| unpaid_at.unwrap_or_else(|| Instant::now() + PAYER_TIME_MAX));
            let next = match pending.take() {
                Some(made) => Next::Made(Some(made)),
                None => self.next(work, &mut generation, &mut waits).await,
            };
            let stop = match next {
                Next::Made(made) => {
                    let Some(made) = made else {
                        return Ok(StopReason::Failed);
                    };
                    pending = self.made(work, &mut generation, made).await?;
                    match &pending {
                        Some(Made::Ended(reason)) => Some(stop_reason(reason)),
                        _ => None,
                    }
                }
                Next::Said(said) => self.said(work, &mut waits, said?)?,
                Next::Admitted(outcome) => {
                    waits.admitting = None;
                    self.admitted(work, &generation, outcome?).await?
                }
                Next::Unpaid => Some(StopReason::Unpaid),
                Next::Closed => Some(StopReason::Failed),
                Next::Quiet => {
                    self.say_working(work.read_tokens).await?;
                    None
                }
            };
            let stop = match stop {
                None => self.admit_next(work, &mut waits).await?,
                stop => stop,
            };
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    async fn next(
        &mut self,
        work: &Work<'_>,
        generation: &mut Generation,
        waits: &mut Waits,
    ) -> Next {
        let unpaid = async {
            match waits.unpaid_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let is_household = (self.provider.parts().is_household)(&self.device);
        let closed = async {
            // Where the sender is gone the node stops, and the task with it.
            let may_not = |open: &Openness| !open.admits(is_household);
            if waits.open.wait_for(may_not).await.is_err() {
                pending::<()>().await;
            }
        };
        // Time that a deposit takes is not the payer's.
        let admits = waits.admitting.is_some();
        let admitted = async {
            match &mut waits.admitting {
                Some(admitting) => admitting.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            said = self.receiver.recv(), if self.listening => Next::Said(said),
            () = closed => Next::Closed,
            outcome = admitted => Next::Admitted(outcome),
            made = generation.next() => Next::Made(made),
            () = unpaid, if !admits => Next::Unpaid,
            _ = waits.working.tick(), if work.delivered.is_empty() => Next::Quiet,
        }
    }

    async fn say_working(&mut self, prompt_tokens: u32) -> Result<(), Ended> {
        let frame = ProviderFrame::Working { prompt_tokens };
        Ok(self.sender.send(&frame).await?)
    }

    /// Tells what the engine made, and everything more that is there already. Returns what came
    /// after the tokens, to be looked at next.
    async fn made(
        &mut self,
        work: &mut Work<'_>,
        generation: &mut Generation,
        made: Made,
    ) -> Result<Option<Made>, Ended> {
        let mut gathered = Gathered::default();
        let mut next = Some(made);
        while let Some(made) = next.take() {
            match made {
                Made::Token { id, logprobs } => {
                    gathered.push(id, logprobs);
                    if gathered.len() < FRAME_TOKENS_MAX {
                        next = generation.try_next();
                    }
                }
                Made::Started { waiting } if gathered.len() == 0 => {
                    let frame = ProviderFrame::Accepted { waiting };
                    self.sender.send(&frame).await?;
                }
                Made::Prompt {
                    tokens_read,
                    cached,
                } if gathered.len() == 0 => {
                    work.read_tokens = tokens_read;
                    work.cached_tokens = cached;
                    self.say_working(tokens_read).await?;
                }
                other => {
                    next = Some(other);
                    break;
                }
            }
        }
        let first = work
            .request
            .answered_tokens
            .saturating_add(count(work.delivered.len()));
        if let Some(tokens) = gathered.take(first) {
            let ids = tokens.ids.clone();
            self.sender.send(&ProviderFrame::Tokens(tokens)).await?;
            work.deliver(&ids, self.provider.now());
        }
        Ok(next)
    }

    /// Takes what the payer says in the middle of an answer.
    fn said(
        &mut self,
        work: &Work<'_>,
        waits: &mut Waits,
        said: Option<PayerFrame>,
    ) -> Result<Option<StopReason>, Ended> {
        match said {
            None => {
                self.listening = false;
                Ok(None)
            }
            Some(PayerFrame::Cancel) => Ok(Some(StopReason::Cancelled)),
            Some(PayerFrame::Ask { .. } | PayerFrame::Refund(_)) => Err(Ended::OutOfTurn),
            // A promise is for one part, of which two are ahead at most.
            Some(PayerFrame::Pay(_)) if work.tab.is_none() || waits.next_payment.is_some() => {
                Err(Ended::OutOfTurn)
            }
            Some(PayerFrame::Pay(payment)) => {
                waits.next_payment = Some(payment);
                Ok(None)
            }
        }
    }

    /// Begins to have the next promise admitted, once none is.
    async fn admit_next(
        &mut self,
        work: &Work<'_>,
        waits: &mut Waits,
    ) -> Result<Option<StopReason>, Ended> {
        if waits.admitting.is_some() {
            return Ok(None);
        }
        let (Some(payment), Some(tab)) = (waits.next_payment.take(), &work.tab) else {
            return Ok(None);
        };
        match tab.promise(&payment, self.provider.now()) {
            Ok(admitting) => {
                waits.admitting = Some(admitting);
                Ok(None)
            }
            Err(promised) => self.answer_promise(promised).await,
        }
    }

    /// Lets the answer go on as far as the newest promise reaches.
    async fn admitted(
        &mut self,
        work: &mut Work<'_>,
        generation: &Generation,
        outcome: Outcome,
    ) -> Result<Option<StopReason>, Ended> {
        let Some(tab) = &mut work.tab else {
            return Ok(None);
        };
        match tab.admitted(outcome) {
            Promised::Until(tokens) => {
                generation.allow(tokens);
                Ok(None)
            }
            promised => self.answer_promise(promised).await,
        }
    }

    /// Says what is wrong with a promise, where it can be made otherwise.
    async fn answer_promise(&mut self, promised: Promised) -> Result<Option<StopReason>, Ended> {
        match promised {
            Promised::Until(_) => Ok(None),
            Promised::Refused(_) => Ok(Some(StopReason::Unpaid)),
            Promised::Corrected(correction) => {
                let frame = ProviderFrame::PaymentRequired(correction);
                self.sender.send(&frame).await?;
                Ok(None)
            }
        }
    }

    /// Charges the oldest part if it is used up, and says so.
    async fn charge_part(&mut self, work: &mut Work<'_>) -> Result<(), Ended> {
        let Some(mut tab) = work.tab.take() else {
            return Ok(());
        };
        let sign = |sum, channel| self.receipt(work, StopReason::Unfinished, sum, channel);
        let charged = tab.charge_part(sign, &work.served.name, self.device).await;
        work.tab = Some(tab);
        if let Some((receipt, charge)) = charged? {
            let frame = ProviderFrame::Charged {
                receipt: Box::new(receipt),
                settlement: charge.settlement,
            };
            self.sender.send(&frame).await?;
        }
        Ok(())
    }

    /// Charges the rest, durably, and makes the last frame.
    async fn settle(
        &mut self,
        work: &mut Work<'_>,
        stop: StopReason,
    ) -> Result<ProviderFrame, Ended> {
        let tab = work.tab.take();
        let (sum, channel) = tab.as_ref().map_or_else(
            || (Amount::ZERO, ChannelId(alloy_primitives::B256::ZERO)),
            |tab| (tab.charged().saturating_add(tab.owed()), tab.channel()),
        );
        let receipt = self.receipt(work, stop, sum, channel);
        let charge = match tab {
            Some(mut tab) => {
                tab.charge_rest(&receipt, &work.served.name, self.device)
                    .await?
            }
            None => None,
        };
        Ok(ProviderFrame::Charged {
            receipt: Box::new(receipt),
            settlement: charge.map(|charge| charge.settlement).unwrap_or_default(),
        })
    }

    /// What was done and charged so far, signed.
    fn receipt(
        &self,
        work: &Work<'_>,
        stop: StopReason,
        charge: Amount,
        channel: ChannelId,
    ) -> SignedReceipt {
        let request = &work.request;
        let receipt = Receipt {
            answer: request.id,
            spec: work.spec,
            noise_spec: request.noise_spec,
            seed: request.seed,
            prompt: ContentHash::of_ids(&request.ids),
            output: ContentHash::of_ids(&work.delivered),
            prompt_tokens: count(request.ids.len()),
            answered_tokens: request.answered_tokens,
            output_tokens: count(work.delivered.len()),
            stop,
            channel,
            charge,
            started_at: work.started_at,
            ended_at: self.provider.now(),
        };
        let signature = sign(&self.provider.parts().session, receipt.digest());
        SignedReceipt { receipt, signature }
    }
}

impl Work<'_> {
    fn deliver(&mut self, ids: &[u32], now: Timestamp) {
        self.first.get_or_insert((now, count(ids.len())));
        self.delivered.extend_from_slice(ids);
        if let Some(tab) = &mut self.tab {
            tab.deliver(count(ids.len()));
        }
    }

    /// Takes in how fast this answer was: what the next offer says.
    fn note_pace(&self, now: Timestamp) {
        let Some((first_at, tokens)) = self.first else {
            return;
        };
        let pace = &self.served.pace;
        // What was read before takes no time, and says nothing of the next prompt.
        let read = count(self.request.ids.len()).saturating_sub(self.cached_tokens);
        pace.note_prompt(read, first_at.ms_since(self.started_at));
        let rest = count(self.delivered.len()).saturating_sub(tokens);
        pace.note_output(rest, now.ms_since(first_at));
    }

    /// Whether nothing more may be generated until more is promised.
    fn is_parked(&self) -> bool {
        let covered = self.tab.as_ref().map(Tab::covered_tokens);
        covered.is_some_and(|covered| {
            covered <= count(self.delivered.len()) && covered < self.request.output_tokens_max
        })
    }
}

/// Has a promise admitted before anything is worked on.
async fn promise(
    tab: &mut Tab<'_>,
    payment: &[u8],
    now: Timestamp,
) -> Result<Promised, DeskStopped> {
    match tab.promise(payment, now) {
        Ok(admitting) => Ok(tab.admitted(admitting.await?)),
        Err(promised) => Ok(promised),
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

//! Performs what the sender's machine decides: asks the chain, signs, writes the journal, broadcasts, answers callers.
//!
//! No decision about nonces or fees is made here. A journal that cannot be written ends the task, because nothing may
//! be broadcast that is not recorded.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, TxKind};
use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    DynSigner, Inbox, Request, SendError,
    fees::FeeMarket,
    intent::{Attempt, IntentId, Receipt, TxIntent},
    journal::{Journal, JournalEntry, JournalError, JournalKey},
    machine::{
        Effect, Event, Finished, NotSent, Outcome, Plan, Refusal, SenderConfig, SenderMachine,
        Snapshot, Warning,
    },
};
use crate::client::{BlockAt, ChainClient, ChainError, ErrorKind, TxRequest};

/// The most steps back when looking for the block in which a nonce was used: they double, so this covers any height.
const MAX_LOOKBACK_STEPS: u32 = 64;

/// Requests that are served before the chain is looked at again.
const MAX_REQUESTS_A_LOOK: usize = 64;

/// The task ended because its journal failed. Nothing was broadcast that is not in the journal.
#[derive(Debug, thiserror::Error)]
#[error("the sender stopped, because it can no longer record what it sends")]
pub struct SenderStopped(#[from] JournalError);

impl Inbox {
    /// The next request, those that go first before others; nothing once nobody can ask any more.
    async fn recv(&mut self) -> Option<Request> {
        tokio::select! {
            biased;
            Some(request) = self.first.recv() => Some(request),
            Some(request) = self.requests.recv() => Some(request),
            else => None,
        }
    }

    fn try_recv(&mut self) -> Option<Request> {
        let first = self.first.try_recv().ok();
        first.or_else(|| self.requests.try_recv().ok())
    }
}

type Reply = oneshot::Sender<Result<Receipt, SendError>>;

/// The owner of one account's nonces on one chain.
#[derive(Debug)]
pub struct SenderTask {
    client: ChainClient,
    signer: DynSignerDebug,
    journal: Arc<dyn Journal>,
    key: JournalKey,
    config: SenderConfig,
    inbox: Inbox,
    machine: SenderMachine,
    waiting: BTreeMap<IntentId, Vec<Reply>>,
}

/// A signer that shows nothing of itself.
struct DynSignerDebug(DynSigner);

impl std::fmt::Debug for DynSignerDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TxSigner")
    }
}

impl SenderTask {
    pub(super) fn new(
        client: ChainClient,
        signer: DynSigner,
        journal: Arc<dyn Journal>,
        key: JournalKey,
        config: SenderConfig,
        inbox: Inbox,
    ) -> Result<Self, JournalError> {
        let now_ms = client.environment().now_ms();
        let machine = SenderMachine::restore(key.account, config, journal.load(key)?, now_ms);
        let signer = DynSignerDebug(signer);
        Ok(Self {
            client,
            signer,
            journal,
            key,
            config,
            inbox,
            machine,
            waiting: BTreeMap::new(),
        })
    }

    /// Runs until every handle is dropped and nothing is under way any more that could be brought to an end without
    /// them; in practice until the caller aborts it.
    ///
    /// # Errors
    /// [`SenderStopped`] if the journal fails.
    pub fn run(self) -> BoxFuture<'static, Result<(), SenderStopped>> {
        Box::pin(self.work())
    }

    async fn work(mut self) -> Result<(), SenderStopped> {
        let environment = Arc::clone(self.client.environment());
        loop {
            if self.machine.has_work() {
                self.look().await?;
            }
            let pause = environment.sleep(Duration::from_millis(self.config.poll_interval_ms));
            tokio::select! {
                request = self.inbox.recv() => match request {
                    Some(request) => self.serve_all(request).await?,
                    None if !self.machine.has_work() => return Ok(()),
                    // Nobody can ask any more, but what is under way is brought to an end.
                    None => environment.sleep(Duration::from_millis(self.config.poll_interval_ms)).await,
                },
                () = pause, if self.machine.has_work() => {}
            }
        }
    }

    /// Serves a request and those that wait behind it, so that one look at the chain does for all.
    async fn serve_all(&mut self, request: Request) -> Result<(), SenderStopped> {
        self.serve(request).await?;
        for _ in 1..MAX_REQUESTS_A_LOOK {
            let Some(request) = self.inbox.try_recv() else {
                break;
            };
            self.serve(request).await?;
        }
        Ok(())
    }

    async fn serve(&mut self, request: Request) -> Result<(), SenderStopped> {
        match request {
            Request::Submit(id, intent, lane, reply) => {
                let recorded = self.recorded(&id).await?;
                let finished = recorded.and_then(|entry| {
                    entry.outcome.map(|receipt| Finished {
                        intent: entry.intent,
                        receipt,
                    })
                });
                self.waiting.entry(id.clone()).or_default().push(reply);
                self.feed(Event::Submit(id, intent, lane, finished.map(Box::new)))
                    .await
            }
            Request::Forget(id, reply) => {
                let under_way = self
                    .recorded(&id)
                    .await?
                    .is_some_and(|entry| entry.outcome.is_none());
                let outcome = if under_way {
                    Err(SendError::NameTaken(id))
                } else {
                    self.write(Write::Forget(id)).await?;
                    Ok(())
                };
                // A caller that no longer waits is none of our business.
                let _gone = reply.send(outcome);
                Ok(())
            }
        }
    }

    /// Looks at the chain; a failure is said and the next look tries again.
    async fn look(&mut self) -> Result<(), SenderStopped> {
        match self.snapshot().await {
            Ok(snapshot) => self.feed(Event::Observed(snapshot)).await,
            Err(error) if error.kind() == ErrorKind::WrongChain => {
                self.feed(Event::Unusable(error.to_string())).await
            }
            Err(error) => {
                tracing::warn!(chain = %self.key.chain, error = %error.with_causes(), "the chain could not be looked at; trying again");
                Ok(())
            }
        }
    }

    /// Gives the machine an event and performs what it wants, until it wants nothing more.
    async fn feed(&mut self, event: Event) -> Result<(), SenderStopped> {
        let mut effects = VecDeque::new();
        self.decide(event, &mut effects);
        while let Some(effect) = effects.pop_front() {
            if let Some(event) = self.perform(effect).await? {
                self.decide(event, &mut effects);
            }
        }
        Ok(())
    }

    fn decide(&mut self, event: Event, effects: &mut VecDeque<Effect>) {
        let mut wanted = Vec::new();
        self.machine
            .handle(self.client.environment().now_ms(), event, &mut wanted);
        effects.extend(wanted);
    }

    async fn perform(&mut self, effect: Effect) -> Result<Option<Event>, SenderStopped> {
        Ok(match effect {
            Effect::Estimate(id, intent) => Some(self.estimate(id, &intent).await),
            Effect::Sign(plan) => Some(self.sign(plan).await),
            Effect::Record(entry) => {
                self.write(Write::Record(Box::new(entry))).await?;
                None
            }
            Effect::Forget(id) => {
                self.write(Write::Forget(id)).await?;
                None
            }
            Effect::Broadcast(attempt) => self.broadcast(&attempt).await,
            Effect::FindNonceUser(nonce) => Some(self.find_nonce_user(nonce).await),
            Effect::Finish(id, outcome) => {
                self.finish(id, outcome).await;
                None
            }
            Effect::Warn(warning) => {
                self.warn(&warning);
                None
            }
        })
    }

    async fn estimate(&self, id: IntentId, intent: &TxIntent) -> Event {
        match self.client.estimate_gas(&self.request(intent)).await {
            Ok(gas) => Event::Estimated(id, gas),
            Err(ChainError::Reverted { revert, .. }) => {
                Event::Impossible(id, NotSent::Refused(revert.to_string()))
            }
            // Not what the call says: an account without coin for gas, or an endpoint that does not estimate.
            Err(ChainError::Refused { message, .. }) => {
                Event::Impossible(id, NotSent::Unusable(message))
            }
            Err(error) => {
                tracing::warn!(intent = %id, error = %error.with_causes(), "gas could not be estimated; trying again");
                Event::NotEstimated(id)
            }
        }
    }

    fn request(&self, intent: &TxIntent) -> TxRequest {
        TxRequest {
            from: Some(self.key.account),
            to: Some(intent.to),
            data: intent.data.clone(),
            value: intent.value,
        }
    }

    async fn sign(&self, plan: Plan) -> Event {
        let mut transaction = TxEip1559 {
            chain_id: self.key.chain.0,
            nonce: plan.nonce,
            gas_limit: plan.gas_limit,
            max_fee_per_gas: plan.fees.max_fee_per_gas,
            max_priority_fee_per_gas: plan.fees.max_priority_fee_per_gas,
            to: TxKind::Call(plan.to),
            value: plan.value,
            access_list: Default::default(),
            input: plan.data,
        };
        match self.signer.0.sign_transaction(&mut transaction).await {
            Ok(signature) => {
                let signed = transaction.into_signed(signature);
                let attempt = Attempt {
                    hash: *signed.hash(),
                    raw: signed.encoded_2718().into(),
                    fees: plan.fees,
                };
                Event::Signed(plan.nonce, attempt)
            }
            Err(error) => Event::NotSigned(plan.nonce, error.to_string()),
        }
    }

    async fn broadcast(&self, attempt: &Attempt) -> Option<Event> {
        match self.client.send_raw(&attempt.raw).await {
            Ok(_) => None,
            Err(ChainError::Refused { message, .. }) => {
                Some(Event::NotTaken(attempt.hash, refusal(message)))
            }
            // It may or may not have arrived; the next look and the next broadcast find out.
            Err(error) => Some(Event::NotTaken(
                attempt.hash,
                Refusal::Other(error.to_string()),
            )),
        }
    }

    /// What the machine needs to know of the chain now.
    async fn snapshot(&self) -> Result<Snapshot, ChainError> {
        let head = self.client.head().await?;
        let account = self.key.account;
        let final_height = (head.number + 1).checked_sub(self.config.confirmations.max(1));
        let next_nonce = self
            .client
            .nonce(account, BlockAt::Number(head.number))
            .await?;
        let final_nonce = match final_height {
            Some(height) if height == head.number => next_nonce,
            Some(height) => self.client.nonce(account, BlockAt::Number(height)).await?,
            None => 0,
        };
        let market = FeeMarket {
            base_fee_per_gas: head.base_fee_per_gas.unwrap_or(0),
            gas_price: self.client.gas_price().await?,
            priority_fee_per_gas: self.client.priority_fee().await?,
        };
        let receipts = self.receipts().await?;
        Ok(Snapshot {
            head: head.number,
            next_nonce,
            final_nonce,
            market,
            receipts,
        })
    }

    /// Receipts of what is under way, from blocks that are part of the chain now.
    async fn receipts(&self) -> Result<BTreeMap<B256, Receipt>, ChainError> {
        let watched = self.machine.watched();
        let mut receipts = BTreeMap::new();
        for (hash, receipt) in watched.iter().zip(self.client.receipts(&watched).await?) {
            let Some(receipt) = receipt else { continue };
            let block = self
                .client
                .block(BlockAt::Number(receipt.block_number))
                .await?;
            if block.is_some_and(|block| block.hash == receipt.block_hash) {
                receipts.insert(*hash, Receipt::from(&receipt));
            }
        }
        Ok(receipts)
    }

    async fn find_nonce_user(&self, nonce: u64) -> Event {
        match self.nonce_user(nonce).await {
            Ok(user) => Event::NonceUser(nonce, user),
            Err(error) => {
                tracing::warn!(nonce, error = %error.with_causes(), "the block that used a nonce could not be found");
                Event::NonceUser(nonce, None)
            }
        }
    }

    /// Finds the block in which `nonce` was used (steps back that double, then halving), and reads it there.
    async fn nonce_user(&self, nonce: u64) -> Result<Option<B256>, ChainError> {
        let account = self.key.account;
        let head = self.client.head().await?.number;
        let Some(mut used) = (head + 1).checked_sub(self.config.confirmations.max(1)) else {
            return Ok(None);
        };
        let mut unused = None;
        for step in 0..MAX_LOOKBACK_STEPS {
            let height = used.saturating_sub(1_u64.checked_shl(step).unwrap_or(u64::MAX));
            if self.client.nonce(account, BlockAt::Number(height)).await? <= nonce {
                unused = Some(height);
                break;
            }
            used = height;
            if height == 0 {
                break;
            }
        }
        let Some(mut unused) = unused else {
            return Ok(None);
        };
        while used - unused > 1 {
            let middle = unused + (used - unused) / 2;
            if self.client.nonce(account, BlockAt::Number(middle)).await? > nonce {
                used = middle;
            } else {
                unused = middle;
            }
        }
        let transactions = self
            .client
            .block_transactions(BlockAt::Number(used))
            .await?
            .unwrap_or_default();
        let user = transactions
            .iter()
            .find(|tx| tx.from == account && tx.nonce == nonce);
        Ok(user.map(|tx| tx.hash))
    }

    async fn finish(&mut self, id: IntentId, outcome: Outcome) {
        let Some(replies) = self.waiting.remove(&id) else {
            return;
        };
        let result = match outcome {
            Outcome::Final(_, receipt) if receipt.success => Ok(receipt),
            Outcome::Final(intent, receipt) => {
                let reason = self.revert_reason(&intent, &receipt).await;
                Err(SendError::Reverted { receipt, reason })
            }
            Outcome::NotSent(reason) => Err(not_sent(id, reason)),
        };
        for reply in replies {
            // A caller that no longer waits is none of our business.
            let _gone = reply.send(result.clone());
        }
    }

    /// Runs a reverted transaction again on top of the block before its own. Transactions between may make that differ;
    /// it is the best that can be had without a tracing endpoint.
    async fn revert_reason(&self, intent: &TxIntent, receipt: &Receipt) -> String {
        let before = BlockAt::Number(receipt.block_number.saturating_sub(1));
        match self.client.simulate(&self.request(intent), before).await {
            Err(ChainError::Reverted { revert, .. }) => revert.to_string(),
            Ok(_) | Err(_) => "the reason could not be found out".to_owned(),
        }
    }

    async fn recorded(&self, id: &IntentId) -> Result<Option<JournalEntry>, SenderStopped> {
        let (journal, key, id) = (Arc::clone(&self.journal), self.key, id.clone());
        Ok(blocking(move || journal.find(key, &id)).await?)
    }

    async fn write(&self, write: Write) -> Result<(), SenderStopped> {
        let (journal, key) = (Arc::clone(&self.journal), self.key);
        blocking(move || match write {
            Write::Record(entry) => journal.record(key, &entry),
            Write::Forget(id) => journal.forget(key, &id),
        })
        .await?;
        Ok(())
    }

    fn warn(&self, warning: &Warning) {
        let (chain, account) = (self.key.chain, self.key.account);
        match warning {
            Warning::StaleHead { head, seen } => {
                tracing::warn!(%chain, %account, head, seen, "the endpoint is behind; its answer is not used");
            }
            Warning::Reorganised { nonce } => {
                tracing::warn!(%chain, %account, nonce, "the chain was reorganised; sending the transaction again");
            }
            Warning::NonceTakenByStranger { nonce, hash } => tracing::warn!(
                %chain, %account, nonce, %hash,
                "another program uses this key; give each program a key of its own"
            ),
            Warning::NonceUserUnknown { nonce } => {
                tracing::warn!(%chain, %account, nonce, "the endpoint does not show what used the nonce; waiting");
            }
            Warning::NotTaken { nonce, reason } => {
                tracing::warn!(%chain, %account, nonce, %reason, "the endpoint did not take the transaction; trying again");
            }
            Warning::FillingGap { nonce } => {
                tracing::warn!(%chain, %account, nonce, "nothing is known of the nonce below ours; filling the gap");
            }
            Warning::FeeAboveCap { base_fee_per_gas } => {
                tracing::warn!(%chain, %account, base_fee_per_gas, "gas costs more than the cap allows; waiting");
            }
        }
    }
}

/// One change of the journal.
enum Write {
    Record(Box<JournalEntry>),
    Forget(IntentId),
}

/// Runs journal work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is being shut down cancels blocking work, and it will not poll this again.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// What an endpoint's words about a transaction mean (geth, anvil, hardhat, Erigon, Nethermind and Besu differ).
fn refusal(message: String) -> Refusal {
    let words = message.to_ascii_lowercase();
    if words.contains("nonce too low")
        || words.contains("nonce is too low")
        || words.contains("old nonce")
    {
        return Refusal::NonceTooLow;
    }
    if words.contains("underpriced") || words.contains("fee too low to replace") {
        return Refusal::Underpriced;
    }
    Refusal::Other(message)
}

fn not_sent(id: IntentId, reason: NotSent) -> SendError {
    match reason {
        NotSent::DeadlinePassed => SendError::DeadlinePassed,
        NotSent::TooMuchGas(needed) => SendError::TooMuchGas { needed },
        NotSent::Refused(reason) => SendError::WouldFail { reason },
        NotSent::Unusable(reason) => SendError::Unusable { reason },
        NotSent::NotSigned(reason) => SendError::NotSigned { reason },
        NotSent::QueueFull => SendError::QueueFull,
        NotSent::NameTaken => SendError::NameTaken(id),
    }
}

#[cfg(test)]
mod tests;

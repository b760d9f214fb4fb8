//! Does what a validator's machine wants done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use hearth_causes::WithCauses;
use hearth_chain::ledger::{Ledger, LedgerError, SignatureSet};
use hearth_chain::sender::Sender;
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::{Equivocation, RoundStatement, RunTerms};
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, RecordedWork};
use hearth_protocol::run::message::{AuditOutcome, LossKey};
use hearth_protocol::signature::Signature;
use hearth_workshop::Workshop;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::depot::{Depot, Length, blocking};
use super::replaying::{Lacking, Replaying};
use crate::ledger::{Declaration, LedgerSigner};

/// How long to wait after a replay for which something was missing here.
const REPLAY_AGAIN: Duration = Duration::from_secs(3);
/// How long to wait after a contribution that nobody gave.
const CONTRIBUTION_AGAIN: Duration = Duration::from_secs(2);

/// A validator's hands.
#[derive(Debug, Clone)]
pub(crate) struct Validating {
    pub(crate) depot: Depot,
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) ledger: Ledger,
    pub(crate) sender: Sender,
    pub(crate) signer: Arc<LedgerSigner>,
    pub(crate) terms: RunTerms,
    /// Training and replays of all runs, one after the other.
    pub(crate) heavy: Arc<Mutex<()>>,
    /// Rounds that were recorded.
    pub(crate) recorded: Arc<AtomicU64>,
}

impl Validating {
    /// Fetches a contribution and looks at it. What nobody gives is asked for again until the caller stops it: that a file
    /// did not arrive says nothing about what is in it.
    pub(crate) async fn check(&self, trainer: DeviceId, contribution: ContentHash) -> bool {
        let bytes = self.workshop.contribution_bytes();
        let length = Length::Exactly(bytes);
        while let Err(error) = self.depot.get(contribution, length, Some(trainer)).await {
            info!(%trainer, error = %error.with_causes(), "a contribution was not given");
            sleep(CONTRIBUTION_AGAIN).await;
        }
        let (depot, workshop) = (self.depot.clone(), Arc::clone(&self.workshop));
        let looked = blocking(move || {
            let read = depot.folder.bytes(contribution, bytes.saturating_add(1))?;
            Ok(read.is_some_and(|read| workshop.check(&read).is_ok()))
        });
        looked.await.unwrap_or(false)
    }

    /// Adds up the contributions of a book; nothing where it cannot be done.
    pub(crate) async fn aggregate(&self, book: &RoundBook) -> Option<B256> {
        if let Err(error) = self.depot.keep(&book.to_bytes()).await {
            warn!(error = %error.with_causes(), "the book of a round is not kept");
            return None;
        }
        if let Some(own) = book.own_state() {
            return Some(own);
        }
        let parent = ContentHash(book.parent.0);
        if !self.depot.folder.has(parent)
            && let Err(error) = self.depot.fetched_state(&self.workshop, parent).await
        {
            warn!(error = %error.with_causes(), "the state before a round is missing");
            return None;
        }
        match self.depot.added_up(&self.workshop, book).await {
            Ok(state) => Some(state.0.into()),
            Err(error) => {
                warn!(error = %error.with_causes(), "a round is not added up");
                None
            }
        }
    }

    pub(crate) async fn sign(&self, statement: RoundStatement) -> Option<Signature> {
        match self.signer.sign(&Declaration::Round(statement)).await {
            Ok(signature) => Some(signature),
            Err(error) => {
                warn!(error = %error.with_causes(), "a round is not signed");
                None
            }
        }
    }

    pub(crate) async fn record(
        &self,
        statement: RoundStatement,
        epoch: u64,
        mask: u32,
        signatures: Vec<Signature>,
    ) {
        let signed = SignatureSet { mask, signatures };
        let addresses = self.ledger.addresses();
        let call = addresses.record_round(&self.terms, &statement, epoch, &signed);
        match self.ledger.send(&self.sender, &call).await {
            Ok(_) => info!(round = statement.round, "a round is recorded"),
            // Somebody else was first, or the set has changed.
            Err(LedgerError::Refused(refusal)) => debug!(%refusal, "a round was not taken"),
            Err(error) => warn!(error = %error.with_causes(), "a round was not sent"),
        }
    }

    /// Has a validator expelled that signed two rounds under one number.
    pub(crate) async fn accuse(&self, proof: &Equivocation) {
        let device = proof.device;
        let call = self.ledger.addresses().expel(proof);
        match self.ledger.send(&self.sender, &call).await {
            Ok(_) => info!(%device, "a validator that signed two records of a round is expelled"),
            // Somebody else was first.
            Err(LedgerError::Refused(refusal)) => debug!(%refusal, "an accusation was not taken"),
            Err(error) => warn!(error = %error.with_causes(), "an accusation was not sent"),
        }
    }

    /// Replays a trainer's work; what shows it comes with the outcome. What nobody gives of what it starts from is computed
    /// from the works in `led_by`. Nothing where this device lacks what it needs itself until the audit is dropped: that
    /// says nothing about the trainer.
    pub(crate) async fn replay(
        &self,
        recorded: &RecordedWork,
        led_by: &[RecordedWork],
    ) -> Option<(AuditOutcome, Option<LossKey>)> {
        loop {
            match self.replay_once(recorded, led_by).await {
                Ok(done) => return Some(done),
                Err(Lacking::Local(error)) => {
                    info!(error = %error.with_causes(), "a trainer did not give what its work started from");
                    return Some((AuditOutcome::Unavailable, None));
                }
                Err(Lacking::Own(error)) => {
                    debug!(error = %error.with_causes(), "work is not replayed yet");
                }
            }
            let rounds = self.recorded.load(Ordering::Relaxed);
            if rounds.saturating_sub(recorded.index) > AUDIT_ROUNDS_MAX {
                return None;
            }
            sleep(REPLAY_AGAIN).await;
        }
    }

    async fn replay_once(
        &self,
        recorded: &RecordedWork,
        led_by: &[RecordedWork],
    ) -> Result<(AuditOutcome, Option<LossKey>), Lacking> {
        let replaying = Replaying {
            depot: self.depot.clone(),
            workshop: Arc::clone(&self.workshop),
        };
        replaying.gather(recorded, led_by, &self.heavy).await?;
        // Only what computes has to wait for other work.
        let _heavy = self.heavy.lock().await;
        let replay = replaying.replay(recorded).await.map_err(Lacking::Own)?;
        let is_same = replay.is_same(&recorded.member.work);
        let (round, trainer) = (recorded.index, recorded.member.trainer);
        info!(round, %trainer, is_same, "replayed a trainer's work");
        let outcome = match is_same {
            true => AuditOutcome::Same,
            false => AuditOutcome::Different,
        };
        Ok((outcome, Some(replay.loss_key())))
    }
}

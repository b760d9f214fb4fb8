//! Which transaction to sign and send next: the sender's decisions, without I/O.
//!
//! One machine serves one account on one chain. Two rules carry all of its safety:
//!
//! 1. All attempts of an intent share one nonce, so at most one of them can be in the chain.
//! 2. An intent gets another nonce only when a stranger's transaction has been *seen* at its nonce, in a block that
//!    has as many confirmations as a final one. The absence of a receipt proves nothing, because an endpoint may lag.
//!
//! An attempt is recorded before it is broadcast ([`Effect::Record`] precedes [`Effect::Broadcast`]), so a process that
//! is killed in between finds it again. The bet on `confirmations` is the only one: a reorganisation deeper than that
//! can undo what was called final, and then the very same transaction is broadcast again, never another.
//!
//! It deliberately holds no keys, and does not cancel: what is signed is brought to an end. (spec: 06-chain,
//! section 3)

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::{Address, B256, Bytes, U256};

use super::{
    fees::{FeeCaps, FeeMarket, Fees, first_offer, replacement},
    intent::{Attempt, IntentId, Receipt, TxIntent},
    journal::JournalEntry,
};

/// The most intents of a lane that wait for their turn.
pub const MAX_QUEUED: usize = 1_024;

/// Places under way that only intents of [`Lane::First`] may take; a quarter of all where those are few.
pub const FIRST_IN_FLIGHT: usize = 4;

/// How many finished transactions are kept at hand, to be sent again if a deep reorganisation drops them.
pub const MAX_SETTLED_KEPT: usize = 256;

/// The name of a transaction that only fills a gap starts with this; callers' names should not.
pub const GAP_FILLER_PREFIX: &str = "hearth:gap:";

/// The gas of an empty transfer, with room for an account that has code.
const GAP_FILLER_GAS_CAP: u64 = 100_000;

/// The sender's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// Blocks, the one of the transaction included, until an outcome is final; at least 1.
    pub confirmations: u64,
    /// The most transactions under way at once.
    pub max_in_flight: usize,
    /// Without inclusion for so long, a transaction is replaced by one that offers more.
    pub replace_after_ms: u64,
    /// Without inclusion for so long, a transaction is broadcast again, in case endpoints forgot it.
    pub rebroadcast_after_ms: u64,
    /// The most replacements of one transaction.
    pub max_attempts: usize,
    /// What is added to an estimate of gas, in percent.
    pub gas_margin_percent: u64,
    /// What is offered at most.
    pub caps: FeeCaps,
    /// How long a newest block lower than one seen before is taken for a lagging endpoint and not believed.
    pub distrust_lower_head_ms: u64,
    /// How often the chain is looked at while something is under way.
    pub poll_interval_ms: u64,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            confirmations: 3,
            max_in_flight: 16,
            replace_after_ms: 45_000,
            rebroadcast_after_ms: 15_000,
            max_attempts: 12,
            gas_margin_percent: 20,
            caps: FeeCaps::default(),
            distrust_lower_head_ms: 120_000,
            poll_interval_ms: 1_000,
        }
    }
}

/// Whose turn comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// In the order in which they come.
    Usual,
    /// Before all of the usual ones that have no nonce yet.
    First,
}

/// What is known of the chain at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Height of the newest block.
    pub head: u64,
    /// The account's next nonce as of the newest block.
    pub next_nonce: u64,
    /// The account's next nonce as of the newest block that is final by the confirmations asked for.
    pub final_nonce: u64,
    /// What gas costs.
    pub market: FeeMarket,
    /// Receipts, from blocks of the present chain only, of the hashes in [`SenderMachine::watched`].
    pub receipts: BTreeMap<B256, Receipt>,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A caller wants something done; with it what the journal has under that name, if it is finished.
    Submit(IntentId, TxIntent, Lane, Option<Box<Finished>>),
    /// The chain was looked at.
    Observed(Snapshot),
    /// The gas of a queued intent is known.
    Estimated(IntentId, u64),
    /// A queued intent cannot be done, for this reason.
    Impossible(IntentId, NotSent),
    /// The endpoint may not be used at all, such as one of another chain: nothing new is begun.
    Unusable(String),
    /// A queued intent's gas could not be found out now.
    NotEstimated(IntentId),
    /// A plan was signed.
    Signed(u64, Attempt),
    /// A plan could not be signed.
    NotSigned(u64, String),
    /// The endpoint did not take a transaction.
    NotTaken(B256, Refusal),
    /// Whose transaction used a nonce, from a final block; `None` if the endpoint could not tell.
    NonceUser(u64, Option<B256>),
}

/// An intent that was done, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// What was done.
    pub intent: TxIntent,
    /// What came of it.
    pub receipt: Receipt,
}

/// Why an endpoint did not take a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The nonce is used. Receipts will tell by what.
    NonceTooLow,
    /// Another transaction with this nonce offers about as much.
    Underpriced,
    /// Anything else, in the endpoint's words.
    Other(String),
}

/// A transaction to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its nonce.
    pub nonce: u64,
    /// Its gas limit.
    pub gas_limit: u64,
    /// What it offers.
    pub fees: Fees,
    /// Whom it goes to.
    pub to: Address,
    /// The call.
    pub data: Bytes,
    /// Wei sent along.
    pub value: U256,
}

/// Something to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out an intent's gas on top of the newest block.
    Estimate(IntentId, TxIntent),
    /// Sign.
    Sign(Plan),
    /// Make durable, before anything that follows.
    Record(JournalEntry),
    /// Remove from the journal, durably, before anything that follows.
    Forget(IntentId),
    /// Send to the chain.
    Broadcast(Attempt),
    /// Find out whose transaction used a nonce.
    FindNonceUser(u64),
    /// Tell the caller.
    Finish(IntentId, Outcome),
    /// Tell the operator.
    Warn(Warning),
}

/// How an intent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the chain, and final. It may have reverted: see [`Receipt::success`].
    Final(TxIntent, Receipt),
    /// Never signed; nothing happened and nothing will.
    NotSent(NotSent),
}

/// Why an intent was not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// Its deadline passed.
    DeadlinePassed,
    /// It needs this much gas, more than its cap.
    TooMuchGas(u64),
    /// The chain says that it would fail.
    Refused(String),
    /// The endpoint may not be used, or does not do this for the account that sends.
    Unusable(String),
    /// The key did not sign.
    NotSigned(String),
    /// [`MAX_QUEUED`] intents wait already.
    QueueFull,
    /// Its name stands for something else already.
    NameTaken,
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The endpoint's newest block is lower than one seen before; the answer was not used.
    StaleHead {
        /// What it says now.
        head: u64,
        /// What was seen before.
        seen: u64,
    },
    /// A block with this nonce's transaction is no longer part of the chain; it is sent again.
    Reorganised {
        /// The nonce.
        nonce: u64,
    },
    /// Somebody else used this nonce with the same key; the intent gets another.
    NonceTakenByStranger {
        /// The nonce.
        nonce: u64,
        /// The stranger's transaction.
        hash: B256,
    },
    /// The nonce is used, but the endpoint cannot show by which transaction; waiting.
    NonceUserUnknown {
        /// The nonce.
        nonce: u64,
    },
    /// The endpoint does not take the transaction; it is offered again later.
    NotTaken {
        /// The nonce.
        nonce: u64,
        /// The endpoint's words.
        reason: String,
    },
    /// A stranger's transaction below ours is gone, and ours cannot be included before that nonce is used: an empty
    /// transfer to the account itself takes it.
    FillingGap {
        /// The nonce.
        nonce: u64,
    },
    /// Gas costs more than the cap allows; waiting.
    FeeAboveCap {
        /// The base fee, in wei per unit of gas.
        base_fee_per_gas: u128,
    },
}

/// An intent that has no nonce yet.
#[derive(Clone, Debug)]
struct Queued {
    id: IntentId,
    intent: TxIntent,
    lane: Lane,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Estimating,
    Estimated { gas_limit: u64 },
}

/// An intent with a nonce.
#[derive(Clone, Debug)]
struct Flight {
    id: IntentId,
    intent: TxIntent,
    gas_limit: u64,
    attempts: Vec<Attempt>,
    included: bool,
    /// When the newest attempt was signed; 0 asks for a replacement at once.
    signed_ms: u64,
    broadcast_ms: u64,
}

/// The sender's decisions for one account on one chain.
#[derive(Clone, Debug)]
pub struct SenderMachine {
    account: Address,
    config: SenderConfig,
    queue: VecDeque<Queued>,
    flights: BTreeMap<u64, Flight>,
    /// The nonce whose signature is being made. One at a time: a failure must not leave a gap below another.
    signing: Option<u64>,
    settled: BTreeMap<u64, Attempt>,
    seen: Option<Seen>,
    /// The nonce below ours that nothing is known of, and since when.
    gap: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    head: u64,
    head_ms: u64,
    next_nonce: u64,
    market: FeeMarket,
}

impl SenderMachine {
    /// A machine that continues what the journal has.
    #[must_use]
    pub fn restore(
        account: Address,
        config: SenderConfig,
        journal: Vec<JournalEntry>,
        now_ms: u64,
    ) -> Self {
        let mut machine = Self {
            account,
            config,
            queue: VecDeque::new(),
            flights: BTreeMap::new(),
            signing: None,
            settled: BTreeMap::new(),
            seen: None,
            gap: None,
        };
        for entry in journal {
            match entry.outcome {
                Some(receipt) => {
                    machine.keep_settled(entry.nonce, &entry.attempts, receipt.transaction_hash)
                }
                None => {
                    let flight = Flight {
                        id: entry.id,
                        intent: entry.intent,
                        gas_limit: entry.gas_limit,
                        attempts: entry.attempts,
                        included: false,
                        // Nobody knows whether it was broadcast: do so at once, but give it time before outbidding.
                        signed_ms: now_ms,
                        broadcast_ms: 0,
                    };
                    machine.flights.insert(entry.nonce, flight);
                }
            }
        }
        machine
    }

    /// Whether there is a reason to look at the chain.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.flights.is_empty()
    }

    /// The transactions whose receipts the next [`Snapshot`] needs.
    #[must_use]
    pub fn watched(&self) -> Vec<B256> {
        self.flights
            .values()
            .flat_map(|flight| flight.attempts.iter().map(|attempt| attempt.hash))
            .collect()
    }

    /// The intents under way, with their nonce and the newest transaction.
    pub fn in_flight(&self) -> impl Iterator<Item = (&IntentId, u64, B256)> {
        self.flights.iter().filter_map(|(nonce, flight)| {
            flight
                .attempts
                .last()
                .map(|attempt| (&flight.id, *nonce, attempt.hash))
        })
    }

    /// Takes an event in and puts what is to be done into `effects`.
    pub fn handle(&mut self, now_ms: u64, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Submit(id, intent, lane, finished) => {
                self.submit(id, intent, lane, finished, effects);
            }
            Event::Observed(snapshot) => self.observe(now_ms, snapshot, effects),
            Event::Estimated(id, gas) => self.estimated(now_ms, &id, gas, effects),
            Event::Impossible(id, reason) => self.drop_queued(&id, reason, effects),
            Event::Unusable(reason) => {
                for queued in std::mem::take(&mut self.queue) {
                    let outcome = Outcome::NotSent(NotSent::Unusable(reason.clone()));
                    effects.push(Effect::Finish(queued.id, outcome));
                }
            }
            Event::NotEstimated(id) => {
                if let Some(queued) = self.queue.iter_mut().find(|queued| queued.id == id) {
                    queued.stage = Stage::Waiting;
                }
            }
            Event::Signed(nonce, attempt) => self.signed(now_ms, nonce, attempt, effects),
            Event::NotSigned(nonce, reason) => self.not_signed(now_ms, nonce, reason, effects),
            Event::NotTaken(hash, refusal) => self.not_taken(hash, refusal, effects),
            Event::NonceUser(nonce, user) => self.nonce_user(nonce, user, effects),
        }
    }

    /// A name that is done or under way already is answered or awaited, not done again.
    fn submit(
        &mut self,
        id: IntentId,
        intent: TxIntent,
        lane: Lane,
        finished: Option<Box<Finished>>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(finished) = finished {
            let outcome = if same_purpose(&finished.intent, &intent) {
                Outcome::Final(finished.intent, finished.receipt)
            } else {
                Outcome::NotSent(NotSent::NameTaken)
            };
            effects.push(Effect::Finish(id, outcome));
            return;
        }
        let queued = self
            .queue
            .iter()
            .find(|queued| queued.id == id)
            .map(|queued| &queued.intent);
        let known = queued.or_else(|| {
            self.flights
                .values()
                .find(|flight| flight.id == id)
                .map(|flight| &flight.intent)
        });
        let problem = match known {
            Some(known) if !same_purpose(known, &intent) => NotSent::NameTaken,
            Some(_) => return,
            None if self.queued(lane).count() >= MAX_QUEUED => NotSent::QueueFull,
            None => {
                self.enqueue(id, intent, lane);
                return;
            }
        };
        effects.push(Effect::Finish(id, Outcome::NotSent(problem)));
    }

    fn queued(&self, lane: Lane) -> impl Iterator<Item = &Queued> {
        self.queue.iter().filter(move |queued| queued.lane == lane)
    }

    /// Puts an intent behind the others of its lane: those that go first come before the usual ones.
    fn enqueue(&mut self, id: IntentId, intent: TxIntent, lane: Lane) {
        let place = match lane {
            Lane::First => self.queued(Lane::First).count(),
            Lane::Usual => self.queue.len(),
        };
        let queued = Queued {
            id,
            intent,
            lane,
            stage: Stage::Waiting,
        };
        self.queue.insert(place, queued);
    }

    fn observe(&mut self, now_ms: u64, snapshot: Snapshot, effects: &mut Vec<Effect>) {
        if let Some(seen) = self.seen
            && snapshot.head < seen.head
            && now_ms.saturating_sub(seen.head_ms) < self.config.distrust_lower_head_ms
        {
            effects.push(Effect::Warn(Warning::StaleHead {
                head: snapshot.head,
                seen: seen.head,
            }));
            return;
        }
        self.seen = Some(Seen {
            head: snapshot.head,
            head_ms: now_ms,
            next_nonce: snapshot.next_nonce,
            market: snapshot.market,
        });
        let nonces: Vec<u64> = self.flights.keys().copied().collect();
        for nonce in nonces {
            self.observe_flight(now_ms, nonce, &snapshot, effects);
        }
        for attempt in self
            .settled
            .range(snapshot.next_nonce..)
            .map(|(_, attempt)| attempt)
        {
            // It was final and is gone: the chain was rewritten deeper than the confirmations asked for.
            effects.push(Effect::Broadcast(attempt.clone()));
        }
        self.watch_gap(now_ms, snapshot.next_nonce, effects);
        self.advance_queue(now_ms, effects);
    }

    /// A reorganisation can drop a stranger's transaction below ours. An intent must not move to a lower nonce (both
    /// transactions could be included then), so if no other intent comes to take the nonce, an empty one does.
    fn watch_gap(&mut self, now_ms: u64, next: u64, effects: &mut Vec<Effect>) {
        let open = self.flights.range(next..).next().is_some()
            && !self.flights.contains_key(&next)
            && !self.settled.contains_key(&next)
            && self.queue.is_empty();
        let since_ms = match self.gap {
            _ if !open => {
                self.gap = None;
                return;
            }
            Some((nonce, since_ms)) if nonce == next => since_ms,
            _ => now_ms,
        };
        self.gap = Some((next, since_ms));
        if now_ms.saturating_sub(since_ms) < self.config.replace_after_ms {
            return;
        }
        let Ok(id) = IntentId::new(format!("{GAP_FILLER_PREFIX}{next}")) else {
            return;
        };
        effects.push(Effect::Warn(Warning::FillingGap { nonce: next }));
        let intent = TxIntent {
            to: self.account,
            data: Bytes::new(),
            value: U256::ZERO,
            gas_cap: GAP_FILLER_GAS_CAP,
            deadline_ms: u64::MAX,
        };
        // Nothing above the gap moves without it.
        self.enqueue(id, intent, Lane::First);
    }

    fn observe_flight(
        &mut self,
        now_ms: u64,
        nonce: u64,
        snapshot: &Snapshot,
        effects: &mut Vec<Effect>,
    ) {
        let Some(flight) = self.flights.get_mut(&nonce) else {
            return;
        };
        if flight.attempts.is_empty() {
            return;
        }
        let receipt = flight
            .attempts
            .iter()
            .find_map(|attempt| snapshot.receipts.get(&attempt.hash))
            .copied();
        if let Some(receipt) = receipt {
            flight.included = true;
            let confirmations = (snapshot.head + 1).saturating_sub(receipt.block_number);
            if confirmations >= self.config.confirmations.max(1) {
                self.settle(nonce, receipt, effects);
            }
            return;
        }
        if std::mem::take(&mut flight.included) {
            flight.broadcast_ms = 0;
            effects.push(Effect::Warn(Warning::Reorganised { nonce }));
        }
        if snapshot.final_nonce > nonce {
            effects.push(Effect::FindNonceUser(nonce));
        } else if snapshot.next_nonce <= nonce {
            self.push_on(now_ms, nonce, effects);
        }
    }

    /// Replaces or repeats a transaction that no block has.
    fn push_on(&mut self, now_ms: u64, nonce: u64, effects: &mut Vec<Effect>) {
        let (Some(flight), Some(seen)) = (self.flights.get_mut(&nonce), self.seen) else {
            return;
        };
        let Some(newest) = flight.attempts.last() else {
            return;
        };
        let due = now_ms.saturating_sub(flight.signed_ms) >= self.config.replace_after_ms;
        if due && self.signing.is_none() && flight.attempts.len() < self.config.max_attempts {
            if let Some(fees) = replacement(&newest.fees, &seen.market, &self.config.caps) {
                self.signing = Some(nonce);
                effects.push(Effect::Sign(plan(nonce, flight, fees)));
                return;
            }
            if !seen.market.is_free() {
                let base_fee_per_gas = seen.market.base_fee_per_gas;
                effects.push(Effect::Warn(Warning::FeeAboveCap { base_fee_per_gas }));
            }
        }
        if now_ms.saturating_sub(flight.broadcast_ms) >= self.config.rebroadcast_after_ms {
            flight.broadcast_ms = now_ms;
            effects.push(Effect::Broadcast(newest.clone()));
        }
    }

    fn settle(&mut self, nonce: u64, receipt: Receipt, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.remove(&nonce) else {
            return;
        };
        let mut entry = entry(nonce, &flight);
        entry.outcome = Some(receipt);
        effects.push(Effect::Record(entry));
        self.keep_settled(nonce, &flight.attempts, receipt.transaction_hash);
        effects.push(Effect::Finish(
            flight.id,
            Outcome::Final(flight.intent, receipt),
        ));
    }

    fn keep_settled(&mut self, nonce: u64, attempts: &[Attempt], hash: B256) {
        if let Some(attempt) = attempts.iter().find(|attempt| attempt.hash == hash) {
            self.settled.insert(nonce, attempt.clone());
        }
        while self.settled.len() > MAX_SETTLED_KEPT {
            self.settled.pop_first();
        }
    }

    /// Lets waiting intents take their next step, in the order they came.
    fn advance_queue(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let late = |queued: &Queued| queued.intent.deadline_ms <= now_ms;
        for queued in self.queue.iter().filter(|queued| late(queued)) {
            let outcome = Outcome::NotSent(NotSent::DeadlinePassed);
            effects.push(Effect::Finish(queued.id.clone(), outcome));
        }
        self.queue.retain(|queued| !late(queued));
        let rooms = [Lane::First, Lane::Usual].map(|lane| self.room(lane));
        for (place, queued) in self.queue.iter_mut().enumerate() {
            let room = match queued.lane {
                Lane::First => rooms[0],
                Lane::Usual => rooms[1],
            };
            if place < room && queued.stage == Stage::Waiting {
                queued.stage = Stage::Estimating;
                effects.push(Effect::Estimate(queued.id.clone(), queued.intent.clone()));
            }
        }
        self.sign_next(now_ms, effects);
    }

    /// How many more of a lane may be under way. A nonce below one of ours is always allowed: nothing moves without it.
    fn room(&self, lane: Lane) -> usize {
        let places = match lane {
            Lane::First => self.config.max_in_flight,
            Lane::Usual => {
                let kept = FIRST_IN_FLIGHT.min(self.config.max_in_flight / 4);
                self.config.max_in_flight.saturating_sub(kept)
            }
        };
        let room = places.saturating_sub(self.flights.len());
        let next = self.seen.map_or(0, |seen| seen.next_nonce);
        let gap_below = self
            .flights
            .keys()
            .next_back()
            .is_some_and(|highest| self.lowest_free_nonce(next) < *highest);
        room.max(usize::from(gap_below))
    }

    fn estimated(&mut self, now_ms: u64, id: &IntentId, gas: u64, effects: &mut Vec<Effect>) {
        let Some(queued) = self.queue.iter_mut().find(|queued| queued.id == *id) else {
            return;
        };
        if gas > queued.intent.gas_cap {
            self.drop_queued(id, NotSent::TooMuchGas(gas), effects);
            return;
        }
        let margin = gas.saturating_mul(self.config.gas_margin_percent) / 100;
        let gas_limit = gas.saturating_add(margin).min(queued.intent.gas_cap);
        queued.stage = Stage::Estimated { gas_limit };
        self.sign_next(now_ms, effects);
    }

    /// Gives the first intent whose gas is known the lowest free nonce.
    fn sign_next(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let Some(seen) = self.seen else { return };
        if self.signing.is_some() {
            return;
        }
        let ready = self
            .queue
            .iter()
            .enumerate()
            .find_map(|(place, queued)| match queued.stage {
                Stage::Estimated { gas_limit } if self.room(queued.lane) > 0 => {
                    Some((place, gas_limit))
                }
                Stage::Estimated { .. } | Stage::Waiting | Stage::Estimating => None,
            });
        let Some((place, gas_limit)) = ready else {
            return;
        };
        let Some(fees) = first_offer(&seen.market, &self.config.caps) else {
            let base_fee_per_gas = seen.market.base_fee_per_gas;
            effects.push(Effect::Warn(Warning::FeeAboveCap { base_fee_per_gas }));
            return;
        };
        let Some(queued) = self.queue.remove(place) else {
            return;
        };
        let nonce = self.lowest_free_nonce(seen.next_nonce);
        let flight = Flight {
            id: queued.id,
            intent: queued.intent,
            gas_limit,
            attempts: Vec::new(),
            included: false,
            signed_ms: now_ms,
            broadcast_ms: now_ms,
        };
        self.signing = Some(nonce);
        effects.push(Effect::Sign(plan(nonce, &flight, fees)));
        self.flights.insert(nonce, flight);
    }

    /// The lowest nonce from `next` on that none of our transactions has: gaps are filled first, because nothing
    /// above a gap can be included.
    fn lowest_free_nonce(&self, next: u64) -> u64 {
        let mut nonce = next;
        while self.flights.contains_key(&nonce) || self.settled.contains_key(&nonce) {
            nonce += 1;
        }
        nonce
    }

    fn signed(&mut self, now_ms: u64, nonce: u64, attempt: Attempt, effects: &mut Vec<Effect>) {
        self.signing = None;
        // The flight may have ended while its replacement was being signed; then the signature is thrown away.
        if let Some(flight) = self.flights.get_mut(&nonce) {
            flight.signed_ms = now_ms;
            flight.broadcast_ms = now_ms;
            flight.attempts.push(attempt.clone());
            effects.push(Effect::Record(entry(nonce, flight)));
            effects.push(Effect::Broadcast(attempt));
        }
        self.sign_next(now_ms, effects);
    }

    fn not_signed(&mut self, now_ms: u64, nonce: u64, reason: String, effects: &mut Vec<Effect>) {
        self.signing = None;
        // A failed replacement changes nothing: the earlier attempts are still out there.
        if self
            .flights
            .get(&nonce)
            .is_some_and(|flight| flight.attempts.is_empty())
            && let Some(flight) = self.flights.remove(&nonce)
        {
            let outcome = Outcome::NotSent(NotSent::NotSigned(reason));
            effects.push(Effect::Finish(flight.id, outcome));
        }
        self.sign_next(now_ms, effects);
    }

    fn not_taken(&mut self, hash: B256, refusal: Refusal, effects: &mut Vec<Effect>) {
        let flight = self
            .flights
            .iter_mut()
            .find(|(_, flight)| flight.attempts.iter().any(|attempt| attempt.hash == hash));
        let Some((nonce, flight)) = flight else {
            return;
        };
        let reason = match refusal {
            Refusal::NonceTooLow => return,
            Refusal::Underpriced => {
                flight.signed_ms = 0;
                "another transaction with this nonce offers as much".to_owned()
            }
            Refusal::Other(words) => words,
        };
        effects.push(Effect::Warn(Warning::NotTaken {
            nonce: *nonce,
            reason,
        }));
    }

    fn nonce_user(&mut self, nonce: u64, user: Option<B256>, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.get(&nonce) else {
            return;
        };
        let ours = |hash: &B256| flight.attempts.iter().any(|attempt| attempt.hash == *hash);
        let Some(stranger) = user.filter(|hash| !ours(hash)) else {
            // Unknown, or ours with its receipt withheld: either way the next look decides.
            effects.push(Effect::Warn(Warning::NonceUserUnknown { nonce }));
            return;
        };
        effects.push(Effect::Warn(Warning::NonceTakenByStranger {
            nonce,
            hash: stranger,
        }));
        if let Some(flight) = self.flights.remove(&nonce) {
            effects.push(Effect::Forget(flight.id.clone()));
            // It has waited before: it does not wait again.
            self.queue.push_front(Queued {
                id: flight.id,
                intent: flight.intent,
                lane: Lane::First,
                stage: Stage::Waiting,
            });
        }
    }

    fn drop_queued(&mut self, id: &IntentId, reason: NotSent, effects: &mut Vec<Effect>) {
        let before = self.queue.len();
        self.queue.retain(|queued| queued.id != *id);
        if self.queue.len() < before {
            effects.push(Effect::Finish(id.clone(), Outcome::NotSent(reason)));
        }
    }
}

/// Whether two intents would do the same; caps and deadlines may differ between a first and a repeated call.
fn same_purpose(one: &TxIntent, other: &TxIntent) -> bool {
    one.to == other.to && one.data == other.data && one.value == other.value
}

fn plan(nonce: u64, flight: &Flight, fees: Fees) -> Plan {
    Plan {
        nonce,
        gas_limit: flight.gas_limit,
        fees,
        to: flight.intent.to,
        data: flight.intent.data.clone(),
        value: flight.intent.value,
    }
}

fn entry(nonce: u64, flight: &Flight) -> JournalEntry {
    JournalEntry {
        id: flight.id.clone(),
        intent: flight.intent.clone(),
        nonce,
        gas_limit: flight.gas_limit,
        attempts: flight.attempts.clone(),
        outcome: None,
    }
}

#[cfg(test)]
mod tests;

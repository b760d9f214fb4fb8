//! The sender's decisions, case by case and in random worlds.

use alloy_primitives::keccak256;
use proptest::prelude::*;

use super::*;

const ACCOUNT: Address = Address::repeat_byte(0xaa);
const CONFIRMATIONS: u64 = 3;
const START_MS: u64 = 1_000_000;

fn config() -> SenderConfig {
    SenderConfig {
        confirmations: CONFIRMATIONS,
        max_in_flight: 3,
        ..SenderConfig::default()
    }
}

fn id(number: u8) -> IntentId {
    IntentId::new(format!("intent-{number}")).unwrap()
}

fn intent(number: u8) -> TxIntent {
    TxIntent {
        to: Address::repeat_byte(number),
        data: Bytes::new(),
        value: U256::ZERO,
        gas_cap: 100_000,
        deadline_ms: u64::MAX,
    }
}

fn market() -> FeeMarket {
    FeeMarket {
        base_fee_per_gas: 1_000,
        gas_price: 1_100,
        priority_fee_per_gas: 100,
    }
}

fn snapshot(head: u64, next_nonce: u64, final_nonce: u64) -> Snapshot {
    Snapshot {
        head,
        next_nonce,
        final_nonce,
        market: market(),
        receipts: BTreeMap::new(),
    }
}

fn attempt(plan: &Plan) -> Attempt {
    let content = format!(
        "{} {} {:?} {:?}",
        plan.nonce, plan.gas_limit, plan.fees, plan.to
    );
    Attempt {
        hash: keccak256(&content),
        raw: content.into_bytes().into(),
        fees: plan.fees,
    }
}

fn receipt(hash: B256, block_number: u64) -> Receipt {
    Receipt {
        transaction_hash: hash,
        block_number,
        block_hash: keccak256(block_number.to_string()),
        success: true,
        gas_used: 21_000,
        effective_gas_price: 1_000,
    }
}

/// A machine with the steps that a driver would take for it.
struct Bench {
    machine: SenderMachine,
    now_ms: u64,
    broadcasts: Vec<Attempt>,
    finished: Vec<(IntentId, Outcome)>,
    warnings: Vec<Warning>,
    log: Vec<&'static str>,
}

impl Bench {
    fn new() -> Self {
        Self {
            machine: SenderMachine::restore(ACCOUNT, config(), Vec::new(), START_MS),
            now_ms: START_MS,
            broadcasts: Vec::new(),
            finished: Vec::new(),
            warnings: Vec::new(),
            log: Vec::new(),
        }
    }

    fn feed(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.machine.handle(self.now_ms, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Estimate(id, _) => self.feed(Event::Estimated(id, 50_000)),
                Effect::Sign(plan) => self.feed(Event::Signed(plan.nonce, attempt(&plan))),
                Effect::Record(_) => self.log.push("record"),
                Effect::Forget(_) => self.log.push("forget"),
                Effect::Broadcast(attempt) => {
                    self.log.push("broadcast");
                    self.broadcasts.push(attempt);
                }
                Effect::FindNonceUser(_) => self.log.push("find"),
                Effect::Finish(id, outcome) => self.finished.push((id, outcome)),
                Effect::Warn(warning) => self.warnings.push(warning),
            }
        }
    }

    fn submit(&mut self, number: u8) {
        self.feed(Event::Submit(id(number), intent(number), Lane::Usual, None));
    }

    fn nonces(&self) -> Vec<u64> {
        self.machine
            .in_flight()
            .map(|(_, nonce, _)| nonce)
            .collect()
    }
}

#[test]
fn an_attempt_is_recorded_before_it_is_broadcast() {
    let mut bench = Bench::new();
    bench.submit(1);
    assert!(
        bench.log.is_empty(),
        "nothing is signed before the chain was seen"
    );
    bench.feed(Event::Observed(snapshot(10, 4, 4)));
    assert_eq!(bench.log, ["record", "broadcast"]);
    assert_eq!(bench.nonces(), [4]);
}

#[test]
fn nonces_are_given_without_gaps_and_no_more_than_allowed_at_once() {
    let mut bench = Bench::new();
    for number in 0..5 {
        bench.submit(number);
    }
    bench.feed(Event::Observed(snapshot(10, 4, 4)));
    assert_eq!(bench.nonces(), [4, 5, 6], "three may be in flight");
}

#[test]
fn what_goes_first_waits_for_nothing_that_others_asked() {
    let config = SenderConfig::default();
    let mut bench = Bench::new();
    bench.machine = SenderMachine::restore(ACCOUNT, config, Vec::new(), START_MS);
    let name = |number: usize| IntentId::new(format!("asked-{number}")).unwrap();
    for number in 0..=MAX_QUEUED {
        let asked = Event::Submit(name(number), intent(1), Lane::Usual, None);
        bench.feed(asked);
    }
    let full = (name(MAX_QUEUED), Outcome::NotSent(NotSent::QueueFull));
    assert_eq!(bench.finished, [full]);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let usual = config.max_in_flight - FIRST_IN_FLIGHT;
    assert_eq!(bench.nonces().len(), usual, "some places are kept");
    for number in 0..2 {
        bench.feed(Event::Submit(id(number), intent(2), Lane::First, None));
    }
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let flying: Vec<_> = bench
        .machine
        .in_flight()
        .map(|(id, ..)| id.clone())
        .collect();
    assert_eq!(
        flying[usual..],
        [id(0), id(1)],
        "before a thousand that came before"
    );
    // However many go first, their own places bound them.
    for number in 2..20 {
        bench.feed(Event::Submit(id(number), intent(2), Lane::First, None));
    }
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    assert_eq!(bench.nonces().len(), config.max_in_flight);
}

#[test]
fn an_outcome_is_final_only_after_its_confirmations() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let hash = bench.broadcasts[0].hash;
    for head in 11..14 {
        assert!(bench.finished.is_empty(), "at head {head}");
        let mut seen = snapshot(head, 1, 0);
        seen.receipts.insert(hash, receipt(hash, 11));
        bench.feed(Event::Observed(seen));
    }
    assert_eq!(
        bench.finished,
        [(id(1), Outcome::Final(intent(1), receipt(hash, 11)))]
    );
    assert!(!bench.machine.has_work());
}

#[test]
fn a_reorganised_transaction_is_sent_again_unchanged() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let first = bench.broadcasts[0].clone();
    let mut seen = snapshot(11, 1, 0);
    seen.receipts.insert(first.hash, receipt(first.hash, 11));
    bench.feed(Event::Observed(seen));
    bench.feed(Event::Observed(snapshot(12, 0, 0)));
    assert_eq!(bench.warnings, [Warning::Reorganised { nonce: 0 }]);
    assert_eq!(bench.broadcasts, [first.clone(), first]);
}

#[test]
fn what_waits_too_long_is_replaced_with_the_same_nonce_and_a_higher_offer() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    bench.now_ms += config().replace_after_ms;
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let [first, second] = &bench.broadcasts[..] else {
        panic!("{:?}", bench.broadcasts)
    };
    assert!(second.fees.max_fee_per_gas * 8 >= first.fees.max_fee_per_gas * 9);
    assert!(second.fees.max_priority_fee_per_gas * 8 >= first.fees.max_priority_fee_per_gas * 9);
    assert_eq!(bench.nonces(), [0]);
}

#[test]
fn replacements_end_at_the_cap_and_repeats_go_on() {
    let mut bench = Bench::new();
    bench.submit(1);
    for _ in 0..200 {
        bench.feed(Event::Observed(snapshot(10, 0, 0)));
        bench.now_ms += config().replace_after_ms;
    }
    let different: std::collections::BTreeSet<B256> = bench
        .broadcasts
        .iter()
        .map(|attempt| attempt.hash)
        .collect();
    assert_eq!(different.len(), config().max_attempts);
    assert!(
        bench.broadcasts.len() > 100,
        "the last one is still offered"
    );
    assert!(
        bench
            .broadcasts
            .iter()
            .all(|it| it.fees.max_fee_per_gas <= config().caps.max_fee_per_gas)
    );
}

#[test]
fn a_lower_head_is_not_believed_until_it_lasts() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let hash = bench.broadcasts[0].hash;
    let mut seen = snapshot(12, 1, 0);
    seen.receipts.insert(hash, receipt(hash, 11));
    bench.feed(Event::Observed(seen));
    bench.feed(Event::Observed(snapshot(9, 0, 0)));
    assert_eq!(bench.warnings, [Warning::StaleHead { head: 9, seen: 12 }]);
    assert_eq!(
        bench.broadcasts.len(),
        1,
        "a lagging endpoint is no reason to send again"
    );
    bench.now_ms += config().distrust_lower_head_ms;
    bench.feed(Event::Observed(snapshot(9, 0, 0)));
    assert_eq!(
        bench.warnings.last(),
        Some(&Warning::Reorganised { nonce: 0 })
    );
}

#[test]
fn a_missing_receipt_alone_never_leads_to_another_nonce() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    let hash = bench.broadcasts[0].hash;
    for user in [None, Some(hash)] {
        bench.feed(Event::Observed(snapshot(20, 1, 1)));
        bench.feed(Event::NonceUser(0, user));
        assert_eq!(bench.nonces(), [0]);
        assert_eq!(
            bench.warnings.last(),
            Some(&Warning::NonceUserUnknown { nonce: 0 })
        );
    }
    assert_eq!(bench.broadcasts.len(), 1);
}

#[test]
fn a_stranger_seen_at_the_nonce_leads_to_another() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    bench.feed(Event::Observed(snapshot(20, 1, 1)));
    let stranger = B256::repeat_byte(9);
    bench.feed(Event::NonceUser(0, Some(stranger)));
    assert_eq!(
        bench.warnings,
        [Warning::NonceTakenByStranger {
            nonce: 0,
            hash: stranger
        }]
    );
    bench.feed(Event::Observed(snapshot(20, 1, 1)));
    assert_eq!(bench.nonces(), [1]);
    assert_eq!(
        bench.log,
        [
            "record",
            "broadcast",
            "find",
            "forget",
            "record",
            "broadcast"
        ]
    );
}

#[test]
fn what_cannot_be_done_is_not_sent_and_said() {
    let mut late = intent(1);
    late.deadline_ms = START_MS;
    let mut tight = intent(1);
    tight.gas_cap = 49_999;
    for (intent, expected) in [
        (late, NotSent::DeadlinePassed),
        (tight, NotSent::TooMuchGas(50_000)),
    ] {
        let mut bench = Bench::new();
        bench.feed(Event::Submit(id(1), intent, Lane::Usual, None));
        bench.feed(Event::Observed(snapshot(10, 0, 0)));
        assert_eq!(bench.finished, [(id(1), Outcome::NotSent(expected))]);
        assert!(bench.broadcasts.is_empty() && !bench.machine.has_work());
    }
}

#[test]
fn a_name_is_done_once_whatever_is_submitted_under_it() {
    let mut bench = Bench::new();
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(10, 0, 0)));
    bench.submit(1);
    bench.feed(Event::Observed(snapshot(11, 0, 0)));
    assert_eq!(bench.nonces(), [0], "the same again is awaited");
    bench.feed(Event::Submit(id(1), intent(2), Lane::Usual, None));
    assert_eq!(
        bench.finished,
        [(id(1), Outcome::NotSent(NotSent::NameTaken))]
    );

    let receipt = receipt(B256::repeat_byte(1), 3);
    let finished = Box::new(Finished {
        intent: intent(7),
        receipt,
    });
    bench.feed(Event::Submit(
        id(7),
        intent(7),
        Lane::Usual,
        Some(finished.clone()),
    ));
    assert_eq!(
        bench.finished[1],
        (id(7), Outcome::Final(intent(7), receipt))
    );
    bench.feed(Event::Submit(id(7), intent(8), Lane::Usual, Some(finished)));
    assert_eq!(
        bench.finished[2],
        (id(7), Outcome::NotSent(NotSent::NameTaken))
    );
}

#[test]
fn a_free_chain_gets_free_transactions() {
    let mut bench = Bench::new();
    bench.submit(1);
    let free = Snapshot {
        market: FeeMarket::default(),
        ..snapshot(10, 0, 0)
    };
    bench.feed(Event::Observed(free.clone()));
    bench.now_ms += config().replace_after_ms;
    bench.feed(Event::Observed(free));
    assert!(
        bench
            .broadcasts
            .iter()
            .all(|attempt| attempt.fees == Fees::default())
    );
    assert_eq!(bench.broadcasts.len(), 2, "offered again, unchanged");
}

/// Something that happens in a random world.
#[derive(Clone, Debug)]
enum Act {
    Submit(u8),
    Look,
    LookAtLaggingEndpoint(u8),
    LookWithoutReceipts,
    MinePool,
    MineNothing,
    Stranger,
    Reorganise {
        depth: u8,
        keep: bool,
    },
    DropPool,
    /// Any transaction that was ever broadcast comes back.
    Resurface(u8),
    Wait(u32),
    /// The process dies after so many further effects, and starts again.
    Crash(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..5_u8).prop_map(Act::Submit),
        6 => Just(Act::Look),
        1 => (1..4_u8).prop_map(Act::LookAtLaggingEndpoint),
        1 => Just(Act::LookWithoutReceipts),
        4 => Just(Act::MinePool),
        2 => Just(Act::MineNothing),
        1 => Just(Act::Stranger),
        2 => (1..CONFIRMATIONS as u8, any::<bool>()).prop_map(|(depth, keep)| Act::Reorganise { depth, keep }),
        1 => Just(Act::DropPool),
        2 => any::<u8>().prop_map(Act::Resurface),
        2 => (1..100_000_u32).prop_map(Act::Wait),
        2 => (0..6_u8).prop_map(Act::Crash),
    ];
    prop::collection::vec(act, 1..80)
}

#[derive(Clone, Debug, PartialEq)]
struct WorldTx {
    nonce: u64,
    hash: B256,
    fee: u128,
    /// Which intent it is of, by recipient; `None` for a stranger's.
    to: Option<Address>,
}

struct World {
    machine: SenderMachine,
    now_ms: u64,
    journal: BTreeMap<IntentId, JournalEntry>,
    blocks: Vec<Vec<WorldTx>>,
    pool: Vec<WorldTx>,
    ever: Vec<WorldTx>,
    signed: BTreeMap<B256, Plan>,
    submitted: Vec<u8>,
    finished: BTreeMap<IntentId, Receipt>,
    effects_until_crash: Option<u8>,
}

impl World {
    fn new() -> Self {
        Self {
            machine: SenderMachine::restore(ACCOUNT, config(), Vec::new(), START_MS),
            now_ms: START_MS,
            journal: BTreeMap::new(),
            blocks: vec![Vec::new(); 8],
            pool: Vec::new(),
            ever: Vec::new(),
            signed: BTreeMap::new(),
            submitted: Vec::new(),
            finished: BTreeMap::new(),
            effects_until_crash: None,
        }
    }

    fn nonce_below(&self, blocks: usize) -> u64 {
        self.blocks[..blocks].iter().flatten().count() as u64
    }

    fn next_nonce(&self) -> u64 {
        self.nonce_below(self.blocks.len())
    }

    fn final_blocks(&self) -> usize {
        (self.blocks.len() + 1).saturating_sub(CONFIRMATIONS as usize)
    }

    fn look(&self, behind: usize, with_receipts: bool) -> Snapshot {
        let shown = self.blocks.len() - behind.min(self.blocks.len() - 1);
        let mut seen = snapshot(
            shown as u64 - 1,
            self.nonce_below(shown),
            self.nonce_below(self.final_blocks().min(shown)),
        );
        if with_receipts {
            for (number, block) in self.blocks[..shown].iter().enumerate() {
                for tx in block
                    .iter()
                    .filter(|tx| self.machine.watched().contains(&tx.hash))
                {
                    seen.receipts
                        .insert(tx.hash, receipt(tx.hash, number as u64));
                }
            }
        }
        seen
    }

    fn mine(&mut self, with_pool: bool) {
        let mut block = Vec::new();
        let mut next = self.next_nonce();
        if with_pool {
            self.pool.sort_by_key(|tx| tx.nonce);
            for tx in std::mem::take(&mut self.pool) {
                if tx.nonce == next {
                    next += 1;
                    block.push(tx);
                } else if tx.nonce > next {
                    self.pool.push(tx);
                }
            }
        }
        self.blocks.push(block);
    }

    fn offer(&mut self, tx: WorldTx) -> Option<Refusal> {
        if tx.nonce < self.next_nonce() {
            return Some(Refusal::NonceTooLow);
        }
        if let Some(place) = self.pool.iter().position(|other| other.nonce == tx.nonce) {
            if self.pool[place].hash != tx.hash && tx.fee * 8 < self.pool[place].fee * 9 {
                return Some(Refusal::Underpriced);
            }
            self.pool.remove(place);
        }
        self.pool.push(tx);
        None
    }

    fn feed(&mut self, event: Event) {
        let mut effects = VecDeque::new();
        let mut wanted = Vec::new();
        self.machine.handle(self.now_ms, event, &mut wanted);
        effects.extend(wanted);
        while let Some(effect) = effects.pop_front() {
            if let Some(left) = &mut self.effects_until_crash {
                if *left == 0 {
                    self.restart();
                    return;
                }
                *left -= 1;
            }
            if let Some(event) = self.perform(effect) {
                let mut wanted = Vec::new();
                self.machine.handle(self.now_ms, event, &mut wanted);
                effects.extend(wanted);
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Estimate(id, _) => return Some(Event::Estimated(id, 50_000)),
            Effect::Sign(plan) => {
                let attempt = attempt(&plan);
                let nonce = plan.nonce;
                self.signed.insert(attempt.hash, plan);
                return Some(Event::Signed(nonce, attempt));
            }
            Effect::Record(entry) => {
                self.journal.insert(entry.id.clone(), entry);
            }
            Effect::Forget(id) => {
                self.journal.remove(&id);
            }
            Effect::Broadcast(attempt) => {
                let plan = &self.signed[&attempt.hash];
                let recorded = self
                    .journal
                    .values()
                    .any(|entry| entry.attempts.contains(&attempt));
                assert!(recorded, "broadcast without a record: {attempt:?}");
                let tx = WorldTx {
                    nonce: plan.nonce,
                    hash: attempt.hash,
                    fee: attempt.fees.max_fee_per_gas,
                    to: Some(plan.to),
                };
                self.ever.push(tx.clone());
                return self
                    .offer(tx)
                    .map(|refusal| Event::NotTaken(attempt.hash, refusal));
            }
            Effect::FindNonceUser(nonce) => {
                let blocks = &self.blocks[..self.final_blocks()];
                let user = blocks
                    .iter()
                    .flatten()
                    .find(|tx| tx.nonce == nonce)
                    .map(|tx| tx.hash);
                return Some(Event::NonceUser(nonce, user));
            }
            Effect::Finish(id, Outcome::Final(_, receipt)) => {
                let known = self.finished.insert(id, receipt);
                assert!(
                    known.is_none_or(|known| known == receipt),
                    "two outcomes for one intent"
                );
            }
            Effect::Finish(id, outcome) => panic!("{id} must be done, but: {outcome:?}"),
            Effect::Warn(_) => {}
        }
        None
    }

    fn restart(&mut self) {
        self.effects_until_crash = None;
        let entries = self.journal.values().cloned().collect();
        self.machine = SenderMachine::restore(ACCOUNT, config(), entries, self.now_ms);
        for number in self.submitted.clone() {
            self.submit(number);
        }
    }

    fn submit(&mut self, number: u8) {
        let finished = self.journal.get(&id(number)).and_then(|entry| {
            entry.outcome.map(|receipt| Finished {
                intent: entry.intent.clone(),
                receipt,
            })
        });
        self.feed(Event::Submit(
            id(number),
            intent(number),
            [Lane::Usual, Lane::First][usize::from(number % 2)],
            finished.map(Box::new),
        ));
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Submit(number) => {
                if !self.submitted.contains(&number) {
                    self.submitted.push(number);
                }
                self.submit(number);
            }
            Act::Look => self.feed(Event::Observed(self.look(0, true))),
            Act::LookAtLaggingEndpoint(behind) => {
                self.feed(Event::Observed(self.look(behind.into(), true)))
            }
            Act::LookWithoutReceipts => self.feed(Event::Observed(self.look(0, false))),
            Act::MinePool => self.mine(true),
            Act::MineNothing => self.mine(false),
            Act::Stranger => {
                let nonce = self.next_nonce();
                let hash = keccak256(format!("stranger {nonce} {}", self.blocks.len()));
                self.pool.retain(|tx| tx.nonce != nonce);
                self.blocks.push(vec![WorldTx {
                    nonce,
                    hash,
                    fee: 0,
                    to: None,
                }]);
            }
            Act::Reorganise { depth, keep } => {
                for _ in 0..depth {
                    let block = self.blocks.pop().unwrap();
                    if keep {
                        self.pool.extend(block);
                    }
                }
                for _ in 0..=depth {
                    self.mine(false);
                }
            }
            Act::DropPool => self.pool.clear(),
            Act::Resurface(which) => {
                if !self.ever.is_empty() {
                    let tx = self.ever[usize::from(which) % self.ever.len()].clone();
                    let next = self.next_nonce();
                    self.pool.retain(|other| other.nonce != tx.nonce);
                    if tx.nonce >= next {
                        self.pool.push(tx);
                    }
                }
            }
            Act::Wait(ms) => self.now_ms += u64::from(ms),
            Act::Crash(effects) => self.effects_until_crash = Some(effects),
        }
    }

    fn check(&self) {
        let mut done = std::collections::BTreeSet::new();
        for tx in self.blocks.iter().flatten() {
            if let Some(to) = tx.to.filter(|to| *to != ACCOUNT) {
                assert!(done.insert(to), "{to} was done twice: {:?}", self.blocks);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_intent_is_ever_done_twice_and_all_are_done_in_the_end(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
            world.check();
        }
        // The faults end; from here on the world only has to be patient.
        world.restart();
        for _ in 0..60 {
            world.act(&Act::Look);
            world.act(&Act::MinePool);
            world.act(&Act::Wait(config().distrust_lower_head_ms as u32));
            world.check();
        }
        for number in &world.submitted {
            prop_assert!(world.finished.contains_key(&id(*number)), "intent {number} was never done");
        }
        let nonces: Vec<u64> = world.blocks.iter().flatten().map(|tx| tx.nonce).collect();
        prop_assert_eq!(nonces.clone(), (0..nonces.len() as u64).collect::<Vec<_>>());
    }
}

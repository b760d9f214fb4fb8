//! What a provider serves unpaid, over random histories of one channel and the chain below it.
//!
//! Requests are in hand side by side; the payer signs whatever it likes, deposits, withdraws, asks for
//! refunds, and lands by itself whatever was signed for it. The last blocks are undone, the chain
//! stalls, the endpoint dies, stands still or refuses events, reads overtake one another, and the
//! provider is killed at any point: what was not durable is gone, and nothing that rests on it left.
//!
//! **Unpaid** is what was in flight at a crash, at most what its vouchers promised beyond what was
//! charged; and, where the whole store was lost, what was charged and not claimed for sure. All else
//! that was served is in escrow on the chain at every moment, covered by a durable voucher, and is
//! claimed at the end.
//!
//! Assumed: what has [`CONFIRMATIONS`] blocks stays, and the chain is not out of reach for more than
//! [`AWAY_MS_MAX`], with time for a claim after it.

use super::*;

const DELAY_MS: u64 = 900_000;
const CONFIRMATIONS: usize = 3;
const BLOCK_MS: u64 = 5_000;
/// How often claims are looked at.
const SETTLE_MS: u64 = 20_000;
/// A chain that makes blocks takes a transaction within this time.
const INCLUDED_MS: u64 = 15_000;
/// For how long work lasts at most.
const WORK_MS_MAX: u64 = 60_000;
/// For how long the chain is within reach at least, so that a claim after another one is final.
const WITHIN_REACH_MS: u64 = 100_000;
const AWAY_MS_MAX: u64 = DELAY_MS / 2 - WITHIN_REACH_MS;
const NEED_MAX: u64 = 100;
const STEPS: usize = 250;
/// Histories that are tried.
const SEEDS: u64 = 1_000;

/// SplitMix64: a history follows from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn units(&mut self, most: u64) -> u128 {
        u128::from(self.below(most) + 1)
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length).unwrap())).unwrap()
    }
}

/// What the provider signed for the chain: anyone who sees it can put it into a block.
#[derive(Debug, Clone, Copy)]
enum Signed {
    Deposit(Amount),
    Claim(Amount),
    Refund {
        claim: Option<Amount>,
        amount: Amount,
        nonce: U256,
    },
}

#[derive(Debug)]
struct Sent {
    signed: Signed,
    /// Since when it waits for a block.
    since: Timestamp,
}

#[derive(Debug, Clone)]
struct Block {
    at: Timestamp,
    state: OnchainState,
    /// What was put into the channel in this block.
    deposited: Amount,
    /// Which transactions are in it or below, and whether they did what they should.
    landed: BTreeMap<usize, bool>,
}

impl Block {
    fn claim(&mut self, total: Amount) -> bool {
        if total > self.state.balance {
            return false;
        }
        self.state.total_claimed = self.state.total_claimed.max(total);
        true
    }

    /// Gives back what is unclaimed, at most `most`.
    fn give_back(&mut self, most: Amount) -> Amount {
        let state = &mut self.state;
        let unclaimed = state.balance.saturating_sub(state.total_claimed);
        let taken = most.min(unclaimed);
        state.balance = state.balance.saturating_sub(taken);
        taken
    }

    fn deposit(&mut self, amount: Amount) {
        self.state.balance = self.state.balance.saturating_add(amount);
        self.deposited = self.deposited.saturating_add(amount);
    }

    fn refund(&mut self, amount: Amount, nonce: U256) -> bool {
        if nonce != self.state.refund_nonce {
            return false;
        }
        self.state.refund_nonce += U256::from(1);
        let taken = self.give_back(amount);
        self.state.withdraw_amount = self.state.withdraw_amount.saturating_sub(taken);
        if self.state.withdraw_amount.is_zero() {
            self.state.withdraw_requested_at = 0;
        }
        true
    }

    /// Whether the transaction did what it should; else it changed nothing.
    fn execute(&mut self, signed: Signed) -> bool {
        let before = (self.state, self.deposited);
        let works = match signed {
            Signed::Deposit(amount) => {
                self.deposit(amount);
                true
            }
            Signed::Claim(total) => self.claim(total),
            Signed::Refund {
                claim,
                amount,
                nonce,
            } => claim.is_none_or(|total| self.claim(total)) && self.refund(amount, nonce),
        };
        if !works {
            (self.state, self.deposited) = before;
        }
        works
    }

    fn withdraw(&mut self, random: &mut Random) {
        let state = &mut self.state;
        let unclaimed = state.balance.saturating_sub(state.total_claimed);
        let wanted = amount(random.units(3_000)).min(unclaimed);
        if state.withdraw_requested_at == 0 && !wanted.is_zero() {
            state.withdraw_amount = wanted;
            state.withdraw_requested_at = self.at.as_secs();
        }
    }

    fn finalize(&mut self) {
        let since = self.state.withdraw_requested_at;
        if since != 0 && self.at.as_secs() >= since + DELAY_MS / 1_000 {
            self.give_back(self.state.withdraw_amount);
            (self.state.withdraw_amount, self.state.withdraw_requested_at) = (Amount::ZERO, 0);
        }
    }
}

struct Chain {
    blocks: Vec<Block>,
    /// The newest block that was ever buried deep enough: it never goes away.
    sure: usize,
    sent: Vec<Sent>,
}

impl Chain {
    fn new(now: Timestamp, balance: u128) -> Self {
        let block = Block {
            at: now,
            state: onchain(balance, 0),
            deposited: Amount::ZERO,
            landed: BTreeMap::new(),
        };
        Self {
            blocks: vec![block; CONFIRMATIONS],
            sure: 0,
            sent: Vec::new(),
        }
    }

    fn head(&self) -> &Block {
        self.blocks.last().unwrap()
    }

    fn send(&mut self, signed: Signed, since: Timestamp) -> usize {
        self.sent.push(Sent { signed, since });
        self.sent.len() - 1
    }

    /// Whether a transaction is final, and whether it did what it should.
    fn outcome(&self, sent: usize) -> Option<bool> {
        self.blocks[self.sure].landed.get(&sent).copied()
    }

    /// A block with whatever the payer puts into it, and what has waited for long enough.
    fn mine(&mut self, random: &mut Random, at: Timestamp) {
        let mut block = Block {
            at,
            deposited: Amount::ZERO,
            ..self.head().clone()
        };
        for (sent, Sent { signed, since }) in self.sent.iter().enumerate() {
            let is_due = at.ms_since(*since) >= INCLUDED_MS;
            if block.landed.contains_key(&sent) || !(is_due || random.one_in(3)) {
                continue;
            }
            // The payer may have made a refund run out of gas.
            let is_refund = matches!(signed, Signed::Refund { .. });
            let runs = !(is_refund && random.one_in(6));
            let works = runs && block.execute(*signed);
            block.landed.insert(sent, works);
        }
        self.let_payer_act(random, &mut block);
        self.blocks.push(block);
        let buried = self.blocks.len().saturating_sub(CONFIRMATIONS);
        self.sure = self.sure.max(buried);
    }

    fn let_payer_act(&self, random: &mut Random, block: &mut Block) {
        match random.below(24) {
            0 => block.withdraw(random),
            1..=4 => block.finalize(),
            5 => block.deposit(amount(random.units(500))),
            6..=9 if !self.sent.is_empty() => {
                // Whatever refund was signed once is public, though its transaction failed.
                let one = &self.sent[random.index(self.sent.len())];
                if let Signed::Refund { amount, nonce, .. } = one.signed {
                    block.refund(amount, nonce);
                }
            }
            _ => {}
        }
    }

    /// The last blocks are undone, and others are in their place.
    fn reorganize(&mut self, random: &mut Random, now: Timestamp) {
        let undone = (1 + random.index(CONFIRMATIONS)).min(self.blocks.len() - 1 - self.sure);
        self.blocks.truncate(self.blocks.len() - undone);
        let kept = self.head().clone();
        for (sent, transaction) in self.sent.iter_mut().enumerate() {
            if !kept.landed.contains_key(&sent) {
                transaction.since = now;
            }
        }
        let steps = u64::try_from(undone).unwrap();
        for step in 1..=steps {
            let passed = now.ms_since(kept.at) * step / steps;
            self.mine(random, kept.at.plus_ms(passed));
        }
    }
}

#[derive(Clone, Copy)]
enum Endpoint {
    Works,
    Dead,
    /// It shows what was then.
    Stuck(OnchainState, Timestamp),
}

/// A turn of the machine whose record is on its way to the disk, and what leaves once it is there.
struct Turn {
    record: Option<ProviderRecord>,
    leaving: Vec<ChannelEffect>,
}

#[derive(Clone, Copy)]
struct Work {
    request: RequestId,
    need: u128,
    since: Timestamp,
}

/// What happened, so that the histories are known to do something.
#[derive(Debug, Default)]
struct Tally {
    served: u128,
    lost: u128,
    side_by_side: usize,
    reorganized: usize,
    crashes: usize,
    stores_lost: usize,
    refunds: usize,
    claims: usize,
}

struct History {
    random: Random,
    chain: Chain,
    channel: ProviderChannel,
    durable: ProviderRecord,
    turns: VecDeque<Turn>,
    /// Readings of the chain that are on their way.
    answers: Vec<ChannelEvent>,
    /// Transactions whose end a request waits for.
    awaited: Vec<(usize, RequestId)>,
    working: Vec<Work>,
    claiming: Option<usize>,
    now: Timestamp,
    next: u64,
    endpoint: Endpoint,
    stalled: bool,
    refuses_events: bool,
    /// Since when the chain is out of reach, or within it.
    turned_at: Timestamp,
    heard: Option<Sight>,
    /// What the follower saw last.
    followed: Option<OnchainState>,
    settled_at: Timestamp,
    /// What was served and is durably charged, less what a lost store made unpaid.
    paid_for: u128,
    figures: Vec<u128>,
    tally: Tally,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let now = NOW;
        let chain = Chain::new(now, random.units(2_000));
        let durable = ProviderRecord::new(config());
        Self {
            chain,
            channel: ProviderChannel::restored(ChannelId(B256::ZERO), durable.clone()),
            durable,
            turns: VecDeque::new(),
            answers: Vec::new(),
            awaited: Vec::new(),
            working: Vec::new(),
            claiming: None,
            now,
            next: 0,
            endpoint: Endpoint::Works,
            stalled: false,
            refuses_events: random.one_in(3),
            turned_at: now,
            heard: None,
            followed: None,
            settled_at: now,
            paid_for: 0,
            figures: Vec::new(),
            tally: Tally::default(),
            random,
        }
    }

    fn is_away(&self) -> bool {
        self.stalled || !matches!(self.endpoint, Endpoint::Works)
    }

    /// What a provider relies on: of the balance what is final, and of all else the newest.
    fn look(&mut self) -> Option<(OnchainState, Sight)> {
        // No two questions are asked at the very same time.
        self.now = self.now.plus_ms(1);
        let asked_at = self.now;
        let (state, block_at) = match self.endpoint {
            Endpoint::Works => self.shown(),
            Endpoint::Dead => return None,
            Endpoint::Stuck(state, block_at) => (state, block_at),
        };
        let block_at = Some(block_at);
        Some((state, Sight { asked_at, block_at }))
    }

    fn shown(&self) -> (OnchainState, Timestamp) {
        let blocks = &self.chain.blocks;
        let open = &blocks[blocks.len() + 1 - CONFIRMATIONS..];
        let deposited = open.iter().map(|block| block.deposited);
        let head = self.chain.head();
        let mut state = head.state;
        state.balance = deposited.fold(state.balance, Amount::saturating_sub);
        (state, head.at)
    }

    fn feed(&mut self, event: ChannelEvent) {
        let (now, heard) = (self.now, self.heard);
        let mut out = Vec::new();
        self.channel.handle(Moment { now, heard }, event, &mut out);
        let mut turn = Turn {
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
            self.perform(turn.leaving);
        } else {
            self.turns.push_back(turn);
        }
    }

    /// The disk has the next turn; the provider may be killed before what rests on it leaves.
    fn commit(&mut self, is_killed: bool) {
        let Some(turn) = self.turns.pop_front() else {
            return;
        };
        self.durable = turn.record.unwrap_or_else(|| self.durable.clone());
        for effect in &turn.leaving {
            if let ChannelEffect::Charged { amount, .. } = effect {
                self.paid_for += amount.units();
            }
        }
        if is_killed {
            self.crash();
        } else {
            self.perform(turn.leaving);
        }
    }

    fn commit_all(&mut self) {
        while !self.turns.is_empty() {
            self.commit(false);
        }
    }

    fn perform(&mut self, effects: Vec<ChannelEffect>) {
        for effect in effects {
            match effect {
                ChannelEffect::ReadChain => self.read_chain(),
                ChannelEffect::Admit { request } => {
                    // Its need is known by the number that the request was given.
                    let need = self.need_of(request);
                    let since = self.now;
                    self.working.push(Work {
                        request,
                        need,
                        since,
                    });
                    self.tally.side_by_side = self.tally.side_by_side.max(self.working.len());
                }
                ChannelEffect::SendDeposit { request, deposit } => {
                    if self.random.one_in(6) || self.is_away() {
                        let outcome = Err(ErrorCode::DepositSimulation);
                        self.feed(ChannelEvent::Done { request, outcome });
                    } else {
                        self.send_awaited(Signed::Deposit(deposit.amount), request);
                    }
                }
                ChannelEffect::SendRefund {
                    request,
                    claim,
                    amount,
                    nonce,
                } => {
                    self.tally.refunds += 1;
                    let claim = claim.map(|row| row.total_claimed);
                    let signed = Signed::Refund {
                        claim,
                        amount,
                        nonce,
                    };
                    self.send_awaited(signed, request);
                }
                ChannelEffect::Refuse {
                    correction: Some(correction),
                    ..
                } => {
                    let figure = correction.channel.charged_cumulative_amount;
                    self.figures.extend(figure.map(Amount::units));
                }
                _ => {}
            }
        }
    }

    fn need_of(&self, request: RequestId) -> u128 {
        u128::from(Random(request.0).below(NEED_MAX) + 1)
    }

    fn send_awaited(&mut self, signed: Signed, request: RequestId) {
        let sent = self.chain.send(signed, self.now);
        self.awaited.push((sent, request));
    }

    fn read_chain(&mut self) {
        let event = match self.look() {
            Some((state, sight)) => ChannelEvent::Onchain { state, sight },
            None => ChannelEvent::ReadFailed,
        };
        if self.random.one_in(2) {
            self.feed(event);
        } else {
            self.answers.push(event);
        }
    }

    /// An answer arrives; any of those that are on their way may be the first.
    fn answer(&mut self) {
        if !self.answers.is_empty() {
            let index = self.random.index(self.answers.len());
            let event = self.answers.swap_remove(index);
            self.feed(event);
        }
    }

    /// The payer signs whatever it likes.
    fn pay(&mut self) {
        self.next += 1;
        let request = RequestId(self.next);
        let need = self.need_of(request);
        let charged = self.channel.record.charged.units();
        let in_hand: u128 = self.working.iter().map(|work| work.need).sum();
        let max = match self.random.below(6) {
            0 => charged + self.random.units(500),
            1 => self.random.units(3_000),
            2 => self.figures.last().copied().unwrap_or(charged) + need,
            _ => charged + in_hand + need * self.random.units(4),
        };
        let above = max.saturating_sub(charged).max(need);
        let ceiling = if self.random.one_in(8) { need } else { above };
        let kind = if self.random.one_in(6) {
            deposit(self.random.units(800))
        } else {
            PaymentKind::Voucher
        };
        self.offer(request, payment(max, kind), ceiling, need);
    }

    fn offer(&mut self, request: RequestId, payment: CheckedPayment, ceiling: u128, need: u128) {
        self.feed(ChannelEvent::Pay {
            request,
            payment: Box::new(payment),
            quote: Quote {
                ceiling: amount(ceiling),
                need: amount(need),
                least_deposit: Amount::ZERO,
            },
        });
    }

    fn ask_refund(&mut self) {
        self.next += 1;
        let request = RequestId(self.next);
        let charged = self.channel.record.charged.units();
        let figure = self.figures.last().copied().unwrap_or(charged);
        let max = if self.random.one_in(3) {
            figure
        } else {
            charged
        };
        let part = amount(self.random.units(500));
        let wanted = self.random.one_in(2).then_some(part);
        self.offer(request, payment(max, PaymentKind::Refund(wanted)), 0, 0);
    }

    fn work(&mut self) {
        if self.working.is_empty() {
            return;
        }
        let index = self.random.index(self.working.len());
        match self.random.below(8) {
            0 => {
                let request = self.working.swap_remove(index).request;
                self.feed(ChannelEvent::Abort { request });
            }
            1 => {
                let request = self.working[index].request;
                self.feed(ChannelEvent::StateEarly { request });
            }
            _ => self.finish(index),
        }
    }

    fn finish(&mut self, index: usize) {
        let Work { request, need, .. } = self.working.swap_remove(index);
        let most = u64::try_from(need).unwrap();
        let cost = self.random.units(most);
        self.tally.served += cost;
        let amount = amount(cost);
        self.feed(ChannelEvent::Charge { request, amount });
    }

    /// Kills the provider: what was in flight is unpaid, and never more than what vouchers promised.
    fn crash(&mut self) {
        self.tally.crashes += 1;
        let needs: u128 = self.working.iter().map(|work| work.need).sum();
        let unwritten = self.turns.iter().flat_map(|turn| &turn.leaving);
        let charged: u128 = unwritten
            .filter_map(|effect| match effect {
                ChannelEffect::Charged { amount, .. } => Some(amount.units()),
                _ => None,
            })
            .sum();
        let promised = self.channel.record.voucher;
        let promised = promised.map_or(Amount::ZERO, |voucher| voucher.max_claimable);
        let room = promised.saturating_sub(self.durable.charged).units();
        assert!(
            needs + charged <= room,
            "{needs} in flight and {charged} unwritten, {room} promised"
        );
        self.tally.lost += needs + charged;
        self.tally.served += needs;
        self.working.clear();
        self.turns.clear();
        self.answers.clear();
        self.awaited.clear();
        self.claiming = None;
        self.heard = None;
        self.settled_at = self.now;
        self.channel = ProviderChannel::restored(ChannelId(B256::ZERO), self.durable.clone());
    }

    /// The disk is lost as well, while nothing is on its way to the chain: what was charged and not
    /// claimed is unpaid.
    fn lose_store(&mut self) {
        let sure = &self.chain.blocks[self.chain.sure];
        let is_final = |(sent, transaction): (usize, &Sent)| match transaction.signed {
            Signed::Refund { nonce, .. } => nonce < sure.state.refund_nonce,
            Signed::Claim(_) | Signed::Deposit(_) => sure.landed.contains_key(&sent),
        };
        let is_quiet = self.chain.sent.iter().enumerate().all(is_final);
        let claimed = sure.state.total_claimed;
        if self.is_away() || !is_quiet {
            return;
        }
        self.crash();
        self.tally.stores_lost += 1;
        let kept = self.paid_for.min(claimed.units());
        self.tally.lost += self.paid_for - kept;
        self.paid_for = kept;
        self.durable = ProviderRecord::new(config());
        self.channel = ProviderChannel::restored(ChannelId(B256::ZERO), self.durable.clone());
    }

    fn follow(&mut self) {
        if self.refuses_events {
            self.heard = None;
            return;
        }
        let Some((state, sight)) = self.look() else {
            return;
        };
        // An event names the channel, and only then it is read.
        if self.followed != Some(state) {
            self.followed = Some(state);
            self.feed(ChannelEvent::Onchain { state, sight });
        }
        self.heard = Some(sight);
    }

    /// What settlement does: it claims what is due where a withdrawal is known, or as it likes.
    fn settle(&mut self, asked: bool) {
        if self.claiming.is_some() || self.is_away() {
            return;
        }
        self.settled_at = self.now;
        self.follow();
        self.commit_all();
        if !self.durable.may_be_due() {
            return;
        }
        let mut record = self.durable.clone();
        if self.heard.is_none() || asked {
            let Some((state, sight)) = self.look() else {
                return;
            };
            record.onchain = Some(state);
            self.feed(ChannelEvent::Onchain { state, sight });
        }
        let is_leaving = record
            .onchain
            .is_some_and(|state| state.withdraw_requested_at != 0);
        let Some(row) = record.claim_row() else {
            return;
        };
        if !(is_leaving || asked || self.random.one_in(6)) {
            return;
        }
        let max_claimable = row.voucher.max_claimable_amount;
        self.feed(ChannelEvent::Publish { max_claimable });
        if self.random.one_in(12) && !asked {
            return self.crash();
        }
        self.commit_all();
        self.tally.claims += 1;
        let claim = Signed::Claim(row.total_claimed);
        self.claiming = Some(self.chain.send(claim, self.now));
    }

    /// Tells what became of transactions, once it is final and can be seen.
    fn end_transactions(&mut self) {
        if !matches!(self.endpoint, Endpoint::Works) {
            return;
        }
        if let Some(sent) = self.claiming
            && let Some(works) = self.chain.outcome(sent)
        {
            assert!(works, "a claim of what is gone");
            self.claiming = None;
            if let Some((state, sight)) = self.look() {
                self.feed(ChannelEvent::Onchain { state, sight });
            }
        }
        for (sent, request) in std::mem::take(&mut self.awaited) {
            let Some(works) = self.chain.outcome(sent) else {
                self.awaited.push((sent, request));
                continue;
            };
            let outcome = match self.look().filter(|_| works) {
                Some((onchain, sight)) => Ok(Transacted {
                    transaction: "0xab".to_owned(),
                    amount: Amount::ZERO,
                    onchain,
                    sight,
                }),
                None => Err(ErrorCode::RefundTransaction),
            };
            self.feed(ChannelEvent::Done { request, outcome });
        }
    }

    /// One block's time passes.
    fn pass(&mut self) {
        self.now = self.now.plus_ms(1 + self.random.below(BLOCK_MS));
        if !self.stalled {
            self.chain.mine(&mut self.random, self.now);
        }
        if self.is_away() && self.now.ms_since(self.turned_at) >= AWAY_MS_MAX {
            self.heal();
        }
        let now = self.now;
        let is_over = |work: &Work| now.ms_since(work.since) >= WORK_MS_MAX;
        while let Some(index) = self.working.iter().position(is_over) {
            self.finish(index);
        }
        if self.random.below(4) > 0 {
            self.follow();
        }
        self.end_transactions();
        if self.now.ms_since(self.settled_at) >= SETTLE_MS {
            self.settle(false);
        }
        self.answer();
        self.feed(ChannelEvent::Tick);
        if self.random.one_in(2) {
            self.commit_all();
        }
    }

    /// The chain is within reach again; work does not take for ever.
    fn heal(&mut self) {
        if self.is_away() {
            self.turned_at = self.now;
        }
        (self.endpoint, self.stalled) = (Endpoint::Works, false);
        while !self.working.is_empty() {
            self.finish(0);
        }
        self.commit_all();
        self.settle(false);
    }

    fn go_away(&mut self) {
        let since = self.now.ms_since(self.turned_at);
        if !self.is_away() && since < WITHIN_REACH_MS {
            return;
        }
        if !self.is_away() {
            self.turned_at = self.now;
        }
        match self.random.below(3) {
            0 => self.stalled = true,
            1 => self.endpoint = Endpoint::Dead,
            _ if matches!(self.endpoint, Endpoint::Works) => {
                let (state, at) = self.shown();
                self.endpoint = Endpoint::Stuck(state, at);
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        match self.random.below(64) {
            0..=17 => self.pay(),
            18..=27 => self.work(),
            28..=37 => self.pass(),
            38 => (0..self.random.below(40)).for_each(|_| self.pass()),
            39..=40 => self.ask_refund(),
            41..=46 => self.commit(false),
            47 => self.commit(true),
            48..=50 => self.answer(),
            51..=52 => self.follow(),
            53..=55 if !self.stalled => {
                self.tally.reorganized += 1;
                self.chain.reorganize(&mut self.random, self.now);
            }
            56..=57 => self.go_away(),
            58..=59 => self.heal(),
            60 => self.refuses_events = !self.refuses_events,
            61..=62 => self.crash(),
            63 if self.random.one_in(8) => self.lose_store(),
            _ => {}
        }
        self.check();
    }

    fn check(&self) {
        // What a lost store had claimed is known from the chain alone.
        let claimed = self.chain.blocks[self.chain.sure].state.total_claimed;
        let charged = self.durable.charged.max(claimed);
        assert!(
            amount(self.paid_for) <= charged,
            "a reply left before its charge was durable"
        );
        let is_covered = self.durable.unclaimed().is_zero() || self.durable.claim_row().is_some();
        assert!(is_covered, "no durable voucher covers what was charged");
        let held = self.chain.head().state.balance.units();
        assert!(
            self.paid_for <= held,
            "{} served, {held} left to claim",
            self.paid_for
        );
    }

    /// At the end all that was charged is claimed, whatever the payer still takes back.
    fn end(&mut self) {
        self.heal();
        for _ in 0..4 {
            for _ in 0..20 {
                self.pass();
                self.check();
            }
            self.settle(true);
        }
        for _ in 0..20 {
            self.pass();
        }
        let claimed = self.chain.blocks[self.chain.sure].state.total_claimed;
        assert!(
            self.paid_for <= claimed.units(),
            "{} served, {claimed} claimed",
            self.paid_for
        );
        let Tally { served, lost, .. } = self.tally;
        assert_eq!(served - lost, self.paid_for, "all served work is accounted");
    }
}

#[test]
fn sums_no_history_serves_more_unpaid_than_what_was_in_flight_at_a_crash() {
    let first: u64 = 0x5e11;
    let mut all = Tally::default();
    for seed in first..first + SEEDS {
        let mut history = History::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                history.step();
            }
            history.end();
            history.tally
        });
        let Ok(tally) = std::panic::catch_unwind(run) else {
            panic!("seed {seed:#x} breaks the sum")
        };
        all.served += tally.served;
        all.lost += tally.lost;
        all.side_by_side = all.side_by_side.max(tally.side_by_side);
        all.reorganized += tally.reorganized;
        all.crashes += tally.crashes;
        all.stores_lost += tally.stores_lost;
        all.refunds += tally.refunds;
        all.claims += tally.claims;
    }
    println!("seeds {first:#x} to {:#x}: {all:?}", first + SEEDS);
    assert!(all.served > 500_000 && all.side_by_side > 4, "{all:?}");
    assert!(all.refunds > 500 && all.claims > 2_000, "{all:?}");
}

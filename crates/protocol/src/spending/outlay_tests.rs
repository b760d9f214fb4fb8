//! What a household can lose in a day, over random histories.
//!
//! **Lost** is what strangers took, by claims and transfers, and what they can still take: on each
//! channel the highest voucher that left, but no more than the channel holds or may yet receive by
//! deposits that left; and each authorization that left and was used or still can be. What strangers
//! gave for it counts for nothing here. Lost **on a day** is what of it goes beyond what had been
//! promised when the day began: at most the limit of the day. Over all days, at most their sum.

use alloy_primitives::Address;

use super::*;
use crate::channel::payer::{Outcome, PayerChannel, PayerRecord};
use crate::channel::{OnchainState, Voucher, channel_state};
use crate::eip712::ChannelConfig;
use crate::id::ChainId;
use crate::signature::Signature;
use crate::x402::ChargeStatement;

const PER_DAY: u128 = 1_000;
const LOCKED: u128 = 2_500;
const CONFIRMATIONS: usize = 3;
const STEPS: usize = 250;
/// Histories that are tried.
const SEEDS: u64 = 1_500;

fn amount(units: u128) -> Amount {
    Amount::new(units)
}

fn asset() -> AssetId {
    AssetId {
        chain: ChainId(1),
        token: Address::repeat_byte(2),
    }
}

fn limit() -> AssetLimit {
    AssetLimit {
        deposits_per_day: amount(1_500),
        locked: amount(LOCKED),
        ..AssetLimit::new(amount(300), amount(400), amount(PER_DAY))
    }
}

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

    fn pick<T>(&mut self, of: &[T]) -> Option<usize> {
        let length = u64::try_from(of.len()).unwrap();
        (length > 0).then(|| usize::try_from(self.below(length)).unwrap())
    }
}

/// A block: what the chain has as of it.
#[derive(Clone, Default)]
struct Block {
    at_s: u64,
    balances: BTreeMap<ChannelId, Amount>,
    claimed: BTreeMap<ChannelId, Amount>,
    used: BTreeMap<B256, bool>,
    landed: BTreeMap<u64, bool>,
}

#[derive(Clone, Copy)]
struct SentDeposit {
    number: u64,
    channel: ChannelId,
    amount: Amount,
    valid_before_s: u64,
}

#[derive(Clone, Copy)]
struct SentTransfer {
    nonce: B256,
    amount: Amount,
    valid_before_s: u64,
}

/// What strangers hold, and the chain that they act on.
struct Strangers {
    blocks: Vec<Block>,
    /// The height of the newest block that was ever buried deep enough: it never goes away.
    sure: usize,
    vouchers: BTreeMap<ChannelId, Amount>,
    deposits: Vec<SentDeposit>,
    transfers: Vec<SentTransfer>,
}

impl Strangers {
    fn head(&self) -> &Block {
        self.blocks.last().unwrap()
    }

    fn confirmed(&self) -> &Block {
        &self.blocks[self.sure]
    }

    /// A new block, with whatever the strangers put into it.
    fn mine(&mut self, random: &mut Random, seconds: u64) {
        let mut block = self.head().clone();
        block.at_s += 1 + seconds;
        for deposit in &self.deposits {
            let fits = block.at_s < deposit.valid_before_s;
            if fits && !block.landed.contains_key(&deposit.number) && random.below(2) == 0 {
                block.landed.insert(deposit.number, true);
                let balance = block.balances.entry(deposit.channel).or_default();
                *balance = balance.saturating_add(deposit.amount);
            }
        }
        for transfer in &self.transfers {
            if block.at_s < transfer.valid_before_s && random.below(3) == 0 {
                block.used.insert(transfer.nonce, true);
            }
        }
        for (channel, max) in &self.vouchers {
            let balance = block.balances.get(channel).copied().unwrap_or_default();
            let claimed = block.claimed.entry(*channel).or_default();
            if random.below(4) == 0 {
                *claimed = (*claimed).max((*max).min(balance));
            }
            if random.below(16) == 0 && block.balances.contains_key(channel) {
                block.balances.insert(*channel, *claimed);
            }
        }
        self.blocks.push(block);
        let buried = self.blocks.len().saturating_sub(CONFIRMATIONS + 1);
        self.sure = self.sure.max(buried);
    }

    /// Blocks that were not yet confirmed go away.
    fn reorganize(&mut self, random: &mut Random) {
        let depth = usize::try_from(random.below(3)).unwrap() + 1;
        let keep = self.blocks.len().saturating_sub(depth);
        self.blocks.truncate(keep.max(self.sure + 1));
    }

    /// What was taken on a channel, and what can still be, on any branch that may yet win.
    fn takeable(&self, channel: ChannelId) -> u128 {
        let max = self.vouchers.get(&channel).copied().unwrap_or_default();
        max.units().min(self.escrowed(channel))
    }

    /// What was taken by one-off payments, and what can still be, from the one with this number on.
    fn transferable(&self, from: usize) -> u128 {
        let sure = self.confirmed();
        let counts = |transfer: &&SentTransfer| {
            sure.used.contains_key(&transfer.nonce) || sure.at_s < transfer.valid_before_s
        };
        let counted = self.transfers[from..].iter().filter(counts);
        counted.map(|transfer| transfer.amount.units()).sum()
    }

    /// What is in escrow of the household's, at most.
    fn escrowed(&self, channel: ChannelId) -> u128 {
        let sure = self.confirmed();
        let held = sure.balances.get(&channel).copied().unwrap_or_default();
        let may_land = self.deposits.iter().filter(|deposit| {
            deposit.channel == channel
                && !sure.landed.contains_key(&deposit.number)
                && sure.at_s < deposit.valid_before_s
        });
        may_land
            .fold(held, |sum, deposit| sum.saturating_add(deposit.amount))
            .units()
    }
}

struct History {
    random: Random,
    now: Timestamp,
    outlays: Outlays,
    /// What is durable: what a crash leaves.
    rows: BTreeMap<ChannelId, ChannelOutlay>,
    authorized: BTreeMap<B256, AuthorizationOutlay>,
    channels: Vec<PayerChannel>,
    open: Vec<(PromiseReservation, usize, Promised)>,
    strangers: Strangers,
    /// What had been promised when each day began: by channel, and how many one-off payments.
    dawns: BTreeMap<u64, (BTreeMap<ChannelId, Amount>, usize)>,
    next: u64,
    served: usize,
}

fn signature() -> Signature {
    let mut bytes = [1; 65];
    bytes[64] = 27;
    Signature::from_bytes(&bytes).unwrap()
}

impl History {
    fn new(seed: u64) -> Self {
        let now = Timestamp(86_400_000 * 20_000 + 80_000_000);
        let genesis = Block {
            at_s: now.as_secs(),
            ..Block::default()
        };
        Self {
            random: Random(seed),
            now,
            outlays: Outlays::default(),
            rows: BTreeMap::new(),
            authorized: BTreeMap::new(),
            channels: Vec::new(),
            open: Vec::new(),
            strangers: Strangers {
                blocks: vec![genesis],
                sure: 0,
                vouchers: BTreeMap::new(),
                deposits: Vec::new(),
                transfers: Vec::new(),
            },
            dawns: BTreeMap::new(),
            next: 0,
            served: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn step(&mut self) {
        match self.random.below(15) {
            0 => self.open_channel(),
            1..=4 => self.reserve(),
            5..=7 => self.sign(),
            8 => self.state(),
            9 => self.pay_once(),
            10 => self.pass_time(),
            11 => self.crash(),
            12 => self.strangers.reorganize(&mut self.random),
            13 => self.look(),
            _ => {
                let seconds = [1, 30, 300, 700][self.random.pick(&[0; 4]).unwrap()];
                self.strangers.mine(&mut self.random, seconds);
            }
        }
        self.check();
    }

    fn open_channel(&mut self) {
        let number = self.number();
        let config = ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(3),
            receiver: Address::repeat_byte(4),
            receiver_authorizer: Address::repeat_byte(5),
            token: asset().token,
            withdraw_delay: 900,
            salt: B256::with_last_byte(7),
        };
        let id = ChannelId(B256::from(alloy_primitives::U256::from(number)));
        self.channels
            .push(PayerChannel::new(id, PayerRecord::new(config)));
    }

    /// Finds room for a payment, which is signed later: several are side by side.
    fn reserve(&mut self) {
        let Some(index) = self.random.pick(&self.channels) else {
            return;
        };
        let ceiling = amount(u128::from(self.random.below(300)) + 1);
        let channel = &mut self.channels[index];
        let Ok(promise) = channel.prepare(ceiling, amount(200)) else {
            return;
        };
        let promised = Promised {
            channel: channel.id(),
            asset: asset(),
            signed: channel.record().promised(),
            max_claimable: promise.max_claimable,
            deposit: promise.deposit,
        };
        let reserved = self.outlays.reserve_promise(promised, &limit(), self.now);
        match reserved {
            Ok(reserved) if self.random.below(8) == 0 => {
                // The owner says no.
                self.outlays.release_promise(reserved);
                self.channels[index].finish(Outcome::NotCharged).unwrap();
            }
            Ok(reserved) => self.open.push((reserved, index, promised)),
            Err(_) => {
                self.channels[index].finish(Outcome::NotCharged).unwrap();
            }
        }
    }

    /// Signs what was reserved; the node may stop before it is durable, and before it leaves.
    fn sign(&mut self) {
        let Some(index) = self.random.pick(&self.open) else {
            return;
        };
        let (reserved, index, promised) = self.open.swap_remove(index);
        if self.random.below(20) == 0 {
            return self.crash();
        }
        let voucher = Voucher {
            max_claimable: promised.max_claimable,
            signature: signature(),
        };
        let channel = &mut self.channels[index];
        channel.sign(self.now, voucher);
        let row = self.outlays.promised(reserved, self.now);
        self.rows.insert(promised.channel, row);
        self.served += 1;
        if self.random.below(10) == 0 {
            return self.crash();
        }
        let max = self.strangers.vouchers.entry(promised.channel).or_default();
        *max = (*max).max(promised.max_claimable);
        if let Some(amount) = promised.deposit {
            let number = self.number();
            self.strangers.deposits.push(SentDeposit {
                number,
                channel: promised.channel,
                amount,
                valid_before_s: super::super::valid_before_s(self.now, 600),
            });
        }
        if self.random.below(3) == 0 {
            // It breaks off, or refuses.
            let outcomes = [Outcome::Unknown, Outcome::NotCharged];
            let outcome = self.random.pick(&outcomes).unwrap();
            let outcome = outcomes.into_iter().nth(outcome).unwrap();
            self.channels[index].finish(outcome).unwrap();
        }
    }

    /// A provider states what it charged, truly or not.
    fn state(&mut self) {
        let signed = self.channels.iter().position(|channel| {
            channel.is_in_flight()
                && !self
                    .open
                    .iter()
                    .any(|(_, _, one)| one.channel == channel.id())
        });
        let Some(index) = signed else { return };
        let lie = amount(u128::from(self.random.below(320)));
        let channel = &mut self.channels[index];
        let sum = channel.record().charged.saturating_add(lie);
        let balance = channel.record().balance.saturating_add(amount(200));
        let onchain = OnchainState {
            balance,
            ..OnchainState::default()
        };
        let state = channel_state(channel.id(), &onchain, Some(sum));
        // Where this is a lie too great, the channel signs nothing more.
        let _ = channel.finish(Outcome::Stated(Box::new(ChargeStatement {
            charged_amount: Some(lie),
            charged_total: None,
            channel_state: (self.random.below(2) == 0).then_some(state),
        })));
        let (id, record) = (channel.id(), channel.record().clone());
        self.keep(id, &record);
    }

    fn keep(&mut self, id: ChannelId, record: &PayerRecord) {
        let kept = self.outlays.keep(id, record.refundable());
        self.rows.extend(kept.map(|row| (id, row)));
    }

    fn pay_once(&mut self) {
        let price = amount(u128::from(self.random.below(300)) + 1);
        let nonce = B256::from(alloy_primitives::U256::from(self.number()));
        let reserved = self
            .outlays
            .reserve_authorization(asset(), price, &limit(), self.now);
        let Ok(reserved) = reserved else { return };
        let valid_before_s = super::super::valid_before_s(self.now, self.random.below(900));
        let (row, over) = self
            .outlays
            .authorized(reserved, nonce, valid_before_s, self.now);
        self.authorized.insert(nonce, row);
        for nonce in over {
            self.authorized.remove(&nonce);
        }
        self.strangers.transfers.push(SentTransfer {
            nonce,
            amount: price,
            valid_before_s,
        });
    }

    /// The clock goes on, now and then back; the chain keeps time, stalls, or is far behind.
    fn pass_time(&mut self) {
        let step = [1_000, 60_000, 700_000, 30_000_000][self.random.pick(&[0; 4]).unwrap()];
        if self.random.below(6) == 0 {
            self.now = Timestamp(self.now.0.saturating_sub(step));
        } else {
            self.now = self.now.plus_ms(step);
        }
        let behind = self
            .now
            .as_secs()
            .saturating_sub(self.strangers.head().at_s);
        if self.random.below(4) > 0 {
            self.strangers.mine(&mut self.random, behind);
        }
    }

    /// The process is killed: what is open in memory is gone, what is durable is not.
    fn crash(&mut self) {
        self.open.clear();
        let channels = std::mem::take(&mut self.channels);
        self.channels = channels
            .into_iter()
            .map(|channel| PayerChannel::new(channel.id(), channel.record().clone()))
            .collect();
        let before = (0, BTreeMap::new());
        self.outlays = Outlays::restore(self.rows.clone(), self.authorized.clone(), before);
    }

    /// Reads the chain, where it answers; the endpoint may refuse one method and not the other.
    fn look(&mut self) {
        let refused = self.random.below(8);
        let sure = self.strangers.confirmed().clone();
        if refused > 1 {
            self.look_at_channels(&sure);
        }
        if !matches!(refused, 1 | 2) {
            self.look_at_authorizations(&sure);
        }
    }

    fn look_at_channels(&mut self, sure: &Block) {
        for index in 0..self.channels.len() {
            let channel = &mut self.channels[index];
            if channel.is_in_flight() {
                continue;
            }
            let id = channel.id();
            let balance = sure.balances.get(&id).copied().unwrap_or_default();
            let record = channel.observe(&OnchainState {
                balance,
                total_claimed: sure.claimed.get(&id).copied().unwrap_or_default(),
                ..OnchainState::default()
            });
            let (locked, at_s) = (record.refundable(), sure.at_s);
            let record = record.clone();
            self.keep(id, &record);
            let seen = SeenChannel {
                balance,
                locked,
                at_s,
            };
            let seen = self.outlays.observe(id, seen);
            self.rows.extend(seen.map(|row| (id, row)));
        }
    }

    fn look_at_authorizations(&mut self, sure: &Block) {
        for (nonce, _) in self.outlays.outstanding(asset()) {
            if !sure.used.contains_key(&nonce) && self.outlays.unused(nonce, sure.at_s) {
                self.authorized.remove(&nonce);
            }
        }
    }

    fn check(&mut self) {
        let day = self.outlays.book.day(self.now);
        // A later day on which nothing was signed is forgotten by a crash, and begins anew.
        self.dawns.retain(|known, _| *known <= day);
        let levels = self.outlays.channels.iter();
        let levels = levels.map(|(channel, row)| (*channel, row.level)).collect();
        let sent = self.strangers.transfers.len();
        let (levels, from) = self.dawns.entry(day).or_insert((levels, sent));
        let of_channel = |id: &ChannelId| {
            let before = levels.get(id).copied().unwrap_or_default();
            self.strangers.takeable(*id).saturating_sub(before.units())
        };
        let of_channels: u128 = self.strangers.vouchers.keys().map(of_channel).sum();
        let today = of_channels + self.strangers.transferable(*from);
        assert!(today <= PER_DAY, "{today} may be lost on day {day}");
        let channels = self.strangers.vouchers.keys();
        let in_all: u128 = channels.map(|id| self.strangers.takeable(*id)).sum();
        let in_all = in_all + self.strangers.transferable(0);
        let days = u128::try_from(self.dawns.len()).unwrap();
        assert!(in_all <= PER_DAY * days, "{in_all} in {days} days");
        let escrowed: u128 = self
            .channels
            .iter()
            .map(|channel| {
                let held = self.strangers.escrowed(channel.id());
                held.saturating_sub(channel.record().charged.units())
            })
            .sum();
        assert!(escrowed <= LOCKED, "{escrowed} may be locked");
    }
}

#[test]
fn sums_no_history_loses_more_in_a_day_than_the_limit() {
    let first: u64 = 0x5eed;
    let mut served = 0;
    for seed in first..first + SEEDS {
        let mut history = History::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                history.step();
            }
            history.served
        });
        match std::panic::catch_unwind(run) {
            Ok(count) => served += count,
            Err(_) => panic!("seed {seed:#x} breaks the sum"),
        }
    }
    println!(
        "seeds {first:#x} to {:#x}, {served} promises",
        first + SEEDS
    );
    assert!(served > 10_000, "{served}: the histories must do something");
}

fn promised(channel: u8, signed: u128, max_claimable: u128, deposit: Option<u128>) -> Promised {
    Promised {
        channel: ChannelId(B256::repeat_byte(channel)),
        asset: asset(),
        signed: amount(signed),
        max_claimable: amount(max_claimable),
        deposit: deposit.map(amount),
    }
}

const NOON: Timestamp = Timestamp(86_400_000 * 20_000 + 43_200_000);

#[test]
fn six_sellers_that_break_off_cannot_take_six_days() {
    let mut outlays = Outlays::default();
    let mut taken = 0;
    for seller in 0..6 {
        let promised = promised(seller, 0, PER_DAY, None);
        if let Ok(reserved) = outlays.reserve_promise(promised, &limit(), NOON) {
            outlays.promised(reserved, NOON);
            taken += 1;
        }
    }
    assert_eq!(taken, 1);
    assert_eq!(outlays.spent_today(asset(), NOON), amount(PER_DAY));
}

#[test]
fn a_channel_counts_its_highest_voucher_once() {
    let mut outlays = Outlays::default();
    let mut pay = |signed, max| {
        let promised = promised(1, signed, max, None);
        let reserved = outlays.reserve_promise(promised, &limit(), NOON).unwrap();
        outlays.promised(reserved, NOON);
        outlays.spent_today(asset(), NOON).units()
    };
    assert_eq!(pay(0, 300), 300);
    // 20 were charged of it: the next voucher of 300 more adds 20 to what can be taken.
    assert_eq!(pay(300, 320), 320);
    // A lower voucher adds nothing.
    assert_eq!(pay(320, 310), 320);
}

#[test]
fn an_old_voucher_that_a_new_deposit_revives_counts_again() {
    let mut outlays = Outlays::default();
    let first = promised(1, 0, 300, Some(300));
    let reserved = outlays.reserve_promise(first, &limit(), NOON).unwrap();
    outlays.promised(reserved, NOON);
    let id = first.channel;
    let early = SeenChannel {
        balance: amount(0),
        locked: amount(0),
        at_s: NOON.as_secs(),
    };
    assert_eq!(
        outlays.observe(id, early),
        None,
        "the deposit may still arrive"
    );
    let late = SeenChannel {
        at_s: NOON.as_secs() + TIMEOUT_S_MAX + 1,
        ..early
    };
    outlays.observe(id, late).unwrap();
    assert_eq!(outlays.spent_today(asset(), NOON), amount(0));
    assert_eq!(outlays.locked(asset()), amount(0));
    let again = promised(1, 300, 10, Some(300));
    let reserved = outlays.reserve_promise(again, &limit(), NOON).unwrap();
    assert_eq!(reserved.amount(), amount(300));
    outlays.release_promise(reserved);
}

#[test]
fn deposits_have_limits_of_their_own() {
    let mut outlays = Outlays::default();
    let too_much = promised(0, 0, 1, Some(401));
    let declined = outlays.reserve_promise(too_much, &limit(), NOON);
    assert!(matches!(declined, Err(Declined::PerDeposit { .. })));
    for seller in 1..=3 {
        let promised = promised(seller, 0, 1, Some(400));
        let reserved = outlays.reserve_promise(promised, &limit(), NOON).unwrap();
        outlays.promised(reserved, NOON);
    }
    let fourth = promised(4, 0, 1, Some(400));
    let declined = outlays.reserve_promise(fourth, &limit(), NOON);
    assert!(matches!(declined, Err(Declined::DepositsPerDay { .. })));
    assert_eq!(
        outlays.spent_today(asset(), NOON),
        amount(3),
        "nothing stays reserved"
    );
    let tomorrow = Timestamp(NOON.0 + 86_400_000);
    for seller in 5..=7 {
        let promised = promised(seller, 0, 1, Some(400));
        let reserved = outlays
            .reserve_promise(promised, &limit(), tomorrow)
            .unwrap();
        outlays.promised(reserved, tomorrow);
    }
    let eighth = promised(8, 0, 1, Some(400));
    let declined = outlays.reserve_promise(eighth, &limit(), tomorrow);
    assert!(
        matches!(declined, Err(Declined::Locked { .. })),
        "{declined:?}"
    );
}

#[test]
fn an_authorization_counts_until_the_chain_has_passed_its_end() {
    let mut outlays = Outlays::default();
    let nonce = B256::repeat_byte(1);
    let reserved = outlays.reserve_authorization(asset(), amount(900), &limit(), NOON);
    let until = NOON.as_secs() + 60;
    outlays.authorized(reserved.unwrap(), nonce, until, NOON);
    assert!(!outlays.unused(nonce, until - 1), "it can still be used");
    let more = outlays.reserve_authorization(asset(), amount(101), &limit(), NOON);
    assert!(matches!(more, Err(Declined::PerDay { .. })));
    assert!(outlays.unused(nonce, until));
    assert_eq!(outlays.spent_today(asset(), NOON), amount(0));
    assert!(!outlays.unused(nonce, until), "once");
}

#[test]
fn what_was_counted_before_a_restart_counts_after_it() {
    let mut outlays = Outlays::default();
    let mut rows = BTreeMap::new();
    for seller in 1..=3 {
        let promised = promised(seller, 0, 300, Some(300));
        let reserved = outlays.reserve_promise(promised, &limit(), NOON).unwrap();
        rows.insert(promised.channel, outlays.promised(reserved, NOON));
    }
    let nothing = (0, BTreeMap::new());
    let mut again = Outlays::restore(rows.clone(), BTreeMap::new(), nothing);
    assert_eq!(again.spent_today(asset(), NOON), amount(900));
    assert_eq!(again.locked(asset()), amount(900));
    // An older version kept one sum a day.
    let sum = (super::super::day(NOON), [(asset(), amount(50))].into());
    let mut again = Outlays::restore(rows, BTreeMap::new(), sum);
    assert_eq!(again.spent_today(asset(), NOON), amount(950));
}

#[test]
fn a_deposit_that_is_said_to_have_arrived_may_still_arrive() {
    let mut outlays = Outlays::default();
    let first = promised(1, 0, 300, Some(300));
    let reserved = outlays.reserve_promise(first, &limit(), NOON).unwrap();
    outlays.promised(reserved, NOON);
    // The provider states the deposit, and never sent it; then the payer reads the chain.
    outlays.keep(first.channel, amount(300)).unwrap();
    outlays.keep(first.channel, amount(0)).unwrap();
    let seen = SeenChannel {
        balance: amount(0),
        locked: amount(0),
        at_s: NOON.as_secs() + 300,
    };
    assert_eq!(outlays.observe(first.channel, seen), None);
    assert_eq!(outlays.spent_today(asset(), NOON), amount(300));
    assert_eq!(outlays.locked(asset()), amount(300));
}

#[test]
fn what_an_earlier_day_pruned_cannot_come_back_with_that_day() {
    let mut outlays = Outlays::default();
    let nonce = B256::repeat_byte(1);
    let reserved = outlays.reserve_authorization(asset(), amount(900), &limit(), NOON);
    let until = NOON.as_secs() + 60;
    let (row, _) = outlays.authorized(reserved.unwrap(), nonce, until, NOON);
    let tomorrow = Timestamp(NOON.0 + 86_400_000);
    // The clock shows tomorrow, nothing is signed, the node stops, the clock goes back.
    assert_eq!(outlays.spent_today(asset(), tomorrow), amount(0));
    let rows: BTreeMap<_, _> = [(nonce, row)].into();
    let before = (0, BTreeMap::new());
    let mut again = Outlays::restore(BTreeMap::new(), rows, before);
    assert_eq!(again.spent_today(asset(), NOON), amount(900));
    // What is signed tomorrow lets the old row go, in the same step that makes tomorrow durable.
    let reserved = again.reserve_authorization(asset(), amount(1), &limit(), tomorrow);
    let second = B256::repeat_byte(2);
    let (row, over) = again.authorized(reserved.unwrap(), second, until, tomorrow);
    assert_eq!(over, [nonce]);
    let rows = [(second, row)].into();
    let mut again = Outlays::restore(BTreeMap::new(), rows, (0, BTreeMap::new()));
    let more = again.reserve_authorization(asset(), amount(1_000), &limit(), NOON);
    assert!(more.is_err(), "the day does not go back");
}

//! A payer, providers and a chain, and everything that goes wrong between them.

use std::fmt;

use alloy_primitives::Address;
use hearth_protocol::answer::Price;
use hearth_protocol::channel::provider::TRANSIT_MS_MAX;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::Openness;
use hearth_protocol::spending::AssetLimit;
use hearth_protocol::time::Timestamp;

use crate::chain::{Chain, Transaction, WITHDRAW_DELAY_S};
use crate::invariant::{Broken, ensure};
use crate::key::Key;
use crate::outside::{AWAY_MS_MAX, Happening, Log, Outside, SellerNumber};
use crate::payer::{Habit, Payer, PayerTally};
use crate::purse::Purse;
use crate::random::Random;
use crate::seller::{Nature, Seller, SellerTally, serving};

/// When a run begins: five minutes before a day ends, so that limits of the day begin anew in many runs.
const START: Timestamp = Timestamp(20_834 * 86_400_000 - 300_000);
const BLOCK_MS: u64 = 4_000;
/// The payer's tokens at the beginning.
const WALLET: Amount = Amount::new(1_000_000);
const PER_PAYMENT: Amount = Amount::new(2_000);
const PER_DEPOSIT: Amount = Amount::new(1_500);
const PER_DAY: Amount = Amount::new(20_000);
/// Things that happen in one run before it is brought to its end, at most.
const HAPPENINGS_MAX: usize = 20_000;

/// Who breaks the rules in a run. Nobody is promised anything where both sides do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liars {
    /// Nobody does.
    Nobody,
    /// Some of the providers.
    Providers,
    /// The payer.
    Payer,
}

/// What happened in a run that kept every invariant.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Who broke the rules.
    pub liars: Liars,
    /// The payer's side.
    pub payer: PayerTally,
    /// The providers' side.
    pub sellers: Vec<SellerTally>,
    /// The hash of all that happened.
    pub hash: String,
}

/// A run that broke an invariant, with the command that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The run.
    pub seed: u64,
    /// Milliseconds after its beginning.
    pub at_ms: u64,
    /// Which invariant, and what was seen.
    pub broken: Broken,
    /// The command that shows such a run.
    pub replay: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            at_ms,
            broken,
            replay,
        } = self;
        write!(
            f,
            "seed {seed:#x}, {at_ms} ms after its beginning: {broken}\nreplay it: cargo run -p hearth-sim -- {replay} {seed:#x}"
        )
    }
}

impl std::error::Error for Failure {}

/// One run.
#[derive(Debug)]
pub struct World {
    seed: u64,
    liars: Liars,
    outside: Outside,
    payer: Payer,
    sellers: Vec<Seller>,
    questions: u64,
    /// Nothing goes wrong any more, and nothing is asked.
    is_ending: bool,
}

impl World {
    /// The run that follows from a seed; `keeps_lines` keeps what happened as text.
    pub fn new(seed: u64, keeps_lines: bool) -> Self {
        let mut random = Random::new(seed);
        let liars = random.pick(&[Liars::Nobody, Liars::Providers, Liars::Payer]);
        let habit = match liars {
            Liars::Payer => random.pick(&Habit::BAD),
            Liars::Nobody | Liars::Providers => Habit::Honest,
        };
        let asset = AssetId {
            chain: ChainId(402_402),
            token: Address::repeat_byte(0x70),
        };
        let sellers = (0..3).map(|number| {
            let lies = liars == Liars::Providers && random.one_in(2);
            let nature = if lies {
                random.pick(&Nature::BAD)
            } else {
                Nature::Honest
            };
            Seller::new(number, nature, asset, price(&mut random, asset, number))
        });
        let sellers: Vec<_> = sellers.collect();
        let limit = AssetLimit::new(PER_PAYMENT, PER_DEPOSIT, PER_DAY);
        let purse = Purse::new(Key::numbered(1).address(), Key::numbered(2), asset, limit);
        let chain = Chain::new(START, WALLET);
        let mut outside = Outside::new(random, chain, START, Log::new(keeps_lines));
        let natures: Vec<_> = sellers.iter().map(|seller| seller.nature).collect();
        outside.say(format_args!("payer {habit:?}, providers {natures:?}"));
        Self {
            seed,
            liars,
            outside,
            payer: Payer::new(purse, habit),
            sellers,
            questions: 0,
            is_ending: false,
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn run(&mut self) -> Result<Summary, Failure> {
        let ran = self.live().and_then(|()| self.end());
        match ran {
            Ok(()) => Ok(Summary {
                liars: self.liars,
                payer: self.payer.tally.clone(),
                sellers: self
                    .sellers
                    .iter()
                    .map(|seller| seller.tally.clone())
                    .collect(),
                hash: self.outside.log.hash(),
            }),
            Err(broken) => {
                self.outside.say(format_args!("BROKEN {broken}"));
                Err(Failure {
                    seed: self.seed,
                    at_ms: self.outside.now.ms_since(START),
                    broken,
                    replay: "replay",
                })
            }
        }
    }

    /// What happened so far, as lines.
    pub fn log(&self) -> &Log {
        &self.outside.log
    }

    fn live(&mut self) -> Result<(), Broken> {
        self.questions = self.outside.random.between(1, 8);
        for seller in &mut self.sellers {
            seller.start(&mut self.outside);
        }
        self.outside.after(100, Happening::Question);
        self.outside.after(BLOCK_MS, Happening::Block);
        self.outside.after(1_000, Happening::Fault);
        let mut happened = 0;
        while (self.questions > 0 || self.payer.asking() > 0) && happened < HAPPENINGS_MAX {
            self.step()?;
            happened += 1;
        }
        Ok(())
    }

    /// One thing happens, and everything must be in order after it.
    fn step(&mut self) -> Result<(), Broken> {
        let Some(happening) = self.outside.next() else {
            return Ok(());
        };
        self.happen(happening)?;
        for seller in &self.sellers {
            if seller.nature == Nature::Honest {
                seller.check(&self.outside)?;
            }
        }
        self.check()
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        let outside = &mut self.outside;
        match happening {
            Happening::Question => self.question(),
            Happening::Up(stream, what) => match outside.seller_of(stream) {
                Some(seller) => self.sellers[seller].hear(outside, stream, what),
                None => Ok(()),
            },
            Happening::Down(stream, what) => self.payer.hear(outside, stream, what),
            Happening::PayerTick => self.payer.tick(outside),
            Happening::StreamTick(seller, stream) => self.sellers[seller].tick(outside, stream),
            Happening::ModelMakes(seller, stream) => self.sellers[seller].make(outside, stream),
            Happening::Written(seller, life) => self.sellers[seller].written(outside, life),
            Happening::ChainAnswers(seller, life, channel, answer) => {
                self.sellers[seller].chain_answers(outside, life, channel, answer)
            }
            Happening::Housekeeping(seller) => self.sellers[seller].keep_house(outside),
            Happening::Restarts(seller) => {
                self.sellers[seller].restart(outside);
                Ok(())
            }
            Happening::Block => self.block(),
            Happening::Fault => self.fault(),
        }
    }

    fn question(&mut self) -> Result<(), Broken> {
        if self.questions == 0 || self.is_ending {
            return Ok(());
        }
        self.questions -= 1;
        let outside = &mut self.outside;
        // Now and then so much later that withdrawals end.
        let rare_ms = outside.random.pick(&[60_000, 400_000, 1_000_000]);
        let soon_ms = outside.random.below(4_000);
        let next_ms = if outside.random.one_in(4) {
            rare_ms
        } else {
            soon_ms
        };
        if self.questions > 0 {
            outside.after(next_ms, Happening::Question);
        }
        for seller in self.sellers.iter().filter(|seller| seller.is_up) {
            let offer = seller.offer(outside.now);
            let observed = self.payer.market.observe(outside.now, offer);
            let is_sound = seller.nature != Nature::OffersAbsurdFile;
            ensure(
                observed.is_ok() == is_sound,
                "absurd-offers-are-refused",
                || format!("{:?}: {observed:?}", seller.nature),
            )?;
        }
        self.payer.ask(outside, serving().weights)
    }

    fn block(&mut self) -> Result<(), Broken> {
        let outside = &mut self.outside;
        let in_ms = outside.random.between(1, BLOCK_MS);
        // Nothing is done for long: then blocks are as rare.
        let in_ms = if self.payer.asking() == 0 && !self.is_ending {
            in_ms * 8
        } else {
            in_ms
        };
        outside.after(in_ms, Happening::Block);
        let away_ms = outside.now.ms_since(outside.turned_at);
        if outside.is_away() && away_ms >= AWAY_MS_MAX {
            self.heal()?;
        }
        let outside = &mut self.outside;
        if !outside.stalled {
            self.payer_acts();
            let outside = &mut self.outside;
            outside.chain.mine(&mut outside.random, outside.now);
        }
        for seller in &mut self.sellers {
            seller.end_transactions(&mut self.outside)?;
        }
        self.payer.purse.recount(&self.outside);
        Ok(())
    }

    /// What a payer does on the chain by itself.
    fn payer_acts(&mut self) {
        let outside = &mut self.outside;
        let withdraws = self.payer.habit == Habit::Withdraws && outside.random.one_in(3);
        for channel in self.payer.purse.channels.keys() {
            let state = outside.chain.newest(*channel);
            let channel = *channel;
            if state.withdraw_requested_at != 0 {
                let end = Transaction::EndWithdrawal { channel };
                outside.chain.send(end, outside.now);
            } else if withdraws || (self.is_ending && self.questions == 0) {
                let begin = Transaction::BeginWithdrawal { channel };
                outside.chain.send(begin, outside.now);
            }
        }
    }

    fn heal(&mut self) -> Result<(), Broken> {
        self.outside.heal();
        for seller in &mut self.sellers {
            seller.settle(&mut self.outside, false)?;
        }
        Ok(())
    }

    fn fault(&mut self) -> Result<(), Broken> {
        if self.is_ending {
            return Ok(());
        }
        let outside = &mut self.outside;
        let in_ms = outside.random.between(100, 8_000);
        outside.after(in_ms, Happening::Fault);
        let number = outside.random.index(self.sellers.len());
        match outside.random.below(24) {
            0 => {
                let streams = outside.open_streams();
                if !streams.is_empty() {
                    let stream = streams[outside.random.index(streams.len())];
                    outside.say(format_args!("stream {} breaks", stream.0));
                    outside.break_stream(stream);
                }
                Ok(())
            }
            1 if self.sellers[number].is_up => self.sellers[number].crash(outside),
            2..=4 if !outside.stalled => {
                outside.say(format_args!("the last blocks are undone"));
                let outside = &mut self.outside;
                outside.chain.reorganize(&mut outside.random, outside.now);
                Ok(())
            }
            5 => {
                outside.go_away();
                Ok(())
            }
            6..=7 => self.heal(),
            8 => self.payer.cancel(outside),
            9 if outside.random.one_in(2) => {
                self.payer.crash(outside);
                Ok(())
            }
            10 => self.sellers[number].open_to(outside, Openness::Nobody),
            11..=13 => {
                self.payer.ask_refund(outside);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check(&mut self) -> Result<(), Broken> {
        let (wallet, held) = self.outside.chain.totals();
        let sum = wallet.saturating_add(held);
        ensure(sum == WALLET, "no-token-is-lost", || {
            format!("{sum} of {WALLET} are there")
        })?;
        let spent = self.payer.purse.spent_today(self.outside.now);
        ensure(spent <= PER_DAY, "a-day-has-a-limit", || {
            format!("{spent} of {PER_DAY}")
        })?;
        for (channel, one) in &self.payer.purse.channels {
            let claimed = self.outside.chain.newest(*channel).total_claimed;
            let promised = one.machine.record().promised();
            ensure(claimed <= promised, "claims-are-promised", || {
                format!("{claimed} is claimed where {promised} was promised")
            })?;
        }
        Ok(())
    }

    /// Brings everything to its end: what was charged is claimed, and the payer takes back the rest.
    fn end(&mut self) -> Result<(), Broken> {
        self.questions = 0;
        self.is_ending = true;
        self.outside
            .say(format_args!("everything is brought to its end"));
        for seller in &mut self.sellers {
            if !seller.is_up {
                seller.restart(&mut self.outside);
            }
        }
        self.heal()?;
        self.live_for(60_000 + TRANSIT_MS_MAX)?;
        for _ in 0..3 {
            for seller in &mut self.sellers {
                seller.settle(&mut self.outside, true)?;
            }
            self.live_for(60_000)?;
        }
        // What was deposited after a withdrawal began takes another one.
        for _ in 0..4 {
            self.live_for(WITHDRAW_DELAY_S * 1_000 + 120_000)?;
        }
        for seller in &self.sellers {
            if seller.nature == Nature::Honest {
                seller.check_end(&self.outside)?;
            }
        }
        self.check_payer_end()
    }

    fn live_for(&mut self, ms: u64) -> Result<(), Broken> {
        let until = self.outside.now.plus_ms(ms);
        while self.outside.now < until {
            self.step()?;
        }
        Ok(())
    }

    /// An honest payer lost no more to any provider than the price of what it delivered and one window
    /// for each attempt, and has everything else back.
    fn check_payer_end(&self) -> Result<(), Broken> {
        ensure(self.payer.asking() == 0, "every-answer-ends", || {
            format!("{} are left at the end", self.payer.asking())
        })?;
        let mut earned = [Amount::ZERO; 3];
        for (channel, one) in &self.payer.purse.channels {
            let (state, _) = self.outside.chain.sure(*channel);
            let sum = &mut earned[one.seller];
            *sum = sum.saturating_add(state.total_claimed);
            let left = state.balance.saturating_sub(state.total_claimed);
            ensure(left.is_zero(), "the-rest-comes-back", || {
                format!("{left} is left in a channel")
            })?;
        }
        for (seller, earned) in earned.into_iter().enumerate() {
            let number: SellerNumber = seller;
            let most = self
                .payer
                .earned_max
                .get(&number)
                .copied()
                .unwrap_or_default();
            let honest = self.payer.habit == Habit::Honest;
            ensure(!honest || earned <= most, "losses-are-bounded", || {
                format!("provider {seller} earned {earned}, for at most {most}")
            })?;
        }
        Ok(())
    }
}

fn price(random: &mut Random, asset: AssetId, number: SellerNumber) -> Option<Price> {
    // The last one answers for nothing now and then.
    if number == 2 && random.one_in(4) {
        return None;
    }
    Some(Price {
        asset,
        per_million_prompt: Amount::new(u128::from(random.between(0, 2_000_000))),
        per_million_output: Amount::new(u128::from(random.between(100_000, 6_000_000))),
        floor: Amount::new(u128::from(random.below(20))),
    })
}

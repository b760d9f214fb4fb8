//! The market: which of the providers that offer a model to ask, and in what order (spec: answers,
//! section 10).
//!
//! It keeps the offers that stand and what this device has seen of those who made them. The order is
//! by one figure that a person can follow: what the answer would cost, as a share of what one
//! payment may cost, and how long it would take. Providers that failed lately come later; those
//! that said what cannot be true do not come at all for a day.
//!
//! Deliberately absent: the network that brings offers, and verdicts of others.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::answer::payer::AnswerDistrust;
use crate::answer::{Price, Serving, Spec};
use crate::content::ContentHash;
use crate::money::Amount;
use crate::offer::{Audience, DeviceId, Offer, OfferError, OfferedModel};
use crate::spending::Spending;
use crate::time::Timestamp;

/// Devices whose offers are kept at most.
pub const OFFERS_MAX: usize = 4_096;
/// Devices of which something is remembered at most.
pub const REMEMBERED_MAX: usize = 16_384;
/// How long a device that lied is not asked, in milliseconds.
pub const DISTRUST_MS: u64 = 24 * 60 * 60 * 1_000;
/// How long a device that failed once is not preferred, in milliseconds; doubled by each further time.
const BACKOFF_MS: u64 = 2_000;
/// Doublings of it at most.
const BACKOFF_DOUBLINGS_MAX: u32 = 8;
/// What a second of waiting is worth, in millionths of what one payment may cost.
const SECOND_WORTH_MILLIONTHS: u64 = 10_000;
/// What a failure that was not made good since is worth, in the same unit.
const FAILURE_WORTH_MILLIONTHS: u64 = 100_000;
/// The share of the old figure that is kept when a new one is seen, of 4.
const KEPT_OF_FOUR: u64 = 3;

/// What this device has seen of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Experience {
    /// Answers that it ended well.
    pub answers: u64,
    /// Times that it failed since.
    pub failures: u32,
    /// Not to be preferred before this.
    pub not_before: Timestamp,
    /// Output tokens per 1,000 seconds, as measured here.
    pub output_tokens_per_ks: Option<u64>,
    /// From the question to the first token, less the time for the prompt, in milliseconds.
    pub delay_ms: Option<u64>,
    /// It said what cannot be true, at this time.
    pub distrusted: Option<(Timestamp, AnswerDistrust)>,
}

/// What an answer would be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The weights that shall answer.
    pub weights: ContentHash,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer, at most.
    pub output_tokens: u32,
    /// Whether only devices of the own household may see the prompt.
    pub household_only: bool,
}

/// Why an offer is not taken up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Passed {
    /// It belongs to another household, and the prompt may not leave ours.
    #[error("the prompt may not leave the household")]
    BeyondTier,
    /// It answers only its own household: by its configuration, or while its owner uses it.
    #[error("it answers only its own household at the moment")]
    Private,
    /// The prompt and the answer do not fit.
    #[error("its context of {0} tokens is too short")]
    Context(u32),
    /// It takes none of the tokens that may be spent.
    #[error("it takes no token that you spend")]
    Asset,
    /// Its price is above what a payment may cost.
    #[error("an answer could cost {asked} units, and one payment may cost {limit}")]
    TooDear {
        /// What the first part costs.
        asked: Amount,
        /// What a payment may cost.
        limit: Amount,
    },
    /// It lied.
    #[error("{0}")]
    Distrusted(AnswerDistrust),
}

/// How long a device counts as being there after its newest offer, in milliseconds: each is published anew
/// every 30 seconds at least.
pub const LIVELY_MS: u64 = 75_000;

/// An offer, weighed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighed {
    /// The device that offers.
    pub device: DeviceId,
    /// The offer it is part of.
    pub offer: Offer,
    /// The model.
    pub model: OfferedModel,
    /// The price that was chosen among its prices; nothing if it is free.
    pub price: Option<Price>,
    /// What the answer would cost at most.
    pub cost: Amount,
    /// That, in millionths of what one payment may cost.
    pub cost_millionths: u64,
    /// How long it would take, in milliseconds.
    pub time_ms: u64,
    /// The figure by which offers are ordered: the lower the better.
    pub score: u64,
    /// Whether it is better left alone for a moment.
    pub resting: bool,
    /// Why it is not taken up at all.
    pub passed: Option<Passed>,
}

/// Offers and experience.
#[derive(Debug, Clone, Default)]
pub struct Market {
    offers: BTreeMap<DeviceId, Offer>,
    /// When the newest offer of a device was heard, by this device's clock.
    heard_at: BTreeMap<DeviceId, Timestamp>,
    seen: BTreeMap<DeviceId, Experience>,
}

impl Market {
    /// Takes an offer whose signature was checked.
    ///
    /// # Errors
    /// When it does not stand, or a newer one of the same device does.
    pub fn observe(&mut self, now: Timestamp, offer: Offer) -> Result<(), OfferError> {
        offer.check(now)?;
        let known = self.offers.get(&offer.device);
        if known.is_some_and(|known| known.issued_at > offer.issued_at) {
            return Err(OfferError::Expired);
        }
        if offer.models.is_empty() {
            self.withdraw(&offer.device);
            return Ok(());
        }
        if known.is_none() && self.offers.len() >= OFFERS_MAX {
            self.expire(now);
            if self.offers.len() >= OFFERS_MAX {
                return Err(OfferError::TooLarge);
            }
        }
        // The same offer told again says nothing of the device.
        if self
            .offers
            .get(&offer.device)
            .is_none_or(|known| known.issued_at < offer.issued_at)
        {
            self.heard_at.insert(offer.device, now);
        }
        self.offers.insert(offer.device, offer);
        Ok(())
    }

    /// Whether a device offers something, said so lately, and did not fail just now: one that was killed
    /// takes nothing back. It may still be asked, after all others.
    pub fn is_lively(&self, now: Timestamp, device: &DeviceId) -> bool {
        let heard = self.heard_at.get(device);
        let rests = self
            .seen
            .get(device)
            .is_some_and(|seen| seen.not_before > now);
        self.offers.contains_key(device)
            && heard.is_some_and(|at| now.ms_since(*at) <= LIVELY_MS)
            && !rests
    }

    /// Forgets what has ended.
    pub fn expire(&mut self, now: Timestamp) {
        self.offers.retain(|_, offer| offer.expires_at > now);
        self.heard_at
            .retain(|device, _| self.offers.contains_key(device));
    }

    /// Forgets a device's offer: it says of itself that it does not serve what it offered.
    pub fn withdraw(&mut self, device: &DeviceId) {
        self.offers.remove(device);
        self.heard_at.remove(device);
    }

    /// The offers that stand.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.offers.values()
    }

    /// What is known of a device.
    pub fn experience(&self, device: &DeviceId) -> Option<&Experience> {
        self.seen.get(device)
    }

    /// A device ended an answer of `output_tokens`, the first after `delay_ms` and the rest in `took_ms`.
    pub fn succeeded(&mut self, device: DeviceId, output_tokens: u32, delay_ms: u64, took_ms: u64) {
        let Some(seen) = self.remember(device) else {
            return;
        };
        seen.answers = seen.answers.saturating_add(1);
        seen.failures = 0;
        seen.not_before = Timestamp::default();
        seen.delay_ms = Some(blend(seen.delay_ms, delay_ms));
        // The speed of a few tokens says nothing.
        if output_tokens >= 8 && took_ms > 0 {
            let speed = u64::from(output_tokens).saturating_mul(1_000_000) / took_ms;
            seen.output_tokens_per_ks = Some(blend(seen.output_tokens_per_ks, speed));
        }
    }

    /// A device could not be reached, fell silent or broke off.
    pub fn failed(&mut self, now: Timestamp, device: DeviceId) {
        let Some(seen) = self.remember(device) else {
            return;
        };
        let doublings = seen.failures.min(BACKOFF_DOUBLINGS_MAX);
        seen.not_before = now.plus_ms(BACKOFF_MS << doublings);
        seen.failures = seen.failures.saturating_add(1);
    }

    /// A device said what cannot be true: its offers are dropped, and it is remembered.
    pub fn distrusted(&mut self, now: Timestamp, device: DeviceId, distrust: AnswerDistrust) {
        self.withdraw(&device);
        if let Some(seen) = self.remember(device) {
            seen.distrusted = Some((now, distrust));
        }
    }

    fn remember(&mut self, device: DeviceId) -> Option<&mut Experience> {
        if self.seen.len() >= REMEMBERED_MAX && !self.seen.contains_key(&device) {
            // What is least worth knowing goes: a device without an offer that never lied.
            let offers = &self.offers;
            let dull = |(device, seen): &(&DeviceId, &Experience)| {
                seen.distrusted.is_none() && !offers.contains_key(device)
            };
            let dull = self.seen.iter().find(dull).map(|(device, _)| *device)?;
            self.seen.remove(&dull);
        }
        Some(self.seen.entry(device).or_default())
    }

    /// Every model that is called `name` in one of the offers that are believed. What a name stands
    /// for is not believed of strangers: anybody may offer anything under any name.
    pub fn weights_of(&self, name: &str, is_believed: impl Fn(&Offer) -> bool) -> Vec<ContentHash> {
        let mut found = Vec::new();
        let believed = self.offers.values().filter(|offer| is_believed(offer));
        for model in believed.flat_map(|offer| &offer.models) {
            let weights = model.serving.weights;
            if model.name.eq_ignore_ascii_case(name) && !found.contains(&weights) {
                found.push(weights);
            }
        }
        found
    }

    /// Every offer of the weights that are wished for, the best first, those passed over last.
    pub fn weigh(
        &self,
        now: Timestamp,
        wish: &Wish,
        spending: &Spending,
        is_household: impl Fn(&Offer) -> bool,
    ) -> Vec<Weighed> {
        let mut weighed: Vec<_> = self
            .offers
            .values()
            .filter(|offer| offer.expires_at > now)
            .flat_map(|offer| offer.models.iter().map(move |model| (offer, model)))
            .filter(|(_, model)| model.serving.weights == wish.weights)
            .map(|(offer, model)| self.weigh_one(now, wish, spending, offer, model, &is_household))
            .collect();
        weighed.sort_by_key(|one| (one.passed.is_some(), one.resting, one.score, one.device));
        weighed
    }

    fn weigh_one(
        &self,
        now: Timestamp,
        wish: &Wish,
        spending: &Spending,
        offer: &Offer,
        model: &OfferedModel,
        is_household: &impl Fn(&Offer) -> bool,
    ) -> Weighed {
        let none = Experience::default();
        let seen = self.seen.get(&offer.device).unwrap_or(&none);
        let of_household = is_household(offer);
        // Devices of one household answer each other for nothing, whatever they ask of others.
        let (price, cost, cost_millionths, mut passed) = if of_household {
            (None, Amount::ZERO, 0, None)
        } else {
            priced(wish, spending, model)
        };
        if model.context_tokens < wish.prompt_tokens.saturating_add(1) {
            passed = Some(Passed::Context(model.context_tokens));
        }
        if model.audience == Audience::Household && !of_household {
            passed = Some(Passed::Private);
        }
        if wish.household_only && !of_household {
            passed = Some(Passed::BeyondTier);
        }
        if let Some((at, distrust)) = seen.distrusted
            && now.ms_since(at) < DISTRUST_MS
        {
            passed = Some(Passed::Distrusted(distrust));
        }
        let time_ms = time_ms(wish, model, seen);
        let waiting = SECOND_WORTH_MILLIONTHS.saturating_mul(time_ms) / 1_000;
        let failing = FAILURE_WORTH_MILLIONTHS.saturating_mul(u64::from(seen.failures));
        Weighed {
            device: offer.device,
            offer: offer.clone(),
            model: model.clone(),
            price,
            cost,
            cost_millionths,
            time_ms,
            score: cost_millionths
                .saturating_add(waiting)
                .saturating_add(failing),
            resting: now < seen.not_before,
            passed,
        }
    }
}

impl OfferedModel {
    /// What this model answers with, for a sampling rule.
    pub fn spec(&self, sampling: crate::answer::Sampling) -> Spec {
        let serving: Serving = self.serving.clone();
        Spec { sampling, serving }
    }
}

fn blend(old: Option<u64>, new: u64) -> u64 {
    old.map_or(new, |old| {
        old.saturating_mul(KEPT_OF_FOUR).saturating_add(new) / 4
    })
}

/// The price that takes the smallest share of what one payment may cost.
fn priced(
    wish: &Wish,
    spending: &Spending,
    model: &OfferedModel,
) -> (Option<Price>, Amount, u64, Option<Passed>) {
    if model.prices.is_empty() {
        return (None, Amount::ZERO, 0, None);
    }
    let known = model.prices.iter().filter_map(|price| {
        let limit = spending.0.get(&price.asset)?.per_payment;
        let cost = price.cost(wish.prompt_tokens, wish.output_tokens);
        let share = cost.saturating_mul(1_000_000).units() / limit.units().max(1);
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        Some((share, *price, cost, limit))
    });
    let Some((share, price, cost, limit)) = known.min_by_key(|(share, ..)| *share) else {
        return (None, Amount::ZERO, u64::MAX, Some(Passed::Asset));
    };
    // An answer that could cost more than one payment may is begun all the same, as long as its
    // prompt fits: most end long before their limit.
    let asked = price.cost(wish.prompt_tokens, 1);
    let passed = (asked > limit).then_some(Passed::TooDear { asked, limit });
    (Some(price), cost, share, passed)
}

/// How long an answer would take: as measured, or else three quarters of the speed that is claimed.
fn time_ms(wish: &Wish, model: &OfferedModel, seen: &Experience) -> u64 {
    let claimed = u64::from(model.output_tokens_per_s).saturating_mul(750);
    let speed_per_ks = seen.output_tokens_per_ks.unwrap_or(claimed).max(1);
    let output_ms = u64::from(wish.output_tokens).saturating_mul(1_000_000) / speed_per_ks;
    let prompt_speed = u64::from(model.prompt_tokens_per_s).max(1);
    let prompt_ms = u64::from(wish.prompt_tokens).saturating_mul(1_000) / prompt_speed;
    // A provider without a free slot lets a request wait for about as long as an answer takes.
    let queue_ms = if model.free_slots == 0 { output_ms } else { 0 };
    let delay_ms = seen.delay_ms.unwrap_or(0);
    output_ms
        .saturating_add(prompt_ms)
        .saturating_add(queue_ms)
        .saturating_add(delay_ms)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use proptest::prelude::*;

    use super::*;
    use crate::answer::{BackendClass, KvType};
    use crate::id::{AssetId, ChainId};
    use crate::spending::AssetLimit;

    const NOW: Timestamp = Timestamp(10_000_000);
    const WEIGHTS: ContentHash = ContentHash([5; 32]);

    fn asset(byte: u8) -> AssetId {
        AssetId {
            chain: ChainId(1),
            token: Address::repeat_byte(byte),
        }
    }

    fn spending() -> Spending {
        let limit = AssetLimit::new(
            Amount::new(10_000),
            Amount::new(100_000),
            Amount::new(1_000_000),
        );
        Spending(BTreeMap::from([(asset(1), limit)]))
    }

    fn wish() -> Wish {
        Wish {
            weights: WEIGHTS,
            prompt_tokens: 100,
            output_tokens: 100,
            household_only: false,
        }
    }

    fn price(asset: AssetId, per_million: u128) -> Price {
        Price {
            asset,
            per_million_prompt: Amount::new(per_million),
            per_million_output: Amount::new(per_million),
            floor: Amount::ZERO,
        }
    }

    fn offer(device: u8, prices: Vec<Price>, output_tokens_per_s: u32) -> Offer {
        Offer {
            device: DeviceId([device; 32]),
            household: Address::repeat_byte(device),
            session_key: Address::repeat_byte(device),
            withdraw_delay_s: 86_400,
            issued_at: NOW,
            expires_at: NOW.plus_ms(60_000),
            models: vec![OfferedModel {
                name: "a-model".to_owned(),
                serving: Serving {
                    adapter: None,
                    backend: BackendClass::CpuAvx2,
                    engine: "llama.cpp".to_owned(),
                    flash_attention: false,
                    kv_type: KvType::F16,
                    micro_batch_tokens: 512,
                    template: ContentHash([4; 32]),
                    weights: WEIGHTS,
                },
                weights_bytes: 1,
                head_bytes: 1,
                context_tokens: 2_048,
                audience: Audience::Everyone,
                prices,
                slots: 2,
                free_slots: 2,
                output_tokens_per_s,
                prompt_tokens_per_s: 1_000,
            }],
        }
    }

    fn market(offers: Vec<Offer>) -> Market {
        let mut market = Market::default();
        for offer in offers {
            market.observe(NOW, offer).unwrap();
        }
        market
    }

    fn order(market: &Market, wish: &Wish) -> Vec<u8> {
        let weighed = market.weigh(NOW, wish, &spending(), |_| false);
        let taken = weighed.iter().filter(|one| one.passed.is_none());
        taken.map(|one| one.device.0[0]).collect()
    }

    #[test]
    fn the_cheaper_and_the_faster_come_first() {
        let cheap = offer(1, vec![price(asset(1), 1_000_000)], 50);
        let dear = offer(2, vec![price(asset(1), 9_000_000)], 50);
        let free = offer(3, Vec::new(), 50);
        let slow = offer(4, vec![price(asset(1), 1_000_000)], 5);
        let market = market(vec![dear, slow, cheap, free]);
        assert_eq!(order(&market, &wish()), [3, 1, 2, 4]);
    }

    #[test]
    fn each_reason_to_pass_an_offer_is_told() {
        let unknown = offer(1, vec![price(asset(2), 1)], 50);
        let dear = offer(2, vec![price(asset(1), 200_000_000)], 50);
        let free = offer(3, Vec::new(), 50);
        let mut market = market(vec![unknown, dear, free]);
        let why = |market: &Market, wish: &Wish, device: u8| {
            let weighed = market.weigh(NOW, wish, &spending(), |_| false);
            let one = weighed.into_iter().find(|one| one.device.0[0] == device);
            one.and_then(|one| one.passed)
        };
        assert_eq!(why(&market, &wish(), 1), Some(Passed::Asset));
        let mut private = offer(4, Vec::new(), 50);
        private.models[0].audience = Audience::Household;
        market.observe(NOW, private).unwrap();
        assert_eq!(why(&market, &wish(), 4), Some(Passed::Private));
        let ours = market.weigh(NOW, &wish(), &spending(), |offer| offer.device.0[0] == 4);
        assert!(ours.iter().all(|one| one.passed != Some(Passed::Private)));
        let too_dear = Passed::TooDear {
            asked: Amount::new(20_200),
            limit: Amount::new(10_000),
        };
        assert_eq!(why(&market, &wish(), 2), Some(too_dear));
        assert_eq!(why(&market, &wish(), 3), None);
        let long = Wish {
            prompt_tokens: 2_048,
            ..wish()
        };
        assert_eq!(why(&market, &long, 3), Some(Passed::Context(2_048)));
        let private = Wish {
            household_only: true,
            ..wish()
        };
        assert_eq!(why(&market, &private, 3), Some(Passed::BeyondTier));
        market.distrusted(NOW, DeviceId([3; 32]), AnswerDistrust::Garbage);
        assert_eq!(why(&market, &wish(), 3), None, "its offer is gone");
        market.observe(NOW, offer(3, Vec::new(), 50)).unwrap();
        let lied = Some(Passed::Distrusted(AnswerDistrust::Garbage));
        assert_eq!(why(&market, &wish(), 3), lied);
    }

    #[test]
    fn a_device_that_says_nothing_more_or_fails_is_not_shown_as_being_there() {
        let mut market = Market::default();
        let device = DeviceId([1; 32]);
        let mut first = offer(1, Vec::new(), 50);
        first.expires_at = NOW.plus_ms(2 * LIVELY_MS);
        assert!(!market.is_lively(NOW, &device));
        market.observe(NOW, first.clone()).unwrap();
        assert!(market.is_lively(NOW.plus_ms(LIVELY_MS), &device));
        // Somebody else tells the same offer again.
        market
            .observe(NOW.plus_ms(LIVELY_MS), first.clone())
            .unwrap();
        let later = NOW.plus_ms(LIVELY_MS + 1);
        assert!(!market.is_lively(later, &device), "it was killed");
        let mut newer = first;
        newer.issued_at = newer.issued_at.plus_ms(1);
        market.observe(later, newer).unwrap();
        assert!(market.is_lively(later, &device), "it is back");
        market.failed(later, device);
        assert!(!market.is_lively(later, &device), "it did not answer");
        assert_eq!(market.offers().count(), 1, "it is asked after all others");
        market.succeeded(device, 1, 1, 1);
        assert!(market.is_lively(later, &device));
        market.withdraw(&device);
        assert!(!market.is_lively(later, &device));
    }

    #[test]
    fn who_failed_rests_and_who_answers_is_trusted_again() {
        let mut market = market(vec![offer(1, Vec::new(), 50), offer(2, Vec::new(), 49)]);
        assert_eq!(order(&market, &wish()), [1, 2]);
        market.failed(NOW, DeviceId([1; 32]));
        assert_eq!(order(&market, &wish()), [2, 1]);
        market.succeeded(DeviceId([1; 32]), 100, 5, 1_000);
        assert_eq!(order(&market, &wish()), [1, 2]);
        let seen = market.experience(&DeviceId([1; 32])).unwrap();
        assert_eq!(seen.output_tokens_per_ks, Some(100_000));
    }

    #[test]
    fn the_newer_offer_stands_and_an_empty_one_takes_it_back() {
        let mut market = market(vec![offer(1, Vec::new(), 50)]);
        let mut older = offer(1, Vec::new(), 90);
        older.issued_at = Timestamp(NOW.0 - 1);
        assert_eq!(market.observe(NOW, older), Err(OfferError::Expired));
        assert_eq!(market.weights_of("A-MODEL", |_| true), [WEIGHTS]);
        assert_eq!(market.weights_of("A-MODEL", |_| false), []);
        let mut empty = offer(1, Vec::new(), 50);
        empty.models.clear();
        market.observe(NOW, empty).unwrap();
        assert_eq!(market.offers().count(), 0);
        market.observe(NOW, offer(2, Vec::new(), 50)).unwrap();
        market.expire(NOW.plus_ms(60_000));
        assert_eq!(market.offers().count(), 0);
    }

    #[test]
    fn a_flood_of_offers_and_of_devices_costs_a_bounded_place() {
        let mut market = Market::default();
        for number in 0..(OFFERS_MAX as u32 + 100) {
            let mut one = offer(1, Vec::new(), 1);
            one.device.0[..4].copy_from_slice(&number.to_be_bytes());
            let _ = market.observe(NOW, one);
        }
        assert_eq!(market.offers().count(), OFFERS_MAX);
        for number in 0..(REMEMBERED_MAX as u32 + 100) {
            let mut device = DeviceId([9; 32]);
            device.0[..4].copy_from_slice(&number.to_be_bytes());
            market.failed(NOW, device);
        }
        assert!(market.seen.len() <= REMEMBERED_MAX);
    }

    proptest! {
        #[test]
        fn no_figure_of_a_stranger_breaks_the_order(
            figures in any::<(u128, u128, u128, u32, u32, u32)>(),
        ) {
            let (prompt, output, floor, speed, prompt_speed, tokens) = figures;
            let mut one = offer(1, vec![Price {
                asset: asset(1),
                per_million_prompt: Amount::new(prompt),
                per_million_output: Amount::new(output),
                floor: Amount::new(floor),
            }], speed);
            one.models[0].prompt_tokens_per_s = prompt_speed;
            let market = market(vec![one]);
            let wish = Wish { prompt_tokens: tokens, output_tokens: tokens, ..wish() };
            prop_assert_eq!(market.weigh(NOW, &wish, &spending(), |_| false).len(), 1);
        }
    }
}

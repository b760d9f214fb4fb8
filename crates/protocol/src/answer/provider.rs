//! The provider's side of one paid answer: how far promises reach, and what is charged when (spec:
//! answers, section 9).
//!
//! A promise covers the tokens that its amount pays for. It is taken as two parts, each admitted
//! on the channel like a request of its own: when the first is used up it is charged, and while the
//! second is worked off the payer promises more. So neither side is ever exposed to more than one
//! promise, and an answer does not pause while a promise is on its way.

use std::collections::VecDeque;

use super::price::Price;
use crate::money::Amount;

/// What one part of an answer reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Output tokens of the whole answer up to which it pays.
    until_tokens: u32,
    /// What it reserves.
    need: Amount,
}

/// What an answer has been promised, has delivered and was charged.
#[derive(Debug, Clone)]
pub struct Meter {
    price: Price,
    prompt_tokens: u32,
    output_tokens_max: u32,
    delivered_tokens: u32,
    charged: Amount,
    covered_tokens: u32,
    parts: VecDeque<Part>,
}

impl Meter {
    /// For an answer of at most `output_tokens_max` tokens to a prompt of `prompt_tokens`.
    pub fn new(price: Price, prompt_tokens: u32, output_tokens_max: u32) -> Self {
        Self {
            price,
            prompt_tokens,
            output_tokens_max,
            delivered_tokens: 0,
            charged: Amount::ZERO,
            covered_tokens: 0,
            parts: VecDeque::new(),
        }
    }

    /// The least that a first promise must be: the prompt and one token.
    pub fn least(&self) -> Amount {
        self.cost(1)
    }

    /// What was charged so far.
    pub fn charged(&self) -> Amount {
        self.charged
    }

    /// Output tokens that are delivered.
    pub fn delivered_tokens(&self) -> u32 {
        self.delivered_tokens
    }

    /// Output tokens that promises cover.
    pub fn covered_tokens(&self) -> u32 {
        self.covered_tokens
    }

    /// Takes a promise of `total` for the whole answer, what was charged of it included. Returns what is to
    /// be reserved for each part that it adds, in order: nothing where it covers no further token.
    ///
    /// The sum is for the whole because a promise and a charge may pass each other on their way: a
    /// promise of what comes next would mean more to a provider that charged meanwhile.
    pub fn cover(&mut self, total: Amount) -> Vec<Amount> {
        let before = self.covered_tokens;
        let until = self
            .price
            .output_tokens_for(self.prompt_tokens, total, self.output_tokens_max);
        if until <= before {
            return Vec::new();
        }
        let half = before + (until - before) / 2;
        let ends = if self.parts.is_empty() && until < self.output_tokens_max && half > before {
            vec![half, until]
        } else {
            vec![until]
        };
        let mut needs = Vec::new();
        for until_tokens in ends {
            let reached = self.covered_tokens;
            let paid = if reached == 0 {
                Amount::ZERO
            } else {
                self.cost(reached)
            };
            let need = self.cost(until_tokens).saturating_sub(paid);
            self.parts.push_back(Part { until_tokens, need });
            needs.push(need);
            self.covered_tokens = until_tokens;
        }
        needs
    }

    /// Notes tokens that were delivered.
    pub fn deliver(&mut self, tokens: u32) {
        self.delivered_tokens = self.delivered_tokens.saturating_add(tokens);
    }

    /// What is to be charged now, because the oldest part is used up and more is to come.
    pub fn charge_part(&mut self) -> Option<Amount> {
        let more = self.covered_tokens < self.output_tokens_max;
        let used_up = |part: &&Part| self.delivered_tokens >= part.until_tokens;
        let need = self.parts.front().filter(used_up).filter(|_| more)?.need;
        self.parts.pop_front();
        self.charged = self.charged.saturating_add(need);
        Some(need)
    }

    /// What is delivered and not charged.
    pub fn owed(&self) -> Amount {
        if self.delivered_tokens == 0 {
            return Amount::ZERO;
        }
        self.cost(self.delivered_tokens)
            .saturating_sub(self.charged)
    }

    /// Ends the answer: what is to be charged for each part that is left, the oldest first; a part
    /// that was not needed is charged nothing.
    pub fn charge_rest(&mut self) -> Vec<Amount> {
        let mut owed = self.owed();
        let mut charges = Vec::new();
        for part in self.parts.drain(..) {
            let charge = owed.min(part.need);
            owed = owed.saturating_sub(charge);
            self.charged = self.charged.saturating_add(charge);
            charges.push(charge);
        }
        charges
    }

    fn cost(&self, output_tokens: u32) -> Amount {
        self.price.cost(self.prompt_tokens, output_tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{AssetId, ChainId};

    fn price(prompt: u128, output: u128, floor: u128) -> Price {
        Price {
            asset: AssetId {
                chain: ChainId(1),
                token: alloy_primitives::Address::ZERO,
            },
            per_million_prompt: Amount::new(prompt),
            per_million_output: Amount::new(output),
            floor: Amount::new(floor),
        }
    }

    #[test]
    fn a_promise_for_the_whole_answer_is_one_part() {
        let mut meter = Meter::new(price(1_000_000, 2_000_000, 0), 10, 100);
        assert_eq!(meter.least(), Amount::new(12));
        assert_eq!(meter.cover(Amount::new(210)), [Amount::new(210)]);
        assert_eq!(meter.covered_tokens(), 100);
        meter.deliver(40);
        assert_eq!(meter.charge_part(), None);
        assert_eq!(meter.charge_rest(), [Amount::new(90)]);
        assert_eq!(meter.charged(), Amount::new(90));
    }

    #[test]
    fn a_longer_answer_is_charged_by_halves_while_more_is_promised() {
        let mut meter = Meter::new(price(1_000_000, 2_000_000, 0), 10, 100);
        // 10 for the prompt and 40 tokens ahead.
        assert_eq!(
            meter.cover(Amount::new(90)),
            [Amount::new(50), Amount::new(40)]
        );
        meter.deliver(20);
        assert_eq!(meter.charge_part(), Some(Amount::new(50)));
        assert_eq!(meter.charge_part(), None);
        // The payer promises 40 tokens beyond what it was charged for: 20 of them are new.
        assert_eq!(meter.cover(Amount::new(130)), [Amount::new(40)]);
        assert_eq!(meter.covered_tokens(), 60);
        assert_eq!(
            meter.cover(Amount::new(130)),
            [],
            "the same promise again adds nothing"
        );
        meter.deliver(25);
        assert_eq!(meter.charge_part(), Some(Amount::new(40)));
        assert_eq!(meter.charge_rest(), [Amount::new(10)]);
        assert_eq!(meter.charged(), Amount::new(100));
    }

    #[test]
    fn a_promise_that_passes_a_charge_on_its_way_covers_what_its_payer_meant() {
        let mut meter = Meter::new(price(1_000_000, 2_000_000, 0), 10, 100);
        assert_eq!(meter.cover(Amount::new(90)).len(), 2);
        meter.deliver(40);
        assert_eq!(meter.charge_part(), Some(Amount::new(50)));
        assert_eq!(meter.charge_part(), Some(Amount::new(40)));
        assert_eq!(meter.covered_tokens(), 40, "everything is used up");
        // Made when 20 tokens were charged, for 40 more.
        let twice = [Amount::new(20), Amount::new(20)];
        assert_eq!(meter.cover(Amount::new(130)), twice, "halves again");
        assert_eq!(meter.covered_tokens(), 60);
        meter.deliver(10);
        assert_eq!(meter.charge_part(), Some(Amount::new(20)));
        assert_eq!(meter.charge_rest(), [Amount::ZERO]);
        assert_eq!(meter.charged(), Amount::new(110));
    }

    #[test]
    fn a_promise_below_the_prompt_covers_nothing_and_nothing_delivered_costs_nothing() {
        let mut meter = Meter::new(price(1_000_000, 2_000_000, 50), 10, 100);
        assert_eq!(meter.cover(Amount::new(49)), []);
        assert_eq!(meter.cover(Amount::new(50)).len(), 2);
        assert_eq!(meter.owed(), Amount::ZERO);
        assert_eq!(meter.charge_rest(), [Amount::ZERO, Amount::ZERO]);
    }

    proptest! {
        /// Whatever is promised and delivered in whatever pieces, the charges add up to the price.
        #[test]
        fn charges_add_up_to_the_price(
            prices in (0u128..10_000_000, 0u128..10_000_000, 0u128..1_000),
            prompt in 0u32..5_000,
            most in 1u32..2_000,
            window in 1u32..600,
            pieces in prop::collection::vec(1u32..50, 1..100),
        ) {
            let price = price(prices.0, prices.1, prices.2);
            let mut meter = Meter::new(price, prompt, most);
            let mut reserved: VecDeque<Amount> = meter.cover(price.cost(prompt, window.min(most))).into();
            let mut charged = Amount::ZERO;
            for piece in pieces {
                let room = meter.covered_tokens() - meter.delivered_tokens();
                meter.deliver(piece.min(room));
                while let Some(part) = meter.charge_part() {
                    prop_assert_eq!(Some(part), reserved.pop_front());
                    charged = charged.saturating_add(part);
                    let until = meter.delivered_tokens().saturating_add(window).min(most);
                    reserved.extend(meter.cover(price.cost(prompt, until)));
                }
            }
            let delivered = meter.delivered_tokens();
            for charge in meter.charge_rest() {
                prop_assert!(charge <= reserved.pop_front().unwrap());
                charged = charged.saturating_add(charge);
            }
            prop_assert!(reserved.is_empty());
            let cost = if delivered == 0 { Amount::ZERO } else { price.cost(prompt, delivered) };
            prop_assert_eq!(charged, cost);
            prop_assert_eq!(meter.charged(), cost);
        }
    }
}

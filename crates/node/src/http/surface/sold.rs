//! The same surface sold to anyone: what a request may cost, and what it did cost.

use std::collections::BTreeMap;

use hearth_protocol::answer;

use super::At;
use crate::payments::gate::Meter;

/// The output that is paid for where a request does not say how much it wants, in tokens.
const OUTPUT_TOKENS_DEFAULT: u32 = 1_024;

/// What models cost.
#[derive(Debug, Clone, Default)]
pub struct PriceTable {
    models: BTreeMap<String, answer::Price>,
}

impl PriceTable {
    /// How many tokens an answer has at most, if it was asked for `asked`.
    pub(super) fn output_tokens(&self, asked: Option<u32>) -> u32 {
        asked.unwrap_or(OUTPUT_TOKENS_DEFAULT)
    }

    /// By what an answer of `model` is charged.
    pub(super) fn tariff(&self, model: &str, meter: Meter) -> Option<Tariff> {
        let price = *self.models.get(model)?;
        Some(Tariff { price, meter })
    }
}

impl At {
    /// Whether a model can be asked at this door.
    pub(super) fn sells(&self, model: &str) -> bool {
        let prices = self.prices.as_ref();
        prices.is_none_or(|prices| prices.models.contains_key(model))
    }
}

/// What one answer is charged by.
#[derive(Debug, Clone)]
pub(super) struct Tariff {
    price: answer::Price,
    meter: Meter,
}

impl Tariff {
    /// So much was delivered.
    pub(super) fn delivered(&self, prompt_tokens: u32, output_tokens: u32) {
        let cost = self.price.cost(prompt_tokens, output_tokens);
        self.meter.set(cost.min(self.meter.ceiling));
    }
}

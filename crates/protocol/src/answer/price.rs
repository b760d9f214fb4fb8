//! What an answer costs (spec: answers, section 5).

use serde::{Deserialize, Serialize};

use crate::id::AssetId;
use crate::money::Amount;

/// Tokens that a price is said for.
const TOKENS_PER_PRICE: u128 = 1_000_000;

/// What a model's answers cost in one asset, in atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// The asset.
    pub asset: AssetId,
    /// For a million tokens of the prompt.
    pub per_million_prompt: Amount,
    /// For a million tokens of the output.
    pub per_million_output: Amount,
    /// The least that a request costs once something was delivered.
    pub floor: Amount,
}

impl Price {
    /// What `prompt_tokens` and `output_tokens` cost together: rounded up once, the floor at least.
    ///
    /// A provider that charges in parts charges the difference between two of these figures, so that the
    /// parts add up to what one charge would have been.
    pub fn cost(&self, prompt_tokens: u32, output_tokens: u32) -> Amount {
        let part = |price: Amount, tokens: u32| price.saturating_mul(u128::from(tokens));
        let sum = part(self.per_million_prompt, prompt_tokens)
            .saturating_add(part(self.per_million_output, output_tokens));
        let cost = Amount::new(sum.units().div_ceil(TOKENS_PER_PRICE));
        cost.max(self.floor)
    }

    /// The most output tokens, up to `output_tokens_max`, that cost no more than `amount` with the
    /// prompt.
    pub fn output_tokens_for(
        &self,
        prompt_tokens: u32,
        amount: Amount,
        output_tokens_max: u32,
    ) -> u32 {
        let is_enough = |tokens| self.cost(prompt_tokens, tokens) <= amount;
        if !is_enough(1) {
            return 0;
        }
        let (mut enough, mut beyond) = (1, output_tokens_max.saturating_add(1));
        while beyond.saturating_sub(enough) > 1 {
            let middle = enough + (beyond - enough) / 2;
            if is_enough(middle) {
                enough = middle;
            } else {
                beyond = middle;
            }
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(prompt: u128, output: u128, floor: u128) -> Price {
        Price {
            asset: "eip155:402402/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E"
                .parse()
                .unwrap(),
            per_million_prompt: Amount::new(prompt),
            per_million_output: Amount::new(output),
            floor: Amount::new(floor),
        }
    }

    #[test]
    fn a_fraction_of_a_unit_is_rounded_up_once() {
        let price = price(1, 1, 0);
        assert_eq!(price.cost(0, 0), Amount::ZERO);
        assert_eq!(price.cost(1, 1), Amount::new(1));
        assert_eq!(price.cost(500_000, 500_001), Amount::new(2));
    }

    #[test]
    fn the_floor_is_the_least() {
        let price = price(1_000_000, 2_000_000, 100);
        assert_eq!(price.cost(10, 10), Amount::new(100));
        assert_eq!(price.cost(50, 30), Amount::new(110));
    }

    proptest! {
        #[test]
        fn more_tokens_never_cost_less(
            prices in any::<(u128, u128, u128)>(),
            tokens in any::<(u32, u32, u32)>(),
        ) {
            let price = price(prices.0, prices.1, prices.2);
            let (prompt, output, more) = tokens;
            let cost = price.cost(prompt, output);
            prop_assert!(price.cost(prompt, output.saturating_add(more)) >= cost);
            prop_assert!(price.cost(prompt.saturating_add(more), output) >= cost);
        }
    }
}

//! How likely a token was, by the model's own distribution: softmax of the raw logits.

use super::exponential;
use super::selection::{self, Candidates};

/// How likely a token was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The natural logarithm of the chosen token's probability.
    pub chosen: f32,
    /// The most likely tokens with theirs, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// The log-probabilities of `chosen` and of the `top` most likely tokens.
///
/// A token without a logit has the lowest number there is, so that the figures fit into JSON.
pub fn logprobs(logits: &[f32], chosen: u32, top: u8) -> TokenLogprobs {
    let max = selection::argmax(logits).map_or(0.0, |id| selection::finite(logits[id as usize]));
    let (sum, []) = exponential::sums(logits, max, 1.0, []);
    let normaliser = f64::from(max) + sum.max(f64::MIN_POSITIVE).ln();
    let logprob = |id: u32| {
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NAN);
        let logit = f64::from(selection::finite(logit));
        ((logit - normaliser).min(0.0) as f32).max(f32::MIN)
    };
    let mut candidates = Candidates::default();
    if top > 0 {
        candidates.take_top(logits, usize::from(top));
    }
    TokenLogprobs {
        chosen: logprob(chosen),
        top: (candidates.into_sorted())
            .map(|id| (id, logprob(id)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probabilities_are_those_of_the_softmax() {
        let logits = [1.0f32, 3.0, f32::NAN, 2.0, f32::NEG_INFINITY];
        let found = logprobs(&logits, 0, 2);
        let sum: f64 = [1f64, 3.0, 2.0].iter().map(|l| l.exp()).sum();
        let expected = |logit: f64| (logit - sum.ln()) as f32;
        assert!((found.chosen - expected(1.0)).abs() < 1e-5);
        assert_eq!(
            found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [1, 3]
        );
        assert!((found.top[0].1 - expected(3.0)).abs() < 1e-5);
        assert!((found.top[1].1 - expected(2.0)).abs() < 1e-5);
    }

    #[test]
    fn what_has_no_logit_has_a_finite_figure() {
        assert_eq!(logprobs(&[f32::NAN; 3], 1, 3).chosen, f32::MIN);
        assert!(logprobs(&[0.0, f32::NEG_INFINITY], 1, 0).chosen.is_finite());
        assert!(logprobs(&[0.0, f32::INFINITY], 1, 2).top[0].1.is_finite());
    }
}

//! The figures of a request as the integers of the sampling rule.
//!
//! What both sides of an answer sign has no fractions, so the floats of the APIs become millionths:
//! six digits behind the point are kept exactly, more are rounded to the nearest.

use std::collections::BTreeMap;

use hearth_protocol::answer::Sampling;
use hearth_protocol::answer::request::{LOGPROBS_MAX, OUTPUT_TOKENS_MAX};
use hearth_protocol::answer::spec::BIASED_TOKENS_MAX;

use super::failure::Failure;

/// The most stop texts.
const STOPS_MAX: usize = 16;
/// The longest stop text, in bytes.
const STOP_BYTES_MAX: usize = 256;

/// The figures that all APIs share, as they came.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<u64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) logit_bias: Option<BTreeMap<String, f64>>,
}

impl Figures {
    /// The sampling rule that they make.
    pub(super) fn sampling(self) -> Result<Sampling, Failure> {
        let mut sampling = Sampling::default();
        if let Some(value) = self.temperature {
            let millionths = millionths("temperature", value, 0.0, 2.0)?;
            sampling.temperature_millionths = millionths.unsigned_abs();
        }
        if let Some(value) = self.top_p {
            let millionths = millionths("top_p", value, 0.0, 1.0)?;
            // A share of nothing still leaves the likeliest token.
            sampling.top_p_millionths = millionths.unsigned_abs().max(1);
        }
        if let Some(value) = self.top_k {
            sampling.top_k = u32::try_from(value).unwrap_or(0);
        }
        if let Some(value) = self.frequency_penalty {
            sampling.frequency_penalty_millionths =
                millionths("frequency_penalty", value, -2.0, 2.0)?;
        }
        if let Some(value) = self.presence_penalty {
            sampling.presence_penalty_millionths =
                millionths("presence_penalty", value, -2.0, 2.0)?;
        }
        sampling.logit_bias_millionths = bias(self.logit_bias.unwrap_or_default())?;
        Ok(sampling)
    }
}

fn millionths(param: &str, value: f64, least: f64, most: f64) -> Result<i32, Failure> {
    if !(least..=most).contains(&value) {
        let message = format!("{param} is {value}; it must be from {least} to {most}");
        return Err(Failure::invalid(param, message));
    }
    // At most a hundred million, which an i32 holds.
    Ok((value * 1e6).round() as i32)
}

fn bias(given: BTreeMap<String, f64>) -> Result<Vec<(u32, i32)>, Failure> {
    if given.len() > BIASED_TOKENS_MAX {
        let message = format!("logit_bias may name at most {BIASED_TOKENS_MAX} tokens");
        return Err(Failure::invalid("logit_bias", message));
    }
    let mut by_id = BTreeMap::new();
    for (id, value) in given {
        let Ok(number) = id.parse::<u32>() else {
            let message =
                format!("logit_bias names {id:?}; its keys are token ids, such as \"50256\"");
            return Err(Failure::invalid("logit_bias", message));
        };
        let bias = millionths("logit_bias", value, -100.0, 100.0)?;
        if by_id.insert(number, bias).is_some() {
            let message = format!("logit_bias names the token {number} twice");
            return Err(Failure::invalid("logit_bias", message));
        }
    }
    Ok(by_id.into_iter().collect())
}

/// The likeliest tokens of which one is chosen; other servers write 0 or -1 for all of them.
pub(super) fn top_k(asked: Option<i64>) -> Result<Option<u64>, Failure> {
    match asked {
        None | Some(-1 | 0) => Ok(None),
        Some(asked) => u64::try_from(asked).map(Some).map_err(|_| {
            let message = format!("top_k is {asked}; it must be at least 1, or 0 for all tokens");
            Failure::invalid("top_k", message)
        }),
    }
}

/// The most tokens of an answer. More than any model gives is read as that.
pub(super) fn output_tokens(param: &str, asked: Option<u64>) -> Result<Option<u32>, Failure> {
    match asked {
        None => Ok(None),
        Some(0) => Err(Failure::invalid(
            param,
            format!("{param} must be at least 1"),
        )),
        Some(asked) => {
            let most = u64::from(OUTPUT_TOKENS_MAX);
            Ok(u32::try_from(asked.min(most)).ok())
        }
    }
}

/// The number of alternatives whose log-probabilities are told.
pub(super) fn logprobs(param: &str, asked: u64, most: u8) -> Result<u8, Failure> {
    u8::try_from(asked)
        .ok()
        .filter(|count| *count <= most.min(LOGPROBS_MAX))
        .ok_or_else(|| {
            Failure::invalid(
                param,
                format!("{param} is {asked}; it must be from 0 to {most}"),
            )
        })
}

/// The texts at which an answer ends.
pub(super) fn stops(param: &str, stops: Vec<String>) -> Result<Vec<String>, Failure> {
    let fault = if stops.len() > STOPS_MAX {
        format!("{param} may have at most {STOPS_MAX} texts")
    } else if stops.iter().any(String::is_empty) {
        format!("{param} has an empty text; leave it out")
    } else if stops.iter().any(|stop| stop.len() > STOP_BYTES_MAX) {
        format!("{param} has a text longer than {STOP_BYTES_MAX} bytes")
    } else {
        return Ok(stops);
    };
    Err(Failure::invalid(param, fault))
}

/// Only one answer is given to a question.
pub(super) fn only_one(param: &str, asked: Option<u64>) -> Result<(), Failure> {
    match asked {
        None | Some(1) => Ok(()),
        Some(_) => {
            let message = format!("{param} must be 1 here; ask several times for several answers");
            Err(Failure::unsupported(param, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(figures: Figures) -> Result<Sampling, String> {
        figures
            .sampling()
            .map_err(|failure| failure.openai().error.param.unwrap_or_default())
    }

    #[test]
    fn decimals_become_millionths_exactly() {
        let figures = Figures {
            temperature: Some(0.7),
            top_p: Some(0.95),
            top_k: Some(40),
            frequency_penalty: Some(-1.1),
            presence_penalty: Some(2.0),
            logit_bias: Some([("10".to_owned(), -100.0), ("9".to_owned(), 0.3)].into()),
        };
        let sampling = of(figures).unwrap();
        assert_eq!(sampling.temperature_millionths, 700_000);
        assert_eq!(sampling.top_p_millionths, 950_000);
        assert_eq!(sampling.top_k, 40);
        assert_eq!(sampling.frequency_penalty_millionths, -1_100_000);
        assert_eq!(sampling.presence_penalty_millionths, 2_000_000);
        let bias = [(9, 300_000), (10, -100_000_000)];
        assert_eq!(sampling.logit_bias_millionths, bias);
        assert!(sampling.is_sound());
        assert_eq!(of(Figures::default()).unwrap(), Sampling::default());
    }

    #[test]
    fn figures_beyond_their_bounds_are_named() {
        let temperature = |value| Figures {
            temperature: Some(value),
            ..Figures::default()
        };
        for value in [-0.1, 2.000_001, f64::NAN, f64::INFINITY] {
            assert_eq!(of(temperature(value)), Err("temperature".to_owned()));
        }
        let top_p = Figures {
            top_p: Some(1.01),
            ..Figures::default()
        };
        assert_eq!(of(top_p), Err("top_p".to_owned()));
        for (id, value) in [("x", 0.0), ("-1", 0.0), ("1", 101.0)] {
            let bias = Figures {
                logit_bias: Some([(id.to_owned(), value)].into()),
                ..Figures::default()
            };
            assert_eq!(of(bias), Err("logit_bias".to_owned()));
        }
        let twice = Figures {
            logit_bias: Some([("7".to_owned(), 1.0), ("07".to_owned(), 2.0)].into()),
            ..Figures::default()
        };
        assert_eq!(of(twice), Err("logit_bias".to_owned()));
        let ids = (0..301).map(|id| (id.to_string(), 0.0)).collect();
        let bias = Figures {
            logit_bias: Some(ids),
            ..Figures::default()
        };
        assert_eq!(of(bias), Err("logit_bias".to_owned()));
    }

    #[test]
    fn a_share_of_nothing_leaves_the_likeliest_token() {
        let figures = Figures {
            top_p: Some(0.0),
            ..Figures::default()
        };
        assert_eq!(of(figures).unwrap().top_p_millionths, 1);
    }

    #[test]
    fn lengths_and_counts_are_bounded() {
        assert_eq!(output_tokens("max_tokens", None), Ok(None));
        assert!(output_tokens("max_tokens", Some(0)).is_err());
        let most = output_tokens("max_tokens", Some(u64::MAX));
        assert_eq!(most, Ok(Some(OUTPUT_TOKENS_MAX)));
        assert_eq!(logprobs("top_logprobs", 20, 20), Ok(20));
        assert!(logprobs("top_logprobs", 21, 20).is_err());
        assert!(stops("stop", vec![String::new()]).is_err());
        assert!(stops("stop", vec!["a".to_owned(); 17]).is_err());
        assert!(stops("stop", vec!["a".repeat(257)]).is_err());
        assert!(only_one("n", Some(2)).is_err());
    }

    proptest! {
        #[test]
        fn six_digits_are_kept(whole in 0..=2_000_000_u32) {
            let text = format!("{}.{:06}", whole / 1_000_000, whole % 1_000_000);
            let figures = Figures {
                temperature: Some(text.parse().unwrap()),
                ..Figures::default()
            };
            prop_assert_eq!(of(figures).unwrap().temperature_millionths, whole);
        }
    }
}

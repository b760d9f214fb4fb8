//! What the node counts, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_api::money::Money;

use crate::answers::Usage;

/// Upper bounds of the buckets of the time to the first token, in milliseconds.
const BUCKETS_MS: [u64; 12] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000,
];
/// The most assets whose spending is counted one by one; all others count together.
const ASSETS_MAX: usize = 64;

/// How long an answer is taken to last before any has ended, and at least.
const FIRST_ANSWER_MS: u64 = 4_000;
/// The longest time after which to come again, in seconds.
const RETRY_S_MAX: u32 = 60;

/// What was counted since the node began.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    broken: u64,
    in_progress: u64,
    first_token_buckets: [u64; BUCKETS_MS.len()],
    first_token_count: u64,
    first_token_us: u64,
    /// How long answers took lately.
    answer_ms: u64,
    spent_units: BTreeMap<String, u128>,
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was replied to. `route` is a path of the surface's own table, so that their
    /// number is bounded.
    pub(super) fn request(&self, route: &'static str, status: u16) {
        *self.counts().requests.entry((route, status)).or_default() += 1;
    }

    /// When one of the answers in progress may have ended, in seconds: half of what answers took lately.
    pub(super) fn retry_after_s(&self) -> u32 {
        let took_ms = self.counts().answer_ms.max(FIRST_ANSWER_MS);
        let seconds = (took_ms / 2).div_ceil(1_000);
        u32::try_from(seconds)
            .unwrap_or(u32::MAX)
            .clamp(1, RETRY_S_MAX)
    }

    /// An answer took so long from the question to its end.
    pub(super) fn took(&self, duration: Duration) {
        let took_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut counts = self.counts();
        counts.answer_ms = match counts.answer_ms {
            0 => took_ms,
            known => known.saturating_mul(7).saturating_add(took_ms) / 8,
        };
    }

    pub(super) fn began(&self) {
        self.counts().in_progress += 1;
    }

    pub(super) fn first_token(&self, after: Duration) {
        let mut counts = self.counts();
        let bucket = BUCKETS_MS
            .iter()
            .position(|bound| after <= Duration::from_millis(*bound));
        if let Some(bucket) = bucket {
            counts.first_token_buckets[bucket] += 1;
        }
        counts.first_token_count += 1;
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        counts.first_token_us = counts.first_token_us.saturating_add(micros);
    }

    /// An answer is over; `usage` if its end was seen.
    pub(super) fn ended(&self, usage: Option<&Usage>, broken: bool) {
        let mut counts = self.counts();
        counts.in_progress = counts.in_progress.saturating_sub(1);
        counts.broken += u64::from(broken);
        let Some(usage) = usage else { return };
        counts.prompt_tokens += u64::from(usage.prompt_tokens);
        counts.cached_tokens += u64::from(usage.cached_tokens);
        counts.output_tokens += u64::from(usage.output_tokens);
        for money in &usage.charged {
            counts.spend(money);
        }
    }

    /// Everything, in Prometheus' text form.
    pub(super) fn text(&self) -> String {
        let counts = self.counts();
        let mut text = String::with_capacity(2_048);
        counts.write(&mut text);
        text
    }
}

impl Counts {
    fn spend(&mut self, money: &Money) {
        let known = self.spent_units.contains_key(&money.asset);
        let asset = if known || self.spent_units.len() < ASSETS_MAX {
            &money.asset
        } else {
            "other"
        };
        let units = money.units.parse::<u128>().unwrap_or(0);
        let spent = self.spent_units.entry(asset.to_owned()).or_default();
        *spent = spent.saturating_add(units);
    }

    fn write(&self, text: &mut String) {
        head(
            text,
            "hearth_requests_total",
            "counter",
            "Requests replied to.",
        );
        for ((route, status), count) in &self.requests {
            let labels = format!("{{route=\"{route}\",status=\"{status}\"}}");
            line(text, "hearth_requests_total", &labels, count);
        }
        let plain = [
            (
                "hearth_prompt_tokens_total",
                "Tokens of prompts.",
                self.prompt_tokens,
            ),
            (
                "hearth_cached_prompt_tokens_total",
                "Tokens of prompts that were still known.",
                self.cached_tokens,
            ),
            (
                "hearth_output_tokens_total",
                "Tokens of answers.",
                self.output_tokens,
            ),
            (
                "hearth_broken_answers_total",
                "Answers that broke before their end.",
                self.broken,
            ),
        ];
        for (name, help, count) in plain {
            head(text, name, "counter", help);
            line(text, name, "", &count);
        }
        let name = "hearth_answers_in_progress";
        head(text, name, "gauge", "Answers on their way.");
        line(text, name, "", &self.in_progress);
        self.write_first_token(text);
        let name = "hearth_spent_units_total";
        head(text, name, "counter", "Spent on answers, in atomic units.");
        for (asset, units) in &self.spent_units {
            line(
                text,
                name,
                &format!("{{asset=\"{}\"}}", label(asset)),
                units,
            );
        }
    }

    fn write_first_token(&self, text: &mut String) {
        let name = "hearth_time_to_first_token_seconds";
        head(
            text,
            name,
            "histogram",
            "From the question to the first token.",
        );
        let bucket = format!("{name}_bucket");
        let mut sum = 0;
        for (bound, count) in BUCKETS_MS.iter().zip(&self.first_token_buckets) {
            sum += count;
            let seconds = *bound as f64 / 1_000.0;
            line(text, &bucket, &format!("{{le=\"{seconds}\"}}"), &sum);
        }
        line(text, &bucket, "{le=\"+Inf\"}", &self.first_token_count);
        let seconds = self.first_token_us as f64 / 1e6;
        line(text, &format!("{name}_sum"), "", &seconds);
        line(text, &format!("{name}_count"), "", &self.first_token_count);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: &dyn std::fmt::Display) {
    let _infallible = writeln!(text, "{name}{labels} {value}");
}

/// A label's value, with what has a meaning in the text form escaped.
fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_said_in_prometheus_form() {
        let metrics = Metrics::default();
        metrics.request("/v1/models", 200);
        metrics.request("/v1/models", 200);
        metrics.began();
        metrics.first_token(Duration::from_millis(7));
        metrics.first_token(Duration::from_secs(60));
        let usage = Usage {
            prompt_tokens: 5,
            cached_tokens: 2,
            output_tokens: 3,
            charged: vec![Money {
                asset: "a\"b".to_owned(),
                symbol: "A".to_owned(),
                units: "12".to_owned(),
                decimals: 6,
                amount: "0.000012".to_owned(),
            }],
        };
        metrics.ended(Some(&usage), false);
        let text = metrics.text();
        for line in [
            "hearth_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "hearth_prompt_tokens_total 5",
            "hearth_output_tokens_total 3",
            "hearth_answers_in_progress 0",
            "hearth_time_to_first_token_seconds_bucket{le=\"0.005\"} 0",
            "hearth_time_to_first_token_seconds_bucket{le=\"0.01\"} 1",
            "hearth_time_to_first_token_seconds_bucket{le=\"30\"} 1",
            "hearth_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2",
            "hearth_time_to_first_token_seconds_sum 60.007",
            "hearth_spent_units_total{asset=\"a\\\"b\"} 12",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn the_number_of_assets_is_bounded() {
        let metrics = Metrics::default();
        let money = |i: usize| Money {
            asset: i.to_string(),
            symbol: String::new(),
            units: "1".to_owned(),
            decimals: 0,
            amount: "1".to_owned(),
        };
        let usage = Usage {
            charged: (0..ASSETS_MAX + 10).map(money).collect(),
            ..Usage::default()
        };
        metrics.ended(Some(&usage), false);
        assert!(metrics.text().contains("{asset=\"other\"} 10"));
    }
}

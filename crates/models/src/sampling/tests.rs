//! The rule against its own definition, written down as it is in the module's header.

use super::*;
use proptest::prelude::*;

/// The definition, sorting everything and leaving nothing out.
fn defined(
    rule: &Rule,
    key: NoiseKey,
    position: u64,
    raw: &[f32],
    output: &[u32],
    allowed: Option<Allowed<'_>>,
) -> Option<u32> {
    let part = |millionths: i32| f64::from(millionths) / 1e6;
    let logit = |id: u32| -> f32 {
        let count = output.iter().filter(|other| **other == id).count();
        let bias = rule
            .logit_bias_millionths
            .iter()
            .find(|(other, _)| *other == id);
        let mut change = bias.map_or(0.0, |(_, bias)| part(*bias));
        if count > 0 {
            change -= part(rule.presence_penalty_millionths)
                + part(rule.frequency_penalty_millionths) * count as f64;
        }
        let logit = (f64::from(raw[id as usize]) + change) as f32;
        let forbidden = allowed.is_some_and(|allowed| !allowed.contains(id));
        if forbidden || logit.is_nan() {
            f32::NEG_INFINITY
        } else {
            logit.min(f32::MAX)
        }
    };
    let mut kept: Vec<(u32, f64)> = (0..raw.len() as u32)
        .map(|id| (id, f64::from(logit(id))))
        .filter(|(_, logit)| *logit > f64::NEG_INFINITY)
        .collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if rule.top_k > 0 {
        kept.truncate(rule.top_k as usize);
    }
    let max = kept.first()?.1;
    let temperature = f64::from(rule.temperature_millionths) / 1e6;
    if temperature == 0.0 {
        return Some(kept[0].0);
    }
    let weight = |logit: f64| ((logit - max) / temperature).exp();
    let total: f64 = kept.iter().map(|(_, logit)| weight(*logit)).sum();
    let target = f64::from(rule.top_p_millionths) / 1e6 * total;
    let mut before = 0.0;
    if rule.top_p_millionths < MILLION {
        kept.retain(|(_, logit)| {
            let keep = before < target;
            before += weight(*logit);
            keep
        });
    }
    let mut noise = noise::Noise::new(key, position);
    let mut best: Option<(u32, f64)> = None;
    kept.sort_by_key(|(id, _)| *id);
    for (id, logit) in kept {
        let score = logit + temperature * noise::gumbel(noise.word(id));
        if best.is_none_or(|(_, best)| score > best) {
            best = Some((id, score));
        }
    }
    best.map(|(id, _)| id)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (
        prop_oneof![
            Just(0),
            Just(1),
            Just(30_000),
            Just(MILLION),
            1..=2 * MILLION
        ],
        prop_oneof![Just(0), 1..60u32, 1..5_000u32],
        prop_oneof![Just(MILLION), 1..=MILLION],
        -2_000_000..2_000_000i32,
        -2_000_000..2_000_000i32,
        prop::collection::btree_map(0..3_000u32, -9_000_000..9_000_000i32, 0..4),
        any::<bool>(),
    )
        .prop_map(
            |(temperature, top_k, top_p, presence, frequency, bias, plain)| Rule {
                temperature_millionths: temperature,
                top_k,
                top_p_millionths: top_p,
                presence_penalty_millionths: if plain { 0 } else { presence },
                frequency_penalty_millionths: if plain { 0 } else { frequency },
                logit_bias_millionths: if plain {
                    Vec::new()
                } else {
                    bias.into_iter().collect()
                },
            },
        )
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let spread = prop_oneof![Just(0.0f32), Just(1.0), Just(8.0), Just(300.0)];
    (spread, -50f32..50.0, 1usize..3_000, any::<u64>()).prop_map(|(spread, centre, len, seed)| {
        let mut noise = noise::Noise::new(NoiseKey([1; 32]), seed);
        (0..len as u32)
            .map(|id| centre + spread * noise::gumbel(noise.word(id)) as f32)
            .collect()
    })
}

proptest! {
    #[test]
    fn what_is_chosen_is_what_is_defined(
        rule in any_rule(),
        logits in any_logits(),
        position in any::<u64>(),
        key in any::<[u8; 32]>(),
        output in prop::collection::vec(0..3_000u32, 0..5),
        mask in prop::option::of(prop::collection::vec(any::<u32>(), 94)),
    ) {
        let allowed = mask.as_ref().map(|words| Allowed { words });
        let mut sampler = Sampler::new(rule.clone(), NoiseKey(key)).unwrap();
        for id in &output {
            sampler.accept(*id);
        }
        let chosen = sampler.choose(position, &logits, allowed);
        prop_assert_eq!(
            chosen,
            defined(&rule, NoiseKey(key), position, &logits, &output, allowed)
        );
    }

    #[test]
    fn no_logits_make_it_panic(
        rule in any_rule(),
        logits in prop::collection::vec(
            prop_oneof![
                Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX),
                Just(f32::MIN), Just(0.0), any::<f32>(),
            ],
            0..300,
        ),
    ) {
        let mut sampler = Sampler::new(rule, NoiseKey([0; 32])).unwrap();
        let chosen = sampler.choose(0, &logits, None);
        let some = logits.iter().any(|logit| *logit > f32::NEG_INFINITY);
        prop_assert_eq!(chosen.is_some(), some);
        if let Some(id) = chosen {
            prop_assert!(logits[id as usize] > f32::NEG_INFINITY);
        }
    }
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [2.0f32, 1.0, 0.5, -1.0, 2.0, f32::NEG_INFINITY];
    for temperature in [0.5, 1.0, 2.0] {
        let rule = Rule {
            temperature_millionths: (temperature * 1e6) as u32,
            ..Rule::default()
        };
        let mut sampler = Sampler::new(rule, NoiseKey([42; 32])).unwrap();
        let mut counts = [0f64; 6];
        let draws = 40_000u32;
        for position in 0..draws {
            counts[sampler.choose(u64::from(position), &logits, None).unwrap() as usize] += 1.0;
        }
        let weights = logits.map(|logit| (f64::from(logit) / temperature).exp());
        let total: f64 = weights.iter().sum();
        let chi_squared: f64 = (counts.iter().zip(weights))
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(count, weight)| {
                let expected = f64::from(draws) * weight / total;
                (count - expected).powi(2) / expected
            })
            .sum();
        // Four degrees of freedom: beyond 23.5 once in 10,000 seeds.
        assert!(
            chi_squared < 23.5,
            "key 42, T {temperature}: {counts:?} {chi_squared}"
        );
        assert_eq!(counts[5], 0.0);
    }
}

#[test]
fn of_equal_ids_the_lowest_is_taken() {
    let greedy = Rule {
        temperature_millionths: 0,
        ..Rule::default()
    };
    let mut sampler = Sampler::new(greedy, NoiseKey([0; 32])).unwrap();
    assert_eq!(sampler.choose(0, &[1.0, 3.0, 3.0, 2.0], None), Some(1));
    let one = Rule {
        top_k: 1,
        ..Rule::default()
    };
    let mut sampler = Sampler::new(one, NoiseKey([0; 32])).unwrap();
    assert_eq!(sampler.choose(9, &[3.0; 100], None), Some(0));
}

#[test]
fn nothing_is_chosen_where_nothing_is_allowed() {
    let mut sampler = Sampler::new(Rule::default(), NoiseKey([0; 32])).unwrap();
    let none = Allowed { words: &[0] };
    assert_eq!(sampler.choose(0, &[1.0, 2.0], Some(none)), None);
    // What lies beyond the mask is not allowed either.
    assert_eq!(
        sampler.choose(0, &[1.0; 64], Some(Allowed { words: &[2] })),
        Some(1)
    );
}

#[test]
fn an_unsound_rule_is_refused() {
    let unsound = |change: fn(&mut Rule)| {
        let mut rule = Rule::default();
        change(&mut rule);
        Sampler::new(rule, NoiseKey([0; 32])).unwrap_err()
    };
    unsound(|rule| rule.temperature_millionths = TEMPERATURE_MILLIONTHS_MAX + 1);
    unsound(|rule| rule.top_p_millionths = 0);
    unsound(|rule| rule.top_p_millionths = MILLION + 1);
    unsound(|rule| rule.frequency_penalty_millionths = i32::MIN);
    unsound(|rule| rule.logit_bias_millionths = vec![(2, 1), (2, 1)]);
    unsound(|rule| rule.logit_bias_millionths = vec![(0, i32::MAX)]);
}

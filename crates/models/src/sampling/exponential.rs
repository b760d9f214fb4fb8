//! Sums of exponentials over a whole vocabulary.
//!
//! Written as plain loops over lanes, which the compiler turns into vector instructions of
//! whatever the machine has. A sum is right to [`ERROR`] of itself; `exact` is for more.

/// How far a sum, or a part of one, may be from the true one, as a share of the whole sum.
pub(super) const ERROR: f64 = 4e-6;

const LANES: usize = 16;
/// Lanes are added up in `f32` for this many rounds, then in `f64`.
const ROUNDS: usize = 16;
/// Adding this to a small number rounds it to a whole one, which then stands in the low bits.
const ROUNDING: f32 = 12_582_912.0;
/// Below this power of two a term is taken to be this power: nothing against a sum of at least 1.
const POWER_MIN: f32 = -120.0;
/// The coefficients of 2^f for f from -1/2 to 1/2 (Taylor, remainder below 2e-7).
const POWERS: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_5,
    0.055_504_11,
    0.009_618_129,
    0.001_333_355_8,
    0.000_154_035_3,
];

/// 2^y for y from [`POWER_MIN`] to 120.
fn power_of_two(y: f32) -> f32 {
    let rounded = y + ROUNDING;
    let f = y - (rounded - ROUNDING);
    let exponent = rounded
        .to_bits()
        .wrapping_sub(ROUNDING.to_bits())
        .wrapping_add(127);
    let mut sum = POWERS[6];
    for coefficient in POWERS[..6].iter().rev() {
        sum = sum * f + coefficient;
    }
    sum * f32::from_bits(exponent << 23)
}

/// The sum of `exp((l - max) / temperature)`, and, for each of `gaps`, the part of it that comes
/// from logits more than `gap * temperature` below `max`. Whatever is not a number counts as zero.
pub(super) fn sums<const N: usize>(
    logits: &[f32],
    max: f32,
    temperature: f64,
    gaps: [f32; N],
) -> (f64, [f64; N]) {
    let scale = (std::f64::consts::LOG2_E / temperature) as f32;
    let limits = gaps.map(|gap| -gap * std::f32::consts::LOG2_E);
    let mut total = 0.0;
    let mut tails = [0.0; N];
    for block in logits.chunks(LANES * ROUNDS) {
        let mut lanes = [0f32; LANES];
        let mut tail_lanes = [[0f32; LANES]; N];
        let (rounds, rest) = block.as_chunks::<LANES>();
        let mut add = |round: &[f32; LANES]| {
            for lane in 0..LANES {
                let y = (round[lane] - max) * scale;
                // False for what is not a number.
                let y = if y > POWER_MIN { y } else { POWER_MIN };
                let y = if y < 0.0 { y } else { 0.0 };
                let term = power_of_two(y);
                lanes[lane] += term;
                for (tail, limit) in tail_lanes.iter_mut().zip(&limits) {
                    tail[lane] += if y < *limit { term } else { 0.0 };
                }
            }
        };
        rounds.iter().for_each(&mut add);
        if !rest.is_empty() {
            let mut padded = [f32::NEG_INFINITY; LANES];
            padded[..rest.len()].copy_from_slice(rest);
            add(&padded);
        }
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        for (tail, lanes) in tails.iter_mut().zip(&tail_lanes) {
            *tail += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
    }
    (total, tails)
}

/// The same sum, term by term in `f64`.
pub(super) fn exact(logits: &[f32], max: f32, temperature: f64) -> f64 {
    let term = |logit: &f32| weight(*logit, max, temperature);
    logits.iter().map(term).sum()
}

/// `exp((l - max) / temperature)`; zero for what is not a number.
pub(super) fn weight(logit: f32, max: f32, temperature: f64) -> f64 {
    if logit > f32::NEG_INFINITY {
        ((f64::from(logit) - f64::from(max)) / temperature).exp()
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_is_as_right_as_it_says(
            logits in prop::collection::vec(-40f32..40.0, 1..700),
            temperature in 0.05f64..2.0,
        ) {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact = exact(&logits, max, temperature);
            let gap = 3.0;
            let (sum, [tail]) = sums(&logits, max, temperature, [gap]);
            prop_assert!((sum - exact).abs() <= ERROR * exact, "{sum} {exact}");
            let limit = f64::from(max) - f64::from(gap) * temperature;
            let low: f64 = (logits.iter())
                .filter(|logit| f64::from(**logit) < limit - 1e-4)
                .map(|logit| weight(*logit, max, temperature))
                .sum();
            prop_assert!(tail >= low - ERROR * exact, "{tail} {low} {exact}");
        }
    }
}

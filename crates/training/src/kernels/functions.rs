//! `exp`, `ln` and the logistic function from fused multiply-adds, integer operations and IEEE division
//! (spec: training numerics, section 4).
//!
//! None branches on its argument, so that loops over them become vector instructions.

use crate::kernels::fma::Fma;

/// 1.5 * 2^23: adding it leaves the nearest integer, ties to even, in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;
const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
/// The leading bits of ln 2, few enough for its products with exponents to be exact.
const LN2_HIGH: f32 = f32::from_bits(0x3f31_7200);
/// What is left of ln 2.
const LN2_LOW: f32 = f32::from_bits(0x35bf_be8e);
/// c2 .. c6 of exp(r) = 1 + r + r^2 (c2 + c3 r + .. + c6 r^4), |r| <= ln 2 / 2 (`reference/polynomials.py`).
const EXP: [f32; 5] = [
    f32::from_bits(0x3eff_fffe),
    f32::from_bits(0x3e2a_aa49),
    f32::from_bits(0x3d2a_ac79),
    f32::from_bits(0x3c09_1cf1),
    f32::from_bits(0x3ab5_121a),
];
/// c0 .. c8 of ln(1 + f) = f - f^2 / 2 + f^3 (c0 + c1 f + .. + c8 f^8) (`reference/polynomials.py`).
const LN: [f32; 9] = [
    f32::from_bits(0x3eaa_aaa4),
    f32::from_bits(0xbe80_0003),
    f32::from_bits(0x3e4c_d25b),
    f32::from_bits(0xbe2a_ae27),
    f32::from_bits(0x3e11_9bb4),
    f32::from_bits(0xbdfe_1104),
    f32::from_bits(0x3df3_7835),
    f32::from_bits(0xbdef_1e0b),
    f32::from_bits(0x3d8a_2bd4),
];

/// Below this the result is zero, above [`EXP_HIGHEST`] infinity; between, results in the subnormal range are kept.
const EXP_LOWEST: f32 = -104.0;
const EXP_HIGHEST: f32 = 89.0;

#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits((exponent.wrapping_add(127) as u32) << 23)
}

/// Returns e^x within 1.1 units in the last place.
#[inline(always)]
pub(crate) fn exp<F: Fma>(x: f32) -> f32 {
    // Comparisons written so that NaN stays.
    let x = if x < EXP_LOWEST { EXP_LOWEST } else { x };
    let x = if x > EXP_HIGHEST { EXP_HIGHEST } else { x };
    let shifted = F::fma(x, LOG2_E, ROUNDER);
    let whole = shifted - ROUNDER;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let r = F::fma(whole, -LN2_HIGH, x);
    let r = F::fma(whole, -LN2_LOW, r);
    let mut p = EXP[4];
    p = F::fma(p, r, EXP[3]);
    p = F::fma(p, r, EXP[2]);
    p = F::fma(p, r, EXP[1]);
    p = F::fma(p, r, EXP[0]);
    p = F::fma(p, r * r, r);
    p += 1.0;
    let half = exponent >> 1;
    p * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// Returns the natural logarithm of a positive, finite x within 1.5 units in the last place.
///
/// Zero, negative numbers, infinities and NaN give unspecified values: no caller has them.
#[inline(always)]
pub(crate) fn ln<F: Fma>(x: f32) -> f32 {
    let small = x < f32::MIN_POSITIVE;
    let (x, lift) = if small { (x * 8_388_608.0, 23) } else { (x, 0) };
    // The exponent of the nearest power of two below, such that the rest lies in [sqrt 0.5, sqrt 2).
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let exponent = (bits as i32) >> 23;
    let rest = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let exponent = (exponent - lift) as f32;
    let f = rest - 1.0;
    let mut p = LN[8];
    for c in LN[..8].iter().rev() {
        p = F::fma(p, f, *c);
    }
    let square = f * f;
    let low = F::fma(square * f, p, exponent * LN2_LOW);
    let low = F::fma(square, -0.5, low);
    F::fma(exponent, LN2_HIGH, f + low)
}

/// Returns 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<F: Fma>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<F>(-x))
}

/// Returns 1 / sqrt(x): a square root and a division, each as IEEE 754 rounds it.
#[inline(always)]
pub(crate) fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

#[cfg(test)]
mod tests {
    use super::{exp, ln, rsqrt, sigmoid};
    use crate::kernels::fma::FromDoubles;

    fn ulps(ours: f32, exact: f64) -> f64 {
        let near = exact as f32;
        let step = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        ((f64::from(ours) - exact) / step).abs()
    }

    fn sweep(low: f32, high: f32, step: usize) -> impl Iterator<Item = f32> {
        let ordered = |x: f32| {
            let bits = x.to_bits() as i32;
            if bits < 0 { i32::MIN - bits } else { bits }
        };
        (ordered(low)..ordered(high))
            .step_by(step)
            .map(|i| f32::from_bits(if i < 0 { i32::MIN - i } else { i } as u32))
    }

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0f64;
        for x in sweep(-103.9, 88.7, 4_099) {
            worst = worst.max(ulps(exp::<FromDoubles>(x), f64::from(x).exp()));
        }
        assert!(worst < 1.1, "{worst}");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp::<FromDoubles>(0.0), 1.0);
        assert_eq!(exp::<FromDoubles>(-0.0), 1.0);
        assert_eq!(exp::<FromDoubles>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<FromDoubles>(-104.5), 0.0);
        assert_eq!(exp::<FromDoubles>(89.0), f32::INFINITY);
        assert_eq!(exp::<FromDoubles>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<FromDoubles>(f32::NAN).is_nan());
        let subnormal = exp::<FromDoubles>(-90.0);
        assert!(subnormal > 0.0 && subnormal < f32::MIN_POSITIVE);
    }

    #[test]
    fn ln_is_close_everywhere() {
        let mut worst = 0.0f64;
        for x in sweep(1e-45, f32::MAX, 4_099) {
            let exact = f64::from(x).ln();
            if exact != 0.0 {
                worst = worst.max(ulps(ln::<FromDoubles>(x).abs(), exact.abs()));
            }
        }
        assert!(worst < 1.5, "{worst}");
        assert_eq!(ln::<FromDoubles>(1.0), 0.0);
    }

    #[test]
    fn sigmoid_saturates_and_is_close() {
        assert_eq!(sigmoid::<FromDoubles>(-200.0), 0.0);
        assert_eq!(sigmoid::<FromDoubles>(200.0), 1.0);
        assert_eq!(sigmoid::<FromDoubles>(0.0), 0.5);
        for x in sweep(-80.0, 80.0, 65_537) {
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!(ulps(sigmoid::<FromDoubles>(x), exact) < 2.5, "{x}");
        }
        assert_eq!(rsqrt(4.0), 0.5);
    }
}

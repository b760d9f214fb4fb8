//! Fused multiply-add: `a * b + c` with one rounding (spec: training numerics, section 2).

/// A way to compute the fused multiply-add of single precision. All give the same bits.
pub(crate) trait Fma: Copy + 'static {
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// The instruction. Without it in the function's target features this would call libm, so kernels use it only
/// where they are compiled for it.
#[derive(Clone, Copy)]
pub(crate) struct Fused;

impl Fma for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// The same from operations on doubles, for processors that lack the instruction.
///
/// The product of two floats is exact in a double. The sum with the addend is rounded to odd, which leaves enough
/// in the last bit for the rounding to single precision to be right (Boldo and Melquiond, "Emulation of FMA and
/// correctly rounded sums", 2008).
#[derive(Clone, Copy)]
pub(crate) struct FromDoubles;

impl Fma for FromDoubles {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        let product = f64::from(a) * f64::from(b);
        let addend = f64::from(c);
        let sum = product + addend;
        let back = sum - product;
        let lost = (product - (sum - back)) + (addend - back);
        let bits = sum.to_bits();
        // What is lost beside an infinity or NaN is NaN.
        let inexact = lost != 0.0 && !lost.is_nan() && bits & 1 == 0;
        let away = (lost > 0.0) == (sum > 0.0);
        let odd = if away {
            bits.wrapping_add(1)
        } else {
            bits.wrapping_sub(1)
        };
        f64::from_bits(if inexact { odd } else { bits }) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::{Fma, FromDoubles};
    use proptest::prelude::*;

    fn any_float() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<u32>().prop_map(f32::from_bits),
            (-4.0f32..4.0),
            (0u32..64).prop_map(f32::from_bits),
            (0u32..64).prop_map(|low| f32::from_bits(0x8000_0000 | low)),
            (0u32..64).prop_map(|low| f32::from_bits(0x3f80_0000 + low)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// The standard library's is the reference: the instruction or libm, both rounded once.
        #[test]
        fn one_rounding(a in any_float(), b in any_float(), c in any_float()) {
            let (ours, theirs) = (FromDoubles::fma(a, b, c), a.mul_add(b, c));
            if theirs.is_nan() {
                prop_assert!(ours.is_nan());
            } else {
                prop_assert_eq!(ours.to_bits(), theirs.to_bits(), "{} {} {}", a, b, c);
            }
        }

        #[test]
        fn near_cancellation(a in 1.0f32..2.0, b in 1.0f32..2.0, ulps in -2i32..3) {
            let near = f32::from_bits(((a * b).to_bits() as i32 + ulps) as u32);
            prop_assert_eq!(FromDoubles::fma(a, b, -near).to_bits(), a.mul_add(b, -near).to_bits());
        }
    }
}

//! Whether a thread computes as IEEE 754 says: any library in the process can change that for a thread, and for those that
//! the thread starts (spec: training numerics, section 1).

use std::hint::black_box;

/// Whether this thread keeps subnormal numbers, in arguments and results, and rounds to nearest.
// Not inlined, so that nothing is computed before the register is what the caller set.
#[inline(never)]
pub(crate) fn is_standard() -> bool {
    let least = f32::MIN_POSITIVE;
    let result_kept = black_box(least) * black_box(0.5) == least / 2.0;
    let argument_kept = black_box(least / 4.0) * black_box(4.0) == least;
    // Three quarters of the last place of 1, which other modes round to the other side in one of the two.
    let part = 0.75 * f32::EPSILON;
    let up = black_box(1.0) + black_box(part) == 1.0 + f32::EPSILON;
    let down = black_box(-1.0) - black_box(part) == -1.0 - f32::EPSILON;
    // A quarter of it, which they round away from 1.
    let part = 0.25 * f32::EPSILON;
    let stays =
        black_box(1.0) + black_box(part) == 1.0 && black_box(-1.0) - black_box(part) == -1.0;
    result_kept && argument_kept && up && down && stays
}

#[cfg(test)]
mod tests {
    /// The rounding and flushing bits of the control register, set as a library that was built with fast math sets them.
    #[cfg(target_arch = "x86_64")]
    #[test]
    #[allow(
        unsafe_code,
        deprecated,
        reason = "the only way to flush subnormal numbers"
    )]
    fn other_arithmetic_is_noticed() {
        use std::arch::x86_64::{_mm_getcsr, _mm_setcsr};
        assert!(super::is_standard());
        for bits in [1 << 15, 1 << 6, 1 << 13, 2 << 13, 3 << 13] {
            // SAFETY: the register is put back before anything else is computed.
            let noticed = unsafe {
                let before = _mm_getcsr();
                _mm_setcsr(before | bits);
                let noticed = !super::is_standard();
                _mm_setcsr(before);
                noticed
            };
            assert!(noticed, "{bits:x}");
        }
        assert!(super::is_standard());
    }
}

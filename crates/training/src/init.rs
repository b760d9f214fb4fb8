//! Fresh weights from a seed by a counter-based generator: any element can be computed alone (spec: training numerics,
//! section 8).

use crate::layout::{Fill, Tensors};

/// Philox4x32-10 (Salmon and others, "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub(crate) fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let left = u64::from(c[0]) * 0xd251_1f53;
        let right = u64::from(c[2]) * 0xcd9e_8d57;
        c = [
            (right >> 32) as u32 ^ c[1] ^ k[0],
            right as u32,
            (left >> 32) as u32 ^ c[3] ^ k[1],
            left as u32,
        ];
        k = [
            k[0].wrapping_add(0x9e37_79b9),
            k[1].wrapping_add(0xbb67_ae85),
        ];
    }
    c
}

/// Returns a number from -1 to below 1, a multiple of 2^-23.
fn even(word: u32) -> f32 {
    let whole = (word >> 8) as i32 - (1 << 23);
    whole as f32 / 8_388_608.0
}

/// Fills tensors: the words of element `i` of tensor `t` are those of counter `(i / 4, t, 0)`, the seed is the key.
pub(crate) fn fill(tensors: &Tensors, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0f32; tensors.len()];
    let key = [seed as u32, (seed >> 32) as u32];
    for (index, tensor) in tensors.list().iter().enumerate() {
        let part = &mut values[tensor.range()];
        match tensor.fill {
            Fill::Zero => {}
            Fill::One => part.fill(1.0),
            Fill::Even(bound) => {
                for (block, four) in part.chunks_mut(4).enumerate() {
                    let block = block as u64;
                    let counter = [block as u32, (block >> 32) as u32, index as u32, 0];
                    for (value, word) in four.iter_mut().zip(philox(counter, key)) {
                        *value = even(word) * bound;
                    }
                }
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::{even, philox};

    /// The published vectors (Random123, `kat_vectors`).
    #[test]
    fn philox_is_the_published_one() {
        let zeros = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox([0; 4], [0; 2]), zeros);
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), ones);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let digits = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), digits);
    }

    #[test]
    fn words_spread_from_minus_one_to_one() {
        assert_eq!(even(0), -1.0);
        assert_eq!(even(u32::MAX), 1.0 - 1.0 / 8_388_608.0);
        assert_eq!(even(1 << 31), 0.0);
    }
}

//! The section of a tensor of which all values are sent, in 8 or 4 bits (spec: aggregation, section 5).
//!
//! A group of values shares a scale, a bfloat16, so that each code times its scale is a binary32 without rounding. As in
//! `sparse`, a section that the decoder takes is the only one with its values, and they give the same section again.

use crate::compression::{GROUP_VALUES, LEVEL_BYTES};
use crate::fault::{SectionFault, Unsendable, scale_max};
use crate::numerics::{TreeSum, bfloat16_bytes, from_bfloat16_bytes, round_ties_even, to_bfloat16};
use crate::packing::is_padded_with_zeros;
use crate::shape::{CHUNK_VALUES, Chunk, ChunkBuffer, TensorShape};

/// How many bits a code has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Eight,
    Four,
}

/// Room for the codes of one chunk.
pub(crate) type CodeBuffer = [i8; CHUNK_VALUES];

impl Width {
    fn code_max(self) -> i8 {
        match self {
            Self::Eight => 127,
            Self::Four => 7,
        }
    }

    fn group_values(self) -> usize {
        match self {
            Self::Eight => CHUNK_VALUES,
            Self::Four => GROUP_VALUES,
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::Eight => 8,
            Self::Four => 4,
        }
    }

    fn code_bytes(self, values: usize) -> usize {
        (values * self.bits() as usize).div_ceil(8)
    }

    fn write(self, codes: &[i8], out: &mut Vec<u8>) {
        match self {
            Self::Eight => out.extend(codes.iter().map(|code| code.to_le_bytes()[0])),
            Self::Four => out.extend(codes.chunks(2).map(|pair| {
                let nibble = |code: i8| code.to_le_bytes()[0] & 0x0f;
                nibble(pair[0]) | pair.get(1).map_or(0, |second| nibble(*second) << 4)
            })),
        }
    }

    fn read(self, bytes: &[u8], codes: &mut [i8]) {
        match self {
            Self::Eight => {
                for (code, byte) in codes.iter_mut().zip(bytes) {
                    *code = i8::from_le_bytes([*byte]);
                }
            }
            Self::Four => {
                // Shifted up and down again, a nibble's highest bit is the sign.
                let signed = |nibble: u8| i8::from_le_bytes([nibble << 4]) >> 4;
                for (pair, byte) in codes.chunks_mut(2).zip(bytes) {
                    pair[0] = signed(*byte);
                    if let Some(second) = pair.get_mut(1) {
                        *second = signed(*byte >> 4);
                    }
                }
            }
        }
    }
}

/// Appends the section of a tensor. There are as many values as the shape says.
pub(crate) fn write(
    shape: TensorShape,
    width: Width,
    tensor: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), Unsendable> {
    let mut buffer: ChunkBuffer = [0.0; CHUNK_VALUES];
    let mut codes: CodeBuffer = [0; CHUNK_VALUES];
    for chunk in shape.each_chunk() {
        let values = chunk.gather(tensor, &mut buffer);
        for group in values.chunks(width.group_values()) {
            let codes = &mut codes[..group.len()];
            let scale = quantize(width, group, codes)?;
            out.extend(bfloat16_bytes(scale));
            width.write(codes, out);
        }
    }
    Ok(())
}

/// Returns the scale of a group, and leaves its codes in `codes`.
fn quantize(width: Width, group: &[f32], codes: &mut [i8]) -> Result<f32, Unsendable> {
    if !group.iter().all(|value| value.is_finite()) {
        return Err(Unsendable::NotFinite);
    }
    let largest = group
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let code_max = f32::from(width.code_max());
    let bound = scale_max(width.code_max());
    // Beyond the bound nothing is rounded, so that rounding cannot overflow.
    let quotient = largest / code_max;
    let scale = if quotient < 2.0 * bound {
        to_bfloat16(quotient)
    } else {
        quotient
    };
    if scale > bound {
        return Err(Unsendable::TooLarge);
    }
    if scale < f32::MIN_POSITIVE {
        codes.fill(0);
        return Ok(0.0);
    }
    for (code, value) in codes.iter_mut().zip(group) {
        let rounded = round_ties_even(value / scale).clamp(-code_max, code_max);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is whole, and within -127 to 127"
        )]
        let whole = rounded as i8;
        *code = whole;
    }
    Ok(scale)
}

/// A section of the right length. Its values are of use once it was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dense<'a> {
    shape: TensorShape,
    width: Width,
    bytes: &'a [u8],
}

impl<'a> Dense<'a> {
    pub(crate) fn new(shape: TensorShape, width: Width, bytes: &'a [u8]) -> Self {
        Self {
            shape,
            width,
            bytes,
        }
    }

    /// Checks that the section is the only encoding of its values.
    pub(crate) fn check(self) -> Result<(), SectionFault> {
        let width = self.width;
        let mut codes: CodeBuffer = [0; CHUNK_VALUES];
        let mut rest = self.bytes;
        for chunk in self.shape.each_chunk() {
            let mut values = chunk.values();
            while values > 0 {
                let group = values.min(width.group_values());
                let (scale, packed) = split_group(width, group, &mut rest);
                let codes = &mut codes[..group];
                width.read(packed, codes);
                check_group(width, scale, codes)?;
                if !is_padded_with_zeros(width.bits(), group, packed) {
                    return Err(SectionFault::Padding);
                }
                values -= group;
            }
        }
        Ok(())
    }

    /// Calls `visit` with each group: its chunk, its first place in it, its scale and its codes.
    fn groups(self, mut visit: impl FnMut(Chunk, usize, f32, &[i8])) {
        let mut codes: CodeBuffer = [0; CHUNK_VALUES];
        let mut rest = self.bytes;
        for chunk in self.shape.each_chunk() {
            let visit = |first, scale, codes: &[i8]| visit(chunk, first, scale, codes);
            each_group(self.width, chunk, &mut rest, &mut codes, visit);
        }
    }

    /// Returns each chunk with the places and the codes that are not zero.
    pub(crate) fn chunks(self) -> impl Iterator<Item = (Chunk, Vec<(u16, i8)>)> {
        let mut rest = self.bytes;
        self.shape.each_chunk().map(move |chunk| {
            let mut codes: CodeBuffer = [0; CHUNK_VALUES];
            let mut sent = Vec::new();
            each_group(
                self.width,
                chunk,
                &mut rest,
                &mut codes,
                |first, _, codes| {
                    let places = (first..).zip(codes).filter(|(_, code)| **code != 0);
                    sent.extend(places.map(|(place, code)| {
                        let place = u16::try_from(place).expect("a chunk has at most 4,096 values");
                        (place, *code)
                    }));
                },
            );
            (chunk, sent)
        })
    }

    /// Calls `visit` with the place of each run of values that lie side by side, and the values.
    pub(crate) fn runs(self, mut visit: impl FnMut(usize, &[f32])) {
        let mut values: ChunkBuffer = [0.0; CHUNK_VALUES];
        self.groups(|chunk, first, scale, codes| {
            let end = first + codes.len();
            for (value, code) in values[first..end].iter_mut().zip(codes) {
                *value = f32::from(*code) * scale;
            }
            if end == chunk.values() {
                let mut read = 0;
                for (start, width) in chunk.each_row() {
                    visit(start, &values[read..read + width]);
                    read += width;
                }
            }
        });
    }

    /// Returns the sum of the squares: for each group its square of whole numbers, which is exact, times the square of
    /// its scale, added by one tree.
    pub(crate) fn square_sum(self) -> f64 {
        let mut sum = TreeSum::default();
        self.groups(|_, _, scale, codes| {
            let squares = codes.iter().map(|code| i32::from(*code) * i32::from(*code));
            let scale = f64::from(scale);
            sum.push(f64::from(squares.sum::<i32>()) * (scale * scale));
        });
        sum.total()
    }
}

/// Takes a chunk from what is left of a section, and calls `visit` with each of its groups.
fn each_group(
    width: Width,
    chunk: Chunk,
    rest: &mut &[u8],
    codes: &mut CodeBuffer,
    mut visit: impl FnMut(usize, f32, &[i8]),
) {
    let mut first = 0;
    while first < chunk.values() {
        let group = (chunk.values() - first).min(width.group_values());
        let (scale, packed) = split_group(width, group, rest);
        let codes = &mut codes[..group];
        width.read(packed, codes);
        visit(first, scale, codes);
        first += group;
    }
}

/// Takes the scale and the codes of a group from what is left of a section.
fn split_group<'a>(width: Width, values: usize, rest: &mut &'a [u8]) -> (f32, &'a [u8]) {
    let (scale, behind) = rest.split_at(LEVEL_BYTES);
    let (codes, behind) = behind.split_at(width.code_bytes(values));
    *rest = behind;
    (from_bfloat16_bytes([scale[0], scale[1]]), codes)
}

fn check_group(width: Width, scale: f32, codes: &[i8]) -> Result<(), SectionFault> {
    let code_max = width.code_max();
    if scale.to_bits() == 0 {
        let is_zero = codes.iter().all(|code| *code == 0);
        return if is_zero {
            Ok(())
        } else {
            Err(SectionFault::ZeroScale)
        };
    }
    if !(f32::MIN_POSITIVE..=scale_max(code_max)).contains(&scale) {
        return Err(SectionFault::Level);
    }
    let largest = codes.iter().map(|code| code.unsigned_abs()).max();
    match largest.map(|largest| largest.cmp(&code_max.unsigned_abs())) {
        Some(std::cmp::Ordering::Equal) => Ok(()),
        Some(std::cmp::Ordering::Greater) => Err(SectionFault::CodeRange),
        _ => Err(SectionFault::ScaleLoose),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(width: Width, tensor: &[f32]) -> Vec<f32> {
        let values = u32::try_from(tensor.len()).unwrap();
        let shape = TensorShape::Vector { values };
        let mut bytes = Vec::new();
        write(shape, width, tensor, &mut bytes).unwrap();
        let mut values = Vec::new();
        let dense = Dense::new(shape, width, &bytes);
        dense.check().unwrap();
        dense.runs(|_, run| values.extend_from_slice(run));
        values
    }

    #[test]
    fn a_value_is_off_by_at_most_half_a_step() {
        for (width, step) in [(Width::Eight, 1.0 / 127.0), (Width::Four, 1.0 / 7.0)] {
            let tensor: Vec<f32> = (0..200).map(|n| (n as f32 * 0.37).sin()).collect();
            for (sent, value) in sent(width, &tensor).iter().zip(&tensor) {
                // The scale is rounded too, by at most one part in 256.
                assert!((sent - value).abs() <= 0.505 * step, "{sent} for {value}");
            }
        }
    }

    #[test]
    fn whole_steps_are_sent_exactly() {
        let tensor = [127.0, -5.0, 0.0, 3.0, -127.0];
        assert_eq!(sent(Width::Eight, &tensor), tensor);
        let tensor = [0.875, -0.125, 0.0, 0.5];
        assert_eq!(sent(Width::Four, &tensor), tensor);
    }

    #[test]
    fn each_group_of_four_bits_has_a_scale_of_its_own() {
        let mut tensor = vec![1000.0; 64];
        tensor.extend([0.007, -0.002]);
        let sent = sent(Width::Four, &tensor);
        assert!((sent[65] + 0.002).abs() < 1e-5, "{}", sent[65]);
    }

    #[test]
    fn what_is_too_small_for_a_normal_scale_is_kept_for_later() {
        let tensor = [f32::MIN_POSITIVE, -f32::MIN_POSITIVE];
        assert_eq!(sent(Width::Eight, &tensor), [0.0, 0.0]);
    }

    #[test]
    fn values_that_are_not_finite_or_too_large_are_not_sent() {
        let shape = TensorShape::Vector { values: 1 };
        for width in [Width::Eight, Width::Four] {
            let fault = |value| write(shape, width, &[value], &mut Vec::new());
            assert_eq!(fault(f32::NAN), Err(Unsendable::NotFinite));
            assert_eq!(fault(f32::INFINITY), Err(Unsendable::NotFinite));
            assert_eq!(fault(f32::MAX), Err(Unsendable::TooLarge));
            assert_eq!(fault(1.0e13), Err(Unsendable::TooLarge));
            assert_eq!(fault(crate::fault::VALUE_MAX), Ok(()));
        }
    }
}

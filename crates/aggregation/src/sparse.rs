//! The section of a tensor of which the largest values are sent (spec: aggregation, section 4).
//!
//! A value is sent as a sign and one bit: its magnitude is above the mean of the tensor's kept magnitudes, or it is
//! not. Each side is sent as its mean, rounded to bfloat16. A section that the decoder takes is the only one with its
//! values, and compressing these values gives the same section again.

use crate::compression::{LEVEL_BYTES, kept_of};
use crate::fault::{SectionFault, Unsendable, VALUE_MAX};
use crate::numerics::{TreeSum, bfloat16_bytes, from_bfloat16_bytes, mean_to_bfloat16, tree_sum};
use crate::packing::{is_padded_with_zeros, pack, unpack};
use crate::shape::{CHUNK_VALUES, Chunk, TensorShape};
use crate::topk::select;

const INDEX_BITS: u32 = 12;
const CODE_BITS: u32 = 2;
/// The code's bit for the high level.
const HIGH: u8 = 0b01;
/// The code's bit for a negative value.
const NEGATIVE: u8 = 0b10;

/// A value that is sent: where in its chunk, and its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u16,
    pub(crate) code: u8,
}

impl Entry {
    fn is_high(self) -> bool {
        self.code & HIGH != 0
    }
}

/// What the two magnitudes of a tensor stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Levels {
    low: f32,
    /// 0 where all values have the low level.
    high: f32,
}

impl Levels {
    fn read(section: &[u8]) -> Self {
        let level = |at: usize| from_bfloat16_bytes([section[at], section[at + 1]]);
        Self {
            low: level(0),
            high: level(LEVEL_BYTES),
        }
    }

    fn value(self, code: u8) -> f32 {
        let magnitude = if code & HIGH == 0 {
            self.low
        } else {
            self.high
        };
        if code & NEGATIVE == 0 {
            magnitude
        } else {
            -magnitude
        }
    }
}

/// The values of a tensor that are kept, chunk by chunk.
struct Kept {
    indices: Vec<u16>,
    values: Vec<f32>,
    /// Where each chunk's values end.
    ends: Vec<usize>,
}

impl Kept {
    fn of(shape: TensorShape, k: u16, tensor: &[f32]) -> Result<Self, Unsendable> {
        let mut kept = Self {
            indices: Vec::new(),
            values: Vec::new(),
            ends: Vec::with_capacity(shape.chunks()),
        };
        let mut buffer = [0.0; CHUNK_VALUES];
        for chunk in shape.each_chunk() {
            let values = chunk.gather(tensor, &mut buffer);
            if !values.iter().all(|value| value.is_finite()) {
                return Err(Unsendable::NotFinite);
            }
            let first = kept.indices.len();
            select(values, kept_of(k, values.len()), &mut kept.indices);
            let indices = &kept.indices[first..];
            kept.values
                .extend(indices.iter().map(|index| values[usize::from(*index)]));
            kept.ends.push(kept.indices.len());
        }
        Ok(kept)
    }

    fn each_chunk(&self) -> impl Iterator<Item = (&[u16], &[f32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| (&self.indices[start..*end], &self.values[start..*end]))
    }

    /// Returns the mean of the magnitudes for which `is_meant`: the sums of the chunks, each by one tree, are added by
    /// another. Nothing where there are none.
    fn mean(&self, is_meant: impl Fn(f64) -> bool) -> Option<f64> {
        let mut count = 0_u64;
        let mut sum = TreeSum::default();
        for (_, values) in self.each_chunk() {
            let magnitudes = values.iter().map(|value| f64::from(value.abs()));
            let meant = magnitudes.filter(|magnitude| is_meant(*magnitude));
            sum.push(tree_sum(meant.inspect(|_| count += 1)));
        }
        // A run has at most 2^36 values, so that their number is exact.
        #[expect(clippy::cast_precision_loss, reason = "the count is below 2^53")]
        let count = (count > 0).then_some(count as f64);
        count.map(|count| sum.total() / count)
    }

    /// Returns the levels, and the magnitude above which values are high.
    fn levels(&self) -> (Levels, f64) {
        let mean = self.mean(|_| true).expect("each chunk keeps a value");
        let low = self
            .mean(|magnitude| magnitude <= mean)
            .map(mean_to_bfloat16);
        let high = self
            .mean(|magnitude| magnitude > mean)
            .map(mean_to_bfloat16);
        match (low, high) {
            (Some(low), Some(high)) if low < high => (Levels { low, high }, mean),
            _ => {
                let low = mean_to_bfloat16(mean);
                (Levels { low, high: 0.0 }, f64::INFINITY)
            }
        }
    }
}

/// Appends the section of a tensor. There are as many values as the shape says.
pub(crate) fn write(
    shape: TensorShape,
    k: u16,
    tensor: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), Unsendable> {
    let kept = Kept::of(shape, k, tensor)?;
    let (levels, threshold) = kept.levels();
    if levels.low.max(levels.high) > VALUE_MAX {
        return Err(Unsendable::TooLarge);
    }
    out.extend(bfloat16_bytes(levels.low));
    out.extend(bfloat16_bytes(levels.high));
    let mut entries = Vec::new();
    for (indices, values) in kept.each_chunk() {
        entries.clear();
        let pairs = indices.iter().zip(values);
        entries.extend(pairs.map(|(index, value)| Entry {
            index: *index,
            code: code(*value, threshold),
        }));
        if levels.low == 0.0 {
            move_zeros_down(&mut entries);
        }
        pack(INDEX_BITS, entries.iter().map(|entry| entry.index), out);
        pack(
            CODE_BITS,
            entries.iter().map(|entry| entry.code.into()),
            out,
        );
    }
    Ok(())
}

fn code(value: f32, threshold: f64) -> u8 {
    let high = if f64::from(value.abs()) > threshold {
        HIGH
    } else {
        0
    };
    let negative = if value < 0.0 { NEGATIVE } else { 0 };
    high | negative
}

/// Gives the values of a low level of zero the one form they have: no sign, at the lowest indices without a high value.
fn move_zeros_down(entries: &mut [Entry]) {
    let highs: Vec<Entry> = entries
        .iter()
        .copied()
        .filter(|entry| entry.is_high())
        .collect();
    let mut zeros_left = entries.len() - highs.len();
    let mut highs = highs.into_iter().peekable();
    let mut index = 0;
    for entry in entries {
        let high = highs.next_if(|high| zeros_left == 0 || high.index == index);
        *entry = high.unwrap_or_else(|| {
            zeros_left -= 1;
            Entry { index, code: 0 }
        });
        index = entry.index + 1;
    }
}

/// A section of the right length. Its values are of use once it was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sparse<'a> {
    shape: TensorShape,
    k: u16,
    bytes: &'a [u8],
}

impl<'a> Sparse<'a> {
    pub(crate) fn new(shape: TensorShape, k: u16, bytes: &'a [u8]) -> Self {
        Self { shape, k, bytes }
    }

    /// Checks that the section is the only encoding of its values.
    pub(crate) fn check(self) -> Result<(), SectionFault> {
        let levels = Levels::read(self.bytes);
        let is_level = |level: f32| level.is_sign_positive() && level <= VALUE_MAX;
        if !is_level(levels.low) || !is_level(levels.high) {
            return Err(SectionFault::Level);
        }
        if levels.high > 0.0 && levels.high <= levels.low {
            return Err(SectionFault::LevelOrder);
        }
        let (mut lows, mut highs) = (0_usize, 0_usize);
        for (chunk, indices, codes) in self.blocks() {
            let kept = kept_of(self.k, chunk.values());
            check_block(chunk, kept, indices, codes)?;
            let entries = || entries(kept, indices, codes);
            let high = entries().filter(|entry| entry.is_high()).count();
            highs += high;
            lows += kept - high;
            if levels.low == 0.0 {
                check_zeros(kept - high, entries())?;
            }
        }
        match (levels.high > 0.0, lows, highs) {
            (true, 0, _) | (true, _, 0) => Err(SectionFault::LevelUnused),
            (false, _, 1..) => Err(SectionFault::LevelMissing),
            _ => Ok(()),
        }
    }

    /// Returns each chunk with the bytes of its indices and of its codes.
    fn blocks(self) -> impl Iterator<Item = (Chunk, &'a [u8], &'a [u8])> {
        let mut rest = &self.bytes[2 * LEVEL_BYTES..];
        self.shape.each_chunk().map(move |chunk| {
            let kept = kept_of(self.k, chunk.values());
            let (indices, behind) = rest.split_at((kept * INDEX_BITS as usize).div_ceil(8));
            let (codes, behind) = behind.split_at((kept * CODE_BITS as usize).div_ceil(8));
            rest = behind;
            (chunk, indices, codes)
        })
    }

    /// Returns each chunk with what is sent of it.
    pub(crate) fn chunks(self) -> impl Iterator<Item = (Chunk, impl Iterator<Item = Entry>)> {
        self.blocks().map(move |(chunk, indices, codes)| {
            let kept = kept_of(self.k, chunk.values());
            (chunk, entries(kept, indices, codes))
        })
    }

    /// Calls `visit` with the place and the value of everything that is sent, `value` being made from what was sent once
    /// for each of the four codes.
    pub(crate) fn visit(self, value: impl Fn(f32) -> f32, mut visit: impl FnMut(usize, f32)) {
        let levels = Levels::read(self.bytes);
        let values = [0, 1, 2, 3].map(|code| value(levels.value(code)));
        for (chunk, entries) in self.chunks() {
            for entry in entries {
                let place = chunk.position(usize::from(entry.index));
                visit(place, values[usize::from(entry.code)]);
            }
        }
    }

    /// Returns the sum of the squares.
    pub(crate) fn square_sum(self) -> f64 {
        let levels = Levels::read(self.bytes);
        let (mut lows, mut highs) = (0.0_f64, 0.0_f64);
        for (_, entries) in self.chunks() {
            for entry in entries {
                let side = if entry.is_high() {
                    &mut highs
                } else {
                    &mut lows
                };
                *side += 1.0;
            }
        }
        let (low, high) = (f64::from(levels.low), f64::from(levels.high));
        lows * (low * low) + highs * (high * high)
    }
}

/// Reads the entries of a chunk.
fn entries<'a>(
    kept: usize,
    indices: &'a [u8],
    codes: &'a [u8],
) -> impl Iterator<Item = Entry> + use<'a> {
    let indices = unpack(INDEX_BITS, kept, indices);
    let codes = unpack(CODE_BITS, kept, codes);
    indices.zip(codes).map(|(index, code)| Entry {
        index,
        code: code.to_le_bytes()[0],
    })
}

fn check_block(
    chunk: Chunk,
    kept: usize,
    indices: &[u8],
    codes: &[u8],
) -> Result<(), SectionFault> {
    let mut last = None;
    for index in unpack(INDEX_BITS, kept, indices) {
        if last.is_some_and(|last| index <= last) {
            return Err(SectionFault::IndexOrder);
        }
        last = Some(index);
    }
    if last.is_some_and(|last| usize::from(last) >= chunk.values()) {
        return Err(SectionFault::IndexRange);
    }
    let is_padded = is_padded_with_zeros(INDEX_BITS, kept, indices)
        && is_padded_with_zeros(CODE_BITS, kept, codes);
    if is_padded {
        Ok(())
    } else {
        Err(SectionFault::Padding)
    }
}

/// Checks that `zeros` values of a low level of zero have their one form.
fn check_zeros(zeros: usize, entries: impl Iterator<Item = Entry>) -> Result<(), SectionFault> {
    let mut zeros_left = zeros;
    for (place, entry) in (0..).zip(entries) {
        // As long as zeros are left, no index is free below this one.
        if zeros_left > 0 && entry.index != place {
            return Err(SectionFault::ZeroPlace);
        }
        if !entry.is_high() {
            zeros_left -= 1;
            if entry.code & NEGATIVE != 0 {
                return Err(SectionFault::ZeroSign);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIX: TensorShape = TensorShape::Vector { values: 6 };
    const ALL: u16 = 4_096;

    fn section(shape: TensorShape, k: u16, tensor: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(shape, k, tensor, &mut bytes).unwrap();
        bytes
    }

    fn checked(shape: TensorShape, k: u16, bytes: &[u8]) -> Sparse<'_> {
        let sparse = Sparse::new(shape, k, bytes);
        sparse.check().unwrap();
        sparse
    }

    fn values(shape: TensorShape, k: u16, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; shape.values() as usize];
        let sparse = checked(shape, k, bytes);
        sparse.visit(|value| value, |place, value| values[place] = value);
        values
    }

    #[test]
    fn each_side_of_the_mean_is_sent_as_its_mean() {
        let tensor = [1.0, -3.0, 0.0, 8.0, -8.0, 4.0];
        // The mean of the magnitudes is 4, which is not above itself.
        let sent = values(SIX, ALL, &section(SIX, ALL, &tensor));
        assert_eq!(sent, [2.0, -2.0, 2.0, 8.0, -8.0, 2.0]);
    }

    #[test]
    fn equal_magnitudes_have_one_level() {
        let bytes = section(SIX, ALL, &[3.0, 3.0, -3.0, 3.0, -3.0, 3.0]);
        assert_eq!(bytes[2..4], [0, 0], "there is no high level");
        assert_eq!(values(SIX, ALL, &bytes), [3.0, 3.0, -3.0, 3.0, -3.0, 3.0]);
        // Levels that round to the same bfloat16 are one.
        let close = [1.0, 1.0, 1.0, 1.000_1, 1.0, 1.0];
        assert_eq!(section(SIX, ALL, &close)[2..4], [0, 0]);
    }

    #[test]
    fn zeros_stand_at_the_lowest_free_indices_without_a_sign() {
        let bytes = section(SIX, ALL / 2, &[0.0, 0.0, -0.0, 5.0, -0.0, 0.0]);
        let sparse = checked(SIX, ALL / 2, &bytes);
        let (_, entries) = sparse.chunks().next().unwrap();
        let entries: Vec<(u16, u8)> = entries.map(|entry| (entry.index, entry.code)).collect();
        assert_eq!(entries, [(0, 0), (1, 0), (3, HIGH)]);
        // A low level that is too small for bfloat16 is zero too, and its values go down.
        let tiny = f32::from_bits(1);
        let bytes = section(SIX, ALL / 2, &[0.0, 5.0, 0.0, 0.0, tiny, -tiny]);
        let sparse = checked(SIX, ALL / 2, &bytes);
        let (_, entries) = sparse.chunks().next().unwrap();
        let entries: Vec<(u16, u8)> = entries.map(|entry| (entry.index, entry.code)).collect();
        assert_eq!(entries, [(0, 0), (1, HIGH), (2, 0)]);
    }

    #[test]
    fn values_that_are_not_finite_or_too_large_are_not_sent() {
        let mut out = Vec::new();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut tensor = [0.0; 6];
            tensor[4] = value;
            let fault = write(SIX, 1, &tensor, &mut out);
            assert_eq!(fault, Err(Unsendable::NotFinite), "{value}");
        }
        let fault = write(SIX, 1, &[f32::MAX; 6], &mut out);
        assert_eq!(fault, Err(Unsendable::TooLarge));
    }
}

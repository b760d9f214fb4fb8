//! Numbers as files keep them: single, half and brain precision, and the blocks of ggml.
//!
//! A block is decoded with the operations of ggml's reference code in its order (`ggml-quants.c`), so that what is read is what
//! llama.cpp computes with. Formats that no model of the family is published in are left out.

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Numbers of a block of the `K` formats.
const SUPER: usize = 256;
/// What changes no number that it is added to, a negative zero included.
const NONE: f32 = -0.0;

impl Storage {
    const ALL: [(Self, u32); 11] = [
        (Self::F32, 0),
        (Self::F16, 1),
        (Self::Q4_0, 2),
        (Self::Q4_1, 3),
        (Self::Q5_0, 6),
        (Self::Q5_1, 7),
        (Self::Q8_0, 8),
        (Self::Q4K, 12),
        (Self::Q5K, 13),
        (Self::Q6K, 14),
        (Self::Bf16, 30),
    ];

    /// Returns the format of that number in GGUF files.
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, other)| *other == number)
            .map(|(storage, _)| storage)
    }

    /// Returns its number in GGUF files.
    pub(crate) fn number(self) -> u32 {
        let mut all = Self::ALL.into_iter();
        all.find(|(storage, _)| *storage == self)
            .map_or(0, |(_, number)| number)
    }

    /// Returns the numbers and the bytes of a block.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (SUPER, 144),
            Self::Q5K => (SUPER, 176),
            Self::Q6K => (SUPER, 210),
        }
    }

    /// Returns the bytes of a row, or nothing where so many numbers are no whole number of blocks.
    pub(crate) fn row_bytes(self, columns: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        columns
            .is_multiple_of(numbers)
            .then(|| columns / numbers * bytes)
    }

    /// Decodes whole blocks: `out` has as many numbers as `bytes` hold.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (numbers, size) = self.block();
        let blocks = bytes.chunks_exact(size).zip(out.chunks_exact_mut(numbers));
        match self {
            Self::F32 => blocks.for_each(|(b, out)| {
                out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }),
            Self::F16 => blocks.for_each(|(b, out)| out[0] = half(b)),
            Self::Bf16 => blocks.for_each(|(b, out)| {
                out[0] = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }),
            Self::Q4_0 => blocks.for_each(|(b, out)| halves(&b[2..], &[], 8, half(b), NONE, out)),
            Self::Q4_1 => {
                blocks.for_each(|(b, out)| halves(&b[4..], &[], 0, half(b), half(&b[2..]), out));
            }
            Self::Q5_0 => {
                blocks.for_each(|(b, out)| halves(&b[6..], &b[2..6], 16, half(b), NONE, out));
            }
            Self::Q5_1 => {
                let all = blocks;
                all.for_each(|(b, out)| halves(&b[8..], &b[4..8], 0, half(b), half(&b[2..]), out));
            }
            Self::Q8_0 => blocks.for_each(|(b, out)| {
                let scale = half(b);
                for (out, byte) in out.iter_mut().zip(&b[2..]) {
                    *out = f32::from(byte.cast_signed()) * scale;
                }
            }),
            Self::Q4K => blocks.for_each(|(b, out)| scaled(b, &[], &b[16..], out)),
            Self::Q5K => blocks.for_each(|(b, out)| scaled(b, &b[16..48], &b[48..], out)),
            Self::Q6K => blocks.for_each(|(b, out)| six_bits(b, out)),
        }
    }

    /// Appends a row. Only the formats that are written can be asked for: the others become single precision nowhere.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F16 => out.extend(
                values
                    .iter()
                    .flat_map(|value| half_of(*value).to_le_bytes()),
            ),
            Self::Q8_0 => values.chunks(32).for_each(|block| eight_bits(block, out)),
            _ => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
}

/// Blocks of 32: the low halves of the bytes are the first 16 numbers, the high halves the others; `fifth` has a bit more of each.
fn halves(bytes: &[u8], fifth: &[u8], less: i32, scale: f32, least: f32, out: &mut [f32]) {
    let bits = fifth
        .iter()
        .rev()
        .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    for (index, byte) in bytes.iter().enumerate() {
        let high = |place: usize| (bits >> place & 1) << 4;
        let low = u32::from(byte & 0x0f) | high(index);
        let upper = u32::from(byte >> 4) | high(index + 16);
        out[index] = (low.cast_signed() - less) as f32 * scale + least;
        out[index + 16] = (upper.cast_signed() - less) as f32 * scale + least;
    }
}

/// Blocks of 256 with eight scales and eight least values of six bits; `fifth` has a bit more of each number.
fn scaled(block: &[u8], fifth: &[u8], bytes: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    let parts = bytes.chunks_exact(32).zip(out.chunks_exact_mut(64));
    for (pair, (bytes, out)) in parts.enumerate() {
        for side in 0..2 {
            let part = 2 * pair + side;
            let (of_scale, of_least) = six_bit_pair(&block[4..16], part);
            let (scale, least) = (scale * f32::from(of_scale), least * f32::from(of_least));
            for (index, byte) in bytes.iter().enumerate() {
                let bit = fifth.get(index).map_or(0, |byte| byte >> part & 1);
                let number = (byte >> (4 * side) & 0x0f) + (bit << 4);
                out[32 * side + index] = scale * f32::from(number) - least;
            }
        }
    }
}

/// The scale and the least value of part `part` of a block.
fn six_bit_pair(packed: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (packed[part] & 63, packed[part + 4] & 63);
    }
    (
        packed[part + 4] & 0x0f | (packed[part - 4] >> 6) << 4,
        packed[part + 4] >> 4 | (packed[part] >> 6) << 4,
    )
}

/// Blocks of 256 numbers of six bits with sixteen scales.
fn six_bits(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    let scale = half(scale);
    for (part, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&low[64 * part..], &high[32 * part..]);
        let scales = &scales[8 * part..];
        for (index, out) in out.iter_mut().enumerate() {
            let (quarter, place) = (index / 32, index % 32);
            let four = low[32 * (quarter % 2) + place] >> (4 * (quarter / 2)) & 0x0f;
            let two = high[place] >> (2 * quarter) & 3;
            let number = (four | two << 4).cast_signed() - 32;
            let of_part = scales[2 * quarter + place / 16].cast_signed();
            *out = scale * f32::from(of_part) * f32::from(number);
        }
    }
}

/// A block of `Q8_0`, as ggml's `quantize_row_q8_0_ref` makes it.
fn eight_bits(values: &[f32], out: &mut Vec<u8>) {
    let most = values
        .iter()
        .fold(0.0f32, |most, value| most.max(value.abs()));
    let scale = most / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(half_of(scale).to_le_bytes());
    let number = |value: &f32| ((value * inverse).round() as i8).cast_unsigned();
    out.extend(values.iter().map(number));
}

/// The number of half precision that two bytes are.
fn half(bytes: &[u8]) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
    let value = match magnitude {
        // A subnormal number counts steps of 2^-24.
        0..0x400 => (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        0x400..0x7c00 => (magnitude << 13) + 0x3800_0000,
        _ => 0x7f80_0000 | (magnitude & 0x3ff) << 13,
    };
    f32::from_bits(sign | value)
}

/// The nearest number of half precision, ties to even; infinite where there is none.
pub(crate) fn half_of(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let half = match magnitude {
        // Adding a half rounds to steps of 2^-24, those of subnormal numbers.
        0..0x3880_0000 => (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits(),
        0x3880_0000..0x4780_0000 => (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x3800_0000) >> 13,
        0x4780_0000..=0x7f80_0000 => 0x7c00,
        _ => 0x7e00,
    };
    sign | half as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_decoded_as_llama_cpp_decodes_them() {
        let vectors = include_str!("../../../vectors/outcome_blocks.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let mut seen = Vec::new();
        for vector in vectors["blocks"].as_array().unwrap() {
            let name = vector["format"].as_str().unwrap();
            let mut all = Storage::ALL.into_iter().map(|(storage, _)| storage);
            let named = |storage: &Storage| format!("{storage:?}").to_uppercase();
            let storage = all
                .find(|storage| named(storage) == name.replace("_K", "K"))
                .unwrap();
            let digits = vector["bytes"].as_str().unwrap().as_bytes()[2..].chunks(2);
            let bytes: Vec<u8> = digits
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            let wanted = vector["numbers"].as_str().unwrap().split(' ');
            let wanted: Vec<f32> = wanted
                .map(|bits| f32::from_bits(u32::from_str_radix(bits, 16).unwrap()))
                .collect();
            let mut numbers = vec![0.0; wanted.len()];
            storage.decode(&bytes, &mut numbers);
            assert_eq!(numbers, wanted, "{name}");
            seen.push(name.to_owned());
        }
        seen.dedup();
        assert_eq!(seen.len(), Storage::ALL.len() - 1);
    }

    #[test]
    fn every_number_of_half_precision_comes_back() {
        for bits in 0..=u16::MAX {
            let value = half(&bits.to_le_bytes());
            if value.is_nan() {
                assert!(bits & 0x7fff > 0x7c00, "{bits:x}");
            } else {
                assert_eq!(half_of(value), bits, "{value:e}");
            }
        }
    }

    #[test]
    fn halves_are_rounded_to_the_nearest_and_ties_to_even() {
        // Neighbors of half precision, and what lies around the middle of them.
        for bits in (0u16..0x7bff).step_by(7) {
            let (low, high) = (half(&bits.to_le_bytes()), half(&(bits + 1).to_le_bytes()));
            let middle = low.midpoint(high);
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(half_of(middle), even, "{middle:e}");
            assert_eq!(half_of(middle.next_up()), bits + 1, "{middle:e}");
            assert_eq!(half_of(middle.next_down()), bits, "{middle:e}");
        }
        assert_eq!(half_of(65_519.9), 0x7bff);
        assert_eq!(half_of(65_520.0), 0x7c00);
        assert_eq!(half_of(-1e30), 0xfc00);
    }

    #[test]
    fn blocks_of_eight_bits_are_near_what_they_were_made_of() {
        let values: Vec<f32> = (0..64u8).map(|i| f32::from(i) * 0.37 - 9.0).collect();
        let mut bytes = Vec::new();
        Storage::Q8_0.encode(&values, &mut bytes);
        assert_eq!(bytes.len(), 68);
        let mut back = vec![0.0; 64];
        Storage::Q8_0.decode(&bytes, &mut back);
        for (value, back) in values.iter().zip(&back) {
            assert!((value - back).abs() < 0.06, "{value} {back}");
        }
    }

    #[test]
    fn formats_have_the_numbers_and_sizes_of_ggml() {
        for (storage, number) in Storage::ALL {
            assert_eq!(Storage::of_number(number), Some(storage));
            assert_eq!(storage.number(), number);
            let (numbers, bytes) = storage.block();
            assert_eq!(storage.row_bytes(numbers * 3), Some(bytes * 3));
        }
        assert_eq!(Storage::of_number(4), None);
        assert_eq!(Storage::Q6K.row_bytes(255), None);
    }
}

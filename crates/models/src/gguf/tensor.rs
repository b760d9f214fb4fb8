//! The list of a file's tensors: what each is, and where its data lies.

use std::io::Read;

use super::GgufError;
use super::source::Source;

/// The most dimensions a tensor may have, as llama.cpp has it.
const DIMENSIONS_MAX: u32 = 4;

/// The longest name of a tensor, in bytes, as llama.cpp has it.
const NAME_BYTES_MAX: u64 = 63;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorType {
    number: u32,
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
}

impl TensorType {
    const fn new(number: u32, name: &'static str, block_elements: u64, block_bytes: u64) -> Self {
        Self {
            number,
            name,
            block_elements,
            block_bytes,
        }
    }

    /// Every type that ggml has, with the elements and bytes of one block (`ggml-common.h`). Numbers that are missing
    /// here are those of types that ggml has taken out again.
    const ALL: [Self; 35] = [
        Self::new(0, "f32", 1, 4),
        Self::new(1, "f16", 1, 2),
        Self::new(2, "q4_0", 32, 18),
        Self::new(3, "q4_1", 32, 20),
        Self::new(6, "q5_0", 32, 22),
        Self::new(7, "q5_1", 32, 24),
        Self::new(8, "q8_0", 32, 34),
        Self::new(9, "q8_1", 32, 36),
        Self::new(10, "q2_K", 256, 84),
        Self::new(11, "q3_K", 256, 110),
        Self::new(12, "q4_K", 256, 144),
        Self::new(13, "q5_K", 256, 176),
        Self::new(14, "q6_K", 256, 210),
        Self::new(15, "q8_K", 256, 292),
        Self::new(16, "iq2_xxs", 256, 66),
        Self::new(17, "iq2_xs", 256, 74),
        Self::new(18, "iq3_xxs", 256, 98),
        Self::new(19, "iq1_s", 256, 50),
        Self::new(20, "iq4_nl", 32, 18),
        Self::new(21, "iq3_s", 256, 110),
        Self::new(22, "iq2_s", 256, 82),
        Self::new(23, "iq4_xs", 256, 136),
        Self::new(24, "i8", 1, 1),
        Self::new(25, "i16", 1, 2),
        Self::new(26, "i32", 1, 4),
        Self::new(27, "i64", 1, 8),
        Self::new(28, "f64", 1, 8),
        Self::new(29, "iq1_m", 256, 56),
        Self::new(30, "bf16", 1, 2),
        Self::new(34, "tq1_0", 256, 54),
        Self::new(35, "tq2_0", 256, 66),
        Self::new(39, "mxfp4", 32, 17),
        Self::new(40, "nvfp4", 64, 36),
        Self::new(41, "q1_0", 128, 18),
        Self::new(42, "q2_0", 64, 18),
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number == number)
    }

    /// The type's name, as ggml has it.
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Its dimensions, the fastest first; each is at least 1.
    pub dimensions: Vec<u64>,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Where its data begins, in bytes after the head.
    pub offset: u64,
    elements: u64,
    bytes: u64,
}

impl Tensor {
    /// How many numbers it has.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// How many bytes its data has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> GgufError {
        error(&self.name, problem)
    }
}

fn error(name: &str, problem: impl Into<String>) -> GgufError {
    GgufError::Tensor {
        name: name.to_owned(),
        problem: problem.into(),
    }
}

/// Reads one entry of the list.
pub(super) fn read<R: Read>(source: &mut Source<R>) -> Result<Tensor, GgufError> {
    const WHAT: &str = "the list of tensors";
    let name = source.kept_text(WHAT, NAME_BYTES_MAX)?;
    let name = name.ok_or_else(|| {
        error(
            "",
            format!("has a name that is longer than {NAME_BYTES_MAX} bytes or no text"),
        )
    })?;
    let count = source.u32(WHAT)?;
    if !(1..=DIMENSIONS_MAX).contains(&count) {
        return Err(error(
            &name,
            format!("has {count} dimensions instead of 1 to {DIMENSIONS_MAX}"),
        ));
    }
    let mut dimensions = Vec::new();
    for _ in 0..count {
        dimensions.push(source.u64(WHAT)?);
    }
    let number = source.u32(WHAT)?;
    let kind = TensorType::of(number)
        .ok_or_else(|| error(&name, format!("has the unknown type {number}")))?;
    let offset = source.u64(WHAT)?;
    let (elements, bytes) = size(&dimensions, kind).map_err(|problem| error(&name, problem))?;
    Ok(Tensor {
        name,
        dimensions,
        kind,
        offset,
        elements,
        bytes,
    })
}

/// The elements and the bytes of a tensor. ggml counts both in signed 64 bits.
fn size(dimensions: &[u64], kind: TensorType) -> Result<(u64, u64), &'static str> {
    if dimensions.contains(&0) {
        return Err("has a dimension of zero");
    }
    if !dimensions[0].is_multiple_of(kind.block_elements) {
        return Err("has rows that are no whole number of blocks");
    }
    let elements = dimensions
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
        .filter(|elements| i64::try_from(*elements).is_ok());
    let elements = elements.ok_or("has more elements than can be counted")?;
    let bytes = (elements / kind.block_elements)
        .checked_mul(kind.block_bytes)
        .filter(|bytes| i64::try_from(*bytes).is_ok());
    Ok((elements, bytes.ok_or("has more bytes than can be counted")?))
}

/// Checks that the data of each tensor follows that of the one before, as the format has it, and ends within the file.
pub(super) fn check_extents(
    tensors: &[Tensor],
    alignment: u64,
    head_bytes: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    let mut expected = 0u64;
    for tensor in tensors {
        if tensor.offset != expected {
            return Err(tensor.error(format!(
                "lies at {} instead of {expected}: tensors must follow each other",
                tensor.offset
            )));
        }
        // An offset is at most the end of the tensor before, which was found to be within the file.
        let end = head_bytes
            .saturating_add(tensor.offset)
            .saturating_add(tensor.bytes);
        if end > file_bytes {
            return Err(GgufError::TensorsOutside { end, file_bytes });
        }
        expected = (tensor.offset + tensor.bytes).next_multiple_of(alignment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_whole_blocks() {
        let of = |name: &str| {
            TensorType::ALL
                .into_iter()
                .find(|kind| kind.name == name)
                .unwrap()
        };
        assert_eq!(size(&[576, 192], of("q4_1")), Ok((110_592, 69_120)));
        assert_eq!(size(&[256], of("q4_K")), Ok((256, 144)));
        assert_eq!(size(&[3, 2, 1, 5], of("f16")), Ok((30, 60)));
        assert!(size(&[100], of("q4_1")).is_err());
        assert!(size(&[0], of("f32")).is_err());
        assert!(size(&[u64::MAX, 2], of("i8")).is_err());
        assert!(size(&[1 << 62, 2], of("i8")).is_err());
        assert!(size(&[1 << 62], of("f32")).is_err());
    }

    #[test]
    fn every_type_has_a_number_of_its_own() {
        for (index, kind) in TensorType::ALL.into_iter().enumerate() {
            assert_eq!(TensorType::of(kind.number), Some(kind), "row {index}");
            assert!(kind.block_elements > 0 && kind.block_bytes > 0);
        }
    }
}

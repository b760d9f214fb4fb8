//! What a contribution says of one tensor.

use crate::compression::Compression;
use crate::dense::{self, Dense, Width};
use crate::fault::{EncodeError, SectionFault};
use crate::layout::Layout;
use crate::shape::TensorShape;
use crate::sparse::{self, Sparse};

/// A section that was checked: the only encoding of its values.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    shape: TensorShape,
    form: Form<'a>,
}

/// What is sent of a chunk.
pub(crate) struct SentChunk {
    /// The number of the chunk's values.
    pub(crate) values: usize,
    /// Indices in ascending order, and codes; zeros of dense forms are left out.
    pub(crate) sent: Vec<(u16, i8)>,
}

#[derive(Debug, Clone, Copy)]
enum Form<'a> {
    Sparse(Sparse<'a>),
    Dense(Dense<'a>),
}

impl<'a> Section<'a> {
    /// Checks the section of a tensor. Nothing is allocated.
    ///
    /// # Errors
    /// Returns why these bytes encode no values, or are not the only encoding of theirs.
    ///
    /// # Panics
    /// Panics when the layout does not have the tensor.
    pub fn read(layout: &Layout, tensor: usize, bytes: &'a [u8]) -> Result<Self, SectionFault> {
        let expected = layout.section(tensor).len();
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(SectionFault::Length { expected, got });
        }
        let section = Self::checked(layout, tensor, bytes);
        match section.form {
            Form::Sparse(sparse) => sparse.check()?,
            Form::Dense(dense) => dense.check()?,
        }
        Ok(section)
    }

    /// Takes a section that was checked before.
    pub(crate) fn checked(layout: &Layout, tensor: usize, bytes: &'a [u8]) -> Self {
        let shape = layout.tensors()[tensor];
        let form = match layout.compression() {
            Compression::TopK { k } => Form::Sparse(Sparse::new(shape, k, bytes)),
            Compression::Dense8 => Form::Dense(Dense::new(shape, Width::Eight, bytes)),
            Compression::Dense4 => Form::Dense(Dense::new(shape, Width::Four, bytes)),
        };
        Self { shape, form }
    }

    /// Returns the tensor's shape.
    pub fn shape(&self) -> TensorShape {
        self.shape
    }

    /// Returns the Euclidean norm of the values, in binary64.
    pub fn norm(&self) -> f64 {
        let squares = match self.form {
            Form::Sparse(sparse) => sparse.square_sum(),
            Form::Dense(dense) => dense.square_sum(),
        };
        squares.sqrt()
    }

    /// Adds each value that is sent, times `factor`, to its place in `sums`.
    ///
    /// # Panics
    /// Panics when `sums` does not have the tensor's values.
    pub fn add_to(&self, factor: f32, sums: &mut [f32]) {
        self.assert_fits(sums);
        match self.form {
            Form::Sparse(sparse) => {
                sparse.visit(|value| factor * value, |place, value| sums[place] += value);
            }
            Form::Dense(dense) => dense.runs(|start, values| {
                for (sum, value) in sums[start..start + values.len()].iter_mut().zip(values) {
                    *sum += factor * value;
                }
            }),
        }
    }

    /// Takes each value that is sent from its place in `residual`.
    ///
    /// # Panics
    /// Panics when `residual` does not have the tensor's values.
    pub fn take_from(&self, residual: &mut [f32]) {
        self.assert_fits(residual);
        match self.form {
            Form::Sparse(sparse) => {
                sparse.visit(|value| value, |place, value| residual[place] -= value);
            }
            Form::Dense(dense) => dense.runs(|start, values| {
                for (left, value) in residual[start..start + values.len()].iter_mut().zip(values) {
                    *left -= value;
                }
            }),
        }
    }

    /// Returns the values, zero where nothing is sent.
    pub fn values(&self) -> Vec<f32> {
        let values = usize::try_from(self.shape.values());
        let mut sums = vec![0.0; values.expect("a section is shorter than memory")];
        self.add_to(1.0, &mut sums);
        sums
    }

    /// Returns what is sent of each chunk.
    pub(crate) fn chunks(&self) -> Box<dyn Iterator<Item = SentChunk> + 'a> {
        match self.form {
            Form::Sparse(sparse) => Box::new(sparse.chunks().map(|(chunk, entries)| {
                let entries = entries.map(|entry| (entry.index, entry.code.cast_signed()));
                let (values, sent) = (chunk.values(), entries.collect());
                SentChunk { values, sent }
            })),
            Form::Dense(dense) => Box::new(dense.chunks().map(|(chunk, sent)| {
                let values = chunk.values();
                SentChunk { values, sent }
            })),
        }
    }

    fn assert_fits(&self, values: &[f32]) {
        assert_eq!(
            values.len() as u64,
            self.shape.values(),
            "another tensor's values"
        );
    }
}

/// Appends the section of a tensor of the layout.
pub(crate) fn write(
    layout: &Layout,
    tensor: usize,
    values: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let shape = layout.tensors()[tensor];
    if values.len() as u64 != shape.values() {
        return Err(EncodeError::Values(tensor));
    }
    let written = match layout.compression() {
        Compression::TopK { k } => sparse::write(shape, k, values, out),
        Compression::Dense8 => dense::write(shape, Width::Eight, values, out),
        Compression::Dense4 => dense::write(shape, Width::Four, values, out),
    };
    written.map_err(|unsendable| unsendable.of_tensor(tensor))
}

//! Weights as safetensors files, which other programs of the field read and write.
//!
//! A file is a stranger's: its header is bounded and checked by the `safetensors` crate, and names, shapes, types and
//! numbers here, before anything is believed.

use std::sync::Arc;

use ::safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use crate::layout::Tensors;
use crate::weights::{Weights, WeightsError};

/// A file does not hold the weights of these tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is not a sound safetensors file.
    #[error("the file is not a sound safetensors file")]
    Format(#[source] SafeTensorError),
    /// It is longer than such weights are.
    #[error("the file has {found} bytes; these weights take at most {most}")]
    Long {
        /// Its length.
        found: usize,
        /// What is read at most.
        most: usize,
    },
    /// A tensor is missing.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor is not one of the model.
    #[error("the file has tensor {0:?}, which this model does not")]
    Unknown(String),
    /// A tensor has another type or shape.
    #[error("tensor {name} is {dtype} {shape:?}, not F32 {wanted:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape that it must have.
        wanted: Vec<usize>,
    },
    /// Its numbers are not weights.
    #[error("the file's numbers are not weights")]
    Numbers(#[source] WeightsError),
}

/// Bytes of a header that are believed, for each tensor and beyond them.
const HEADER_BYTES_PER_TENSOR: usize = 512;
const HEADER_BYTES: usize = 1 << 16;
/// Bytes of a name that an error repeats.
const NAME_BYTES: usize = 200;

/// Reads weights.
///
/// # Errors
/// When the bytes are not a safetensors file with exactly these tensors in single precision, all of them finite.
pub fn read(tensors: &Arc<Tensors>, bytes: &[u8]) -> Result<Weights, ReadError> {
    let most = tensors.len() * 4 + tensors.list().len() * HEADER_BYTES_PER_TENSOR + HEADER_BYTES;
    if bytes.len() > most {
        let found = bytes.len();
        return Err(ReadError::Long { found, most });
    }
    let file = SafeTensors::deserialize(bytes).map_err(ReadError::Format)?;
    let known = |name: &str| tensors.list().iter().any(|tensor| tensor.name == name);
    if let Some(name) = file.names().into_iter().find(|name| !known(name)) {
        let shown: String = name.chars().take(NAME_BYTES).collect();
        return Err(ReadError::Unknown(shown));
    }
    let mut values = Vec::with_capacity(tensors.len());
    for tensor in tensors.list() {
        let Ok(view) = file.tensor(&tensor.name) else {
            return Err(ReadError::Missing(tensor.name.clone()));
        };
        let wanted = tensor.shape();
        if view.dtype() != Dtype::F32 || view.shape() != wanted {
            return Err(ReadError::Shape {
                name: tensor.name.clone(),
                dtype: format!("{:?}", view.dtype()),
                shape: view.shape().to_vec(),
                wanted,
            });
        }
        let numbers = view.data().as_chunks::<4>().0.iter();
        values.extend(numbers.map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Weights::new(tensors, values).map_err(ReadError::Numbers)
}

/// Writes weights.
#[must_use]
pub fn write(weights: &Weights) -> Vec<u8> {
    let tensors = weights.tensors();
    let bytes: Vec<u8> = weights
        .values()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let views = tensors.list().iter().map(|tensor| {
        let range = tensor.range();
        let data = &bytes[range.start * 4..range.end * 4];
        let view = TensorView::new(Dtype::F32, tensor.shape(), data)
            .expect("a tensor's range is as long as its shape says");
        (tensor.name.clone(), view)
    });
    ::safetensors::serialize(views, None).expect("names are unique and shapes sound")
}

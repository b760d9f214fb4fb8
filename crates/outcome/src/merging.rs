//! An adapter worked into the weights under it, for programs that run whole models only. spec: 17, section 4.

use hearth_training::{AdapterLayout, Weights, WeightsError};
use thiserror::Error;

/// An adapter was not worked into weights.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum MergeError {
    /// The numbers are those of another adapter, or of another model.
    #[error("the adapter is not one of these weights")]
    Layout,
    /// A number became infinite.
    #[error("the adapter makes weights that are none")]
    Numbers(#[source] WeightsError),
}

/// Returns the weights `W + (alpha / rank) B A` for every matrix that the adapter changes, and the others as they are. Each
/// number is computed in double precision, in the order of the ranks, and rounded once, so that all devices get the same bits.
///
/// # Errors
/// When the adapter is not one of these weights, or a number becomes infinite.
pub fn merge(
    frozen: &Weights,
    layout: &AdapterLayout,
    adapter: &Weights,
) -> Result<Weights, MergeError> {
    if **adapter.tensors() != **layout.tensors() {
        return Err(MergeError::Layout);
    }
    let rank = layout.adapter().rank;
    let factor = f64::from(layout.adapter().alpha / rank as f32);
    let mut values = frozen.values().to_vec();
    let mut merged = 0;
    for tensor in frozen.tensors().list() {
        let matrix = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let side =
            |side: &str| adapter.tensor(&format!("base_model.model.{matrix}.lora_{side}.weight"));
        let (Some(a), Some(b)) = (side("A"), side("B")) else {
            continue;
        };
        if a.len() != rank * tensor.columns || b.len() != tensor.rows * rank {
            return Err(MergeError::Layout);
        }
        let rows = values[tensor.range()].chunks_exact_mut(tensor.columns);
        for (row, b) in rows.zip(b.chunks_exact(rank)) {
            add_row(row, a, b, factor);
        }
        merged += 2;
    }
    if merged != layout.tensors().list().len() {
        return Err(MergeError::Layout);
    }
    Weights::new(frozen.tensors(), values).map_err(MergeError::Numbers)
}

/// Adds to a row of a matrix what the adapter makes of it: `b` has a number for each rank, `a` a row for each.
fn add_row(row: &mut [f32], a: &[f32], b: &[f32], factor: f64) {
    let mut sums = vec![0.0f64; row.len()];
    for (a, b) in a.chunks_exact(row.len()).zip(b) {
        for (sum, a) in sums.iter_mut().zip(a) {
            *sum += f64::from(*b) * f64::from(*a);
        }
    }
    for (value, sum) in row.iter_mut().zip(sums) {
        *value = (f64::from(*value) + factor * sum) as f32;
    }
}

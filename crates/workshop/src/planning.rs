//! What to write into a run's manifest: method, steps, compression and outer rate, from the model and the links
//! (spec: 13 aggregation).

use hearth_aggregation::{Devices, ModelTensor, Plan, PlanError, PlanRequest, TensorRole};
use hearth_protocol::run::manifest::{AdapterShape, ModelShape};
use hearth_training::{AdapterError, AdapterLayout, ArchitectureError, Layout, Role};
use thiserror::Error;

use crate::settings::{adapter_of, architecture, tensor_shape};

/// Why there is no plan for a model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlanningError {
    /// The model.
    #[error("the model cannot be trained here")]
    Model(#[from] ArchitectureError),
    /// The adapter.
    #[error("the adapter cannot be trained here")]
    Adapter(#[from] AdapterError),
    /// The devices.
    #[error("no way of training fits these devices and links")]
    Plan(#[from] PlanError),
}

/// Plans a run that trains all weights of a model, or an adapter over them, in rounds of `steps` local steps where its maker has
/// chosen them.
///
/// # Errors
/// When the model or the adapter is out of bounds, or nothing fits the links.
pub fn plan(
    model: &ModelShape,
    adapter: Option<&AdapterShape>,
    tokens_per_step: u64,
    devices: Devices,
    settle_s: f64,
    rounds: u32,
    steps: Option<u32>,
) -> Result<Plan, PlanningError> {
    let layout = Layout::new(architecture(model))?;
    let over = match adapter {
        Some(shape) => Some(AdapterLayout::new(&layout, adapter_of(shape))?),
        None => None,
    };
    let trained = over.as_ref().map_or(layout.tensors(), |a| a.tensors());
    let tensors = trained.list().iter().map(|tensor| ModelTensor {
        shape: tensor_shape(tensor),
        role: match tensor.role {
            Role::Matrix if over.is_none() => TensorRole::Hidden,
            _ => TensorRole::Other,
        },
    });
    let passed = layout.tensors().len() + over.as_ref().map_or(0, |a| a.tensors().len());
    let request = PlanRequest {
        tensors: tensors.collect(),
        parameters: passed as u64,
        tokens_per_step,
        devices,
        settle_s,
        rounds,
        steps,
    };
    Ok(hearth_aggregation::plan(&request)?)
}

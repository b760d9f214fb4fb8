//! The numbers of a model or an adapter.

use std::sync::Arc;

use crate::init;
use crate::layout::{Tensor, Tensors};

/// Numbers for every tensor, in order.
#[derive(Clone, Debug)]
pub struct Weights {
    tensors: Arc<Tensors>,
    values: Vec<f32>,
}

/// Numbers are not weights of these tensors.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum WeightsError {
    /// There are too many or too few.
    #[error("{found} numbers do not fill tensors of {wanted}")]
    Length {
        /// How many there are.
        found: usize,
        /// How many the tensors hold.
        wanted: usize,
    },
    /// A number is infinite or none.
    #[error("element {index} of {tensor} is {value}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Which of its elements.
        index: usize,
        /// What it is.
        value: f32,
    },
}

impl Weights {
    /// Returns fresh weights, the same for everyone who has the seed.
    #[must_use]
    pub fn fresh(tensors: &Arc<Tensors>, seed: u64) -> Self {
        Self {
            tensors: Arc::clone(tensors),
            values: init::fill(tensors, seed),
        }
    }

    /// Takes numbers as weights.
    ///
    /// # Errors
    /// When their count is wrong, or one of them is not finite.
    pub fn new(tensors: &Arc<Tensors>, values: Vec<f32>) -> Result<Self, WeightsError> {
        if values.len() != tensors.len() {
            return Err(WeightsError::Length {
                found: values.len(),
                wanted: tensors.len(),
            });
        }
        let weights = Self {
            tensors: Arc::clone(tensors),
            values,
        };
        match weights.first_not_finite() {
            None => Ok(weights),
            Some((tensor, index, value)) => Err(WeightsError::NotFinite {
                tensor: tensor.name.clone(),
                index,
                value,
            }),
        }
    }

    fn first_not_finite(&self) -> Option<(&Tensor, usize, f32)> {
        self.tensors.list().iter().find_map(|tensor| {
            let values = &self.values[tensor.range()];
            let index = values.iter().position(|value| !value.is_finite())?;
            Some((tensor, index, values[index]))
        })
    }

    /// Returns the tensors that the numbers fill.
    #[must_use]
    pub fn tensors(&self) -> &Arc<Tensors> {
        &self.tensors
    }

    /// Returns all numbers, tensor after tensor.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns the numbers of one tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let found = self
            .tensors
            .list()
            .iter()
            .find(|tensor| tensor.name == name);
        found.map(|tensor| &self.values[tensor.range()])
    }

    /// Gives the numbers away.
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

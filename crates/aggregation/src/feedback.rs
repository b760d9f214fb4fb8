//! Error feedback: what a round does not send is added, decayed, to the next (spec: aggregation, section 6).

use thiserror::Error;

use crate::fault::{EncodeError, VALUE_MAX};
use crate::layout::Layout;
use crate::section::{self, Section};

/// What one trainer has not sent yet.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorFeedback {
    layout: Layout,
    decay: f32,
    residuals: Vec<Vec<f32>>,
}

/// Why a round's update cannot be compressed. The residuals are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum FeedbackError {
    /// The decay is not a number from 0 to 1.
    #[error("the decay is {0}; it must be 0 to 1")]
    Decay(f32),
    /// Values cannot be sent.
    #[error("the update cannot be sent")]
    Encode(#[from] EncodeError),
}

impl ErrorFeedback {
    /// Begins a run: nothing is left over. `decay` is the share of what is left over that the next round takes, 0.95 in
    /// the published method.
    ///
    /// # Errors
    /// Returns [`FeedbackError::Decay`].
    pub fn new(layout: Layout, decay: f32) -> Result<Self, FeedbackError> {
        let residuals = layout.tensors().iter().map(|shape| {
            let values = usize::try_from(shape.values()).expect("a layout fits the memory");
            vec![0.0; values]
        });
        let residuals = residuals.collect();
        Self::resume(layout, decay, residuals)
    }

    /// Goes on with the residuals of an earlier round.
    ///
    /// # Errors
    /// Returns [`FeedbackError::Decay`], or residuals that are not of this layout, not finite or beyond 2^40.
    pub fn resume(
        layout: Layout,
        decay: f32,
        residuals: Vec<Vec<f32>>,
    ) -> Result<Self, FeedbackError> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(FeedbackError::Decay(decay));
        }
        let feedback = Self {
            layout,
            decay,
            residuals,
        };
        let tensors: Vec<&[f32]> = feedback.residuals.iter().map(Vec::as_slice).collect();
        feedback.check(&tensors, |_, value| value)?;
        Ok(feedback)
    }

    /// Returns what is left over of each tensor: what a trainer that stops must keep.
    pub fn residuals(&self) -> &[Vec<f32>] {
        &self.residuals
    }

    /// Adds a round's update (the weights before it less those after), and returns the contribution. What is not sent
    /// stays here.
    ///
    /// # Errors
    /// Returns the first tensor whose values do not fit the layout, are not finite, or exceed 2^40 with what is left
    /// over; nothing is changed then.
    pub fn compress(&mut self, update: &[&[f32]]) -> Result<Vec<u8>, FeedbackError> {
        self.check(update, |left, value| self.decay * left + value)?;
        let mut bytes = Vec::with_capacity(self.layout.bytes());
        bytes.extend(self.layout.header());
        for (tensor, (update, residual)) in update.iter().zip(&mut self.residuals).enumerate() {
            for (left, value) in residual.iter_mut().zip(*update) {
                *left = self.decay * *left + value;
            }
            let first = bytes.len();
            section::write(&self.layout, tensor, residual, &mut bytes)
                .expect("values up to 2^40 can be sent");
            Section::checked(&self.layout, tensor, &bytes[first..]).take_from(residual);
        }
        Ok(bytes)
    }

    /// Checks what the residuals would become, before any does.
    fn check(&self, update: &[&[f32]], next: impl Fn(f32, f32) -> f32) -> Result<(), EncodeError> {
        let shapes = self.layout.tensors();
        if update.len() != shapes.len() || self.residuals.len() != shapes.len() {
            return Err(EncodeError::Values(update.len().min(shapes.len())));
        }
        for (number, (shape, update)) in shapes.iter().zip(update).enumerate() {
            let residual = &self.residuals[number];
            if update.len() as u64 != shape.values() || residual.len() != update.len() {
                return Err(EncodeError::Values(number));
            }
            let largest =
                residual
                    .iter()
                    .zip(*update)
                    .try_fold(0.0_f32, |largest, (left, value)| {
                        let next = next(*left, *value).abs();
                        next.is_finite().then(|| largest.max(next))
                    });
            match largest {
                None => return Err(EncodeError::NotFinite(number)),
                Some(largest) if largest > VALUE_MAX => return Err(EncodeError::TooLarge(number)),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::Compression;
    use crate::contribution::Contribution;
    use crate::shape::TensorShape;

    fn layout() -> Layout {
        let shape = TensorShape::Vector { values: 4 };
        Layout::new(vec![shape], Compression::TopK { k: 1_024 }).unwrap()
    }

    #[test]
    fn what_is_not_sent_is_sent_later() {
        let mut feedback = ErrorFeedback::new(layout(), 0.5).unwrap();
        let first = feedback.compress(&[&[4.0, 1.0, 0.0, -2.0]]).unwrap();
        let layout = layout();
        let sent = Contribution::read(&layout, &first).unwrap();
        assert_eq!(sent.section(0).values(), [4.0, 0.0, 0.0, 0.0]);
        assert_eq!(feedback.residuals(), [[0.0, 1.0, 0.0, -2.0]]);
        let second = feedback.compress(&[&[0.0; 4]]).unwrap();
        let sent = Contribution::read(&layout, &second).unwrap();
        assert_eq!(sent.section(0).values(), [0.0, 0.0, 0.0, -1.0]);
        assert_eq!(feedback.residuals(), [[0.0, 0.5, 0.0, 0.0]]);
    }

    #[test]
    fn an_update_that_cannot_be_sent_changes_nothing() {
        let mut feedback = ErrorFeedback::new(layout(), 0.95).unwrap();
        feedback.compress(&[&[4.0, 1.0, 0.0, -2.0]]).unwrap();
        let before = feedback.clone();
        let cases = [
            (&[1.0, 1.0, 1.0][..], EncodeError::Values(0)),
            (&[1.0, f32::NAN, 1.0, 1.0], EncodeError::NotFinite(0)),
            (&[1.0, f32::INFINITY, 1.0, 1.0], EncodeError::NotFinite(0)),
            (&[1.0, 1.0, 1.0, 2.0 * VALUE_MAX], EncodeError::TooLarge(0)),
        ];
        for (update, error) in cases {
            assert_eq!(feedback.compress(&[update]), Err(error.into()));
            assert_eq!(feedback, before);
        }
        assert_eq!(
            feedback.compress(&[]),
            Err(EncodeError::Values(0).into()),
            "no tensors"
        );
    }

    #[test]
    fn a_decay_or_residuals_that_make_no_sense_are_refused() {
        for decay in [-0.1, 1.5, f32::INFINITY] {
            let refused = ErrorFeedback::new(layout(), decay);
            assert_eq!(refused, Err(FeedbackError::Decay(decay)));
        }
        let refused = ErrorFeedback::resume(layout(), 0.95, vec![vec![f32::NAN; 4]]);
        assert_eq!(refused, Err(EncodeError::NotFinite(0).into()));
        let refused = ErrorFeedback::resume(layout(), 0.95, vec![vec![0.0; 5]]);
        assert_eq!(refused, Err(EncodeError::Values(0).into()));
    }
}

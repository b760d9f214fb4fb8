//! The outer step: what moves the shared weights (spec: aggregation, section 8).

use thiserror::Error;

/// How a round's mean moves the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OuterStep {
    rate: f32,
    momentum: Option<f32>,
}

/// An outer step that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum OuterError {
    /// The rate is not a positive number of at most 4,096.
    #[error("the outer rate is {0}; it must be above 0 and at most 4096")]
    Rate(f32),
    /// The momentum is not a number from 0 to below 1.
    #[error("the outer momentum is {0}; it must be at least 0 and below 1")]
    Momentum(f32),
}

impl OuterStep {
    /// The largest rate: trusted devices take one of the number of contributions.
    const RATE_MAX: f32 = 4_096.0;

    /// Sets the rate and, where the run has it, Nesterov's momentum.
    ///
    /// # Errors
    /// Returns what is out of bounds.
    pub fn new(rate: f32, momentum: Option<f32>) -> Result<Self, OuterError> {
        if !(rate > 0.0 && rate <= Self::RATE_MAX) {
            return Err(OuterError::Rate(rate));
        }
        match momentum {
            Some(momentum) if !(0.0..1.0).contains(&momentum) => {
                Err(OuterError::Momentum(momentum))
            }
            _ => Ok(Self { rate, momentum }),
        }
    }

    /// Moves the weights of a tensor by a round's mean. `velocity` is what the momentum left of the rounds before, all
    /// zeros in the first; it is given where the run has a momentum, and nowhere else.
    ///
    /// Each place is moved by itself, so that parts of a tensor may be moved apart.
    ///
    /// # Panics
    /// Panics when the lengths differ, or when `velocity` is missing or too much.
    pub fn apply(&self, mean: &[f32], weights: &mut [f32], velocity: Option<&mut [f32]>) {
        assert_eq!(mean.len(), weights.len(), "another tensor's mean");
        match (self.momentum, velocity) {
            (None, None) => {
                for (weight, mean) in weights.iter_mut().zip(mean) {
                    *weight -= self.rate * mean;
                }
            }
            (Some(momentum), Some(velocity)) => {
                assert_eq!(velocity.len(), weights.len(), "another tensor's velocity");
                let moved = weights.iter_mut().zip(velocity).zip(mean);
                for ((weight, velocity), mean) in moved {
                    *velocity = momentum * *velocity + mean;
                    *weight -= self.rate * (mean + momentum * *velocity);
                }
            }
            (momentum, _) => {
                panic!("a velocity is given exactly where there is a momentum: {momentum:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_momentum_the_weights_move_against_the_mean() {
        let step = OuterStep::new(2.0, None).unwrap();
        let mut weights = [1.0, 1.0];
        step.apply(&[0.25, -0.5], &mut weights, None);
        assert_eq!(weights, [0.5, 2.0]);
    }

    #[test]
    fn momentum_looks_ahead() {
        let step = OuterStep::new(1.0, Some(0.5)).unwrap();
        let (mut weights, mut velocity) = ([0.0], [0.0]);
        step.apply(&[1.0], &mut weights, Some(&mut velocity));
        assert_eq!((weights, velocity), ([-1.5], [1.0]));
        step.apply(&[1.0], &mut weights, Some(&mut velocity));
        assert_eq!((weights, velocity), ([-1.5 - 1.75], [1.5]));
    }

    #[test]
    fn rates_that_make_no_sense_are_refused() {
        for rate in [0.0, -1.0, 4_097.0, f32::INFINITY] {
            assert_eq!(OuterStep::new(rate, None), Err(OuterError::Rate(rate)));
        }
        assert!(OuterStep::new(f32::NAN, None).is_err());
        for momentum in [-0.1, 1.0, f32::INFINITY] {
            let refused = OuterStep::new(1.0, Some(momentum));
            assert_eq!(refused, Err(OuterError::Momentum(momentum)));
        }
    }
}

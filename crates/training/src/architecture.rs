//! The shape of a model of the Llama family, and the bounds within which it is believed.

/// The shape of a model; [`crate::Layout::new`] checks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Architecture {
    /// Tokens that exist.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Layers, each attention and then a feed-forward block.
    pub layers: usize,
    /// Query heads of a layer.
    pub query_heads: usize,
    /// Key-value heads of a layer; a divisor of the query heads.
    pub key_value_heads: usize,
    /// Width of a head, even.
    pub head: usize,
    /// Width inside the feed-forward block.
    pub hidden: usize,
    /// The longest window, in tokens.
    pub context: usize,
    /// Base of the rotary position embedding.
    pub rope_theta: f32,
    /// What is added to the mean square before its root.
    pub norm_epsilon: f32,
    /// The output head is the embedding.
    pub tied_head: bool,
}

/// The architecture is not one that can be trained here.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// A size is out of its bounds.
    #[error("{what} is {value}, which is not in {least}..={most}")]
    Size {
        /// The field.
        what: &'static str,
        /// What it holds.
        value: usize,
        /// The least that is taken.
        least: usize,
        /// The most that is taken.
        most: usize,
    },
    /// A head has an odd width, which rotary positions cannot turn.
    #[error("a head is {0} wide: the width must be even")]
    OddHead(usize),
    /// Query heads do not share key-value heads evenly.
    #[error("{query_heads} query heads cannot share {key_value_heads} key-value heads evenly")]
    Groups {
        /// Query heads.
        query_heads: usize,
        /// Key-value heads.
        key_value_heads: usize,
    },
    /// `rope_theta` is not a number above 1 and at most 1e9.
    #[error("rope_theta is {0}, which is not above 1 and at most 1e9")]
    Theta(f32),
    /// `norm_epsilon` is not a number above zero and at most 0.1.
    #[error("norm_epsilon is {0}, which is not above 0 and at most 0.1")]
    Epsilon(f32),
    /// The model has too many parameters.
    #[error("the model has {parameters} parameters; at most {most} can be trained")]
    Parameters {
        /// What it would have.
        parameters: u128,
        /// The most.
        most: u64,
    },
}

/// Parameters of the largest model: with gradients and moments it fills 256 GiB.
pub(crate) const MOST_PARAMETERS: u64 = 1 << 34;

impl Architecture {
    /// Returns an error that names what is out of bounds.
    pub(crate) fn check(&self) -> Result<(), ArchitectureError> {
        let sizes = [
            ("vocabulary", self.vocabulary, 2, 1 << 18),
            ("width", self.width, 1, 1 << 14),
            ("layers", self.layers, 1, 256),
            ("query_heads", self.query_heads, 1, 256),
            ("key_value_heads", self.key_value_heads, 1, 256),
            ("head", self.head, 2, 512),
            ("hidden", self.hidden, 1, 1 << 16),
            ("context", self.context, 1, 1 << 17),
        ];
        for (what, value, least, most) in sizes {
            if value < least || value > most {
                return Err(ArchitectureError::Size {
                    what,
                    value,
                    least,
                    most,
                });
            }
        }
        if !self.head.is_multiple_of(2) {
            return Err(ArchitectureError::OddHead(self.head));
        }
        if !self.query_heads.is_multiple_of(self.key_value_heads) {
            return Err(ArchitectureError::Groups {
                query_heads: self.query_heads,
                key_value_heads: self.key_value_heads,
            });
        }
        if !(self.rope_theta > 1.0 && self.rope_theta <= 1e9) {
            return Err(ArchitectureError::Theta(self.rope_theta));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon <= 0.1) {
            return Err(ArchitectureError::Epsilon(self.norm_epsilon));
        }
        let parameters = self.parameters_unchecked();
        if parameters > u128::from(MOST_PARAMETERS) {
            return Err(ArchitectureError::Parameters {
                parameters,
                most: MOST_PARAMETERS,
            });
        }
        Ok(())
    }

    fn parameters_unchecked(&self) -> u128 {
        let n = |x: usize| x as u128;
        let attention = n(self.qkv_width()) * n(self.width) + n(self.query_width()) * n(self.width);
        let layer = attention + 3 * n(self.hidden) * n(self.width) + 2 * n(self.width);
        let heads = if self.tied_head { 1 } else { 2 };
        heads * n(self.vocabulary) * n(self.width) + n(self.layers) * layer + n(self.width)
    }

    /// Width of all query heads.
    pub(crate) fn query_width(&self) -> usize {
        self.query_heads * self.head
    }

    /// Width of all key heads, and of all value heads.
    pub(crate) fn key_width(&self) -> usize {
        self.key_value_heads * self.head
    }

    /// Width of queries, keys and values together.
    pub(crate) fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.key_width()
    }
}

#[cfg(test)]
mod tests {
    use super::{Architecture, ArchitectureError};

    fn sound() -> Architecture {
        Architecture {
            vocabulary: 256,
            width: 64,
            layers: 2,
            query_heads: 4,
            key_value_heads: 2,
            head: 16,
            hidden: 172,
            context: 64,
            rope_theta: 10_000.0,
            norm_epsilon: 1e-5,
            tied_head: true,
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        assert_eq!(sound().check(), Ok(()));
        let refused = |change: fn(&mut Architecture)| {
            let mut architecture = sound();
            change(&mut architecture);
            architecture.check().expect_err("it is out of bounds")
        };
        let layers = refused(|a| a.layers = 0);
        assert_eq!(layers.to_string(), "layers is 0, which is not in 1..=256");
        assert_eq!(refused(|a| a.head = 15), ArchitectureError::OddHead(15));
        assert!(matches!(
            refused(|a| a.key_value_heads = 3),
            ArchitectureError::Groups { .. }
        ));
        assert!(matches!(
            refused(|a| a.rope_theta = f32::NAN),
            ArchitectureError::Theta(_)
        ));
        assert!(matches!(
            refused(|a| a.norm_epsilon = 0.0),
            ArchitectureError::Epsilon(_)
        ));
        let huge = refused(|a| {
            (a.width, a.hidden, a.layers) = (1 << 14, 1 << 16, 256);
        });
        assert!(matches!(huge, ArchitectureError::Parameters { .. }));
    }
}

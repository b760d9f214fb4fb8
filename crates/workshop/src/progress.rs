//! How far a piece of work is, and whether it is to go on.

use std::ops::ControlFlow;

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepProgress {
    /// Steps, tensors or windows that are done.
    pub done: u32,
    /// All of them.
    pub total: u32,
    /// The loss of the step or window that was done last, in nats a token.
    pub loss: Option<f32>,
}

/// Told before the first piece of work and after each; it says whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(StepProgress) -> ControlFlow<()>;

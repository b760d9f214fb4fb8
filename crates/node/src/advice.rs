//! What every error that reaches a person says besides its cause: a stable code, and what to do next.
//!
//! A program reads the code, a person reads the step. `Display` of an error stays one sentence about what
//! failed, so that neither the command line nor the admin surface has to take sentences apart; both show it with its causes.

/// Advice that goes with an error.
pub trait Advice: std::error::Error {
    /// A stable name in `snake_case`, for programs.
    fn code(&self) -> &str;

    /// What the person should do now, as an imperative sentence without a full stop.
    fn next_step(&self) -> String;
}

/// What to do where a store fails.
pub(crate) const CHECK_DISK: &str = "Check the disk with `hearth doctor`, then start again";
/// What to do where the arguments make no sense.
pub(crate) const SEE_HELP: &str = "See the command's --help";
/// What to do where a part of the program cannot go on.
pub(crate) const START_AGAIN: &str = "Start again";

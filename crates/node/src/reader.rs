//! The process that reads what strangers wrote, for the program that starts itself as one.

pub use hearth_models::reader::{Launcher, is_reader};
pub use hearth_models::reading::serve;

//! HTTP doors of the node.

pub use hearth_doors::{Bounds, Budget, Limits, Listener, Policy, Shutdown, serve};

//! The operations that training is made of, with the same bits on every path.
//!
//! Each kernel is one generic body, compiled once for every set of instructions, or, for the inner tile of a matrix
//! product, written once for each. A body fixes the order of every rounded operation, so compiling it for other
//! instructions can change its speed and nothing else (spec: training numerics).

pub(crate) mod attention;
pub(crate) mod dispatch;
pub(crate) mod fma;
pub mod functions;
pub(crate) mod lanes;
pub mod matmul;
pub(crate) mod rows;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_x86;
pub(crate) mod update;

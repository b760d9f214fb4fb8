//! hearth.
fn main() {}

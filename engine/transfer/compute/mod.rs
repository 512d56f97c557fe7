//! Compute kernels on one device: fill with a pattern, verify the pattern, checksum, copy.
//!
//! They prove routes, and the demo, the tests and the benches run them on every device. The shaders are
//! `shaders/*.wgsl`, compiled by the build script.

mod kernels;
mod pattern;
mod pipelines;

pub use pattern::{PassReport, pattern_word};

pub(crate) use kernels::{Attempt, ComputeKernels, Watch, Work};

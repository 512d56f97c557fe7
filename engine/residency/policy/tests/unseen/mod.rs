//! The second catalogue: what games, compositors, editors, inference, training and maps do with their buffers.
//!
//! The generators follow descriptions of such programs, which the comments name. They were written before the
//! policy that they measure, and do not follow it. A policy may be adjusted to [`learn`]. [`measured`] is only
//! measured: no constant of a policy is chosen by its results.
//!
//! Buffers have 4 KiB to 256 MiB. The domain holds 0.5 to 0.91 of the *working set*: of the distinct bytes that a
//! tenth of the trace uses (median of the ten).

mod learn;
mod measured;
pub(super) mod recorder;

use self::recorder::{Maker, trace};
use super::Trace;

/// The traces that policies may be adjusted to.
pub(super) fn learn() -> impl Iterator<Item = Trace> {
    traces(learn::makers(), 1)
}

/// The traces that are only measured.
pub(super) fn measured() -> impl Iterator<Item = Trace> {
    traces(measured::makers(), 1001)
}

fn traces(makers: Vec<Maker>, seed: u64) -> impl Iterator<Item = Trace> {
    (seed..).zip(makers).map(|(seed, maker)| trace(seed, &maker))
}

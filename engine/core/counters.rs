//! What an engine counts as it runs: decisions, moves, stalls.

use std::sync::atomic::AtomicU64;

use crate::observe::{MovedCounters, StallCounters};

/// Counters of one engine.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// How many decisions there were.
    pub(crate) decisions: AtomicU64,
    /// What was moved, and why.
    pub(crate) moved: MovedCounters,
    /// How long callers were held up.
    pub(crate) stalls: StallCounters,
}

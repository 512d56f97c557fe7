//! The counters of one engine: decisions, moves, stalls.

use std::sync::atomic::AtomicU64;

use crate::observe::{MovedCounters, StallCounters};

/// The counters of one engine.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// The number of decisions.
    pub(crate) decisions: AtomicU64,
    /// What was moved, by cause.
    pub(crate) moved: MovedCounters,
    /// How long callers waited, by cause.
    pub(crate) stalls: StallCounters,
}

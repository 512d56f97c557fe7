//! How the trial of a route ended, and until when it may run: plain data.

use std::time::{Duration, Instant};

use super::super::refusal::RefusalReason;
use super::super::untried::Untried;
use super::super::verdict::{Trial, Working};
use crate::error::Error;

/// How the trial of a route ended.
pub(in crate::transfer) enum Outcome {
    /// The route carries data.
    Works(Working, Trial),
    /// The route does not work.
    Refused(RefusalReason, Trial),
    /// Nothing is known about this route.
    Untried(Untried),
    /// Nothing is known about this route, nor can another one be tried.
    NotReady(Untried),
    /// As `NotReady`, for a reason that the caller can mend.
    Stop(Error),
}

/// Until when the passes of one trial may run.
#[derive(Clone, Copy)]
pub(super) struct Until {
    pub(super) end: Instant,
}

impl Until {
    pub(super) fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

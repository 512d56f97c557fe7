//! Why a buffer moves, and how an attempt to move it ended.

use std::time::{Duration, Instant};

use crate::buffer::state::InvalidationCause;
use crate::core::Core;
use crate::observe::MoveCause;
use crate::residency::Trigger;
use crate::transfer::path::{MOMENT, PAUSE};

/// Why a buffer moves, and with what.
#[derive(Clone, Copy, Debug)]
pub(in crate::buffer) struct MoveRequest {
    pub(in crate::buffer) cause: MoveCause,
    /// Who or what made it so.
    pub(in crate::buffer) trigger: Trigger,
    /// Whether it goes to its clean copy.
    pub(in crate::buffer) clean: bool,
    /// Whether somebody has asked for this and nothing else, and may be kept waiting: for the host's copy, and
    /// for devices where none sees both places.
    pub(in crate::buffer) waits: bool,
    /// Until when everything that it waits for has to be over; `None` for the engine's bound, for each.
    pub(in crate::buffer) until: Option<Instant>,
}

impl MoveRequest {
    /// A move to memory that is new to it.
    pub(in crate::buffer) fn to_new(cause: MoveCause, trigger: Trigger) -> Self {
        Self { cause, trigger, clean: false, waits: true, until: None }
    }

    /// When a wait that begins now is over.
    pub(in crate::buffer) fn end(self, core: &Core) -> Instant {
        self.until.unwrap_or_else(|| Instant::now() + core.timeout)
    }

    /// How long the host may copy for it.
    pub(in crate::buffer) fn pause(self) -> Duration {
        if self.waits { PAUSE } else { MOMENT }
    }

    /// What importers are told.
    pub(in crate::buffer) fn invalidation(self) -> InvalidationCause {
        match self.cause {
            MoveCause::Evicted | MoveCause::Promoted => InvalidationCause::Evict,
            _ => InvalidationCause::Move,
        }
    }
}

/// How an attempt to move a buffer ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) enum MoveOutcome {
    /// It has moved.
    Moved,
    /// Somebody sat down, left, or moved it meanwhile: look again.
    Retry,
    /// No device sees both places, and nobody can carry the bytes, or is to wait for that.
    NoPath,
    /// Somebody would have to be waited for, and nobody is to wait.
    WouldBlock,
}

//! The request for a move ([`MoveRequest`]), and the outcome of an attempt ([`MoveOutcome`]).

use std::time::{Duration, Instant};

use crate::buffer::object::Until;
use crate::buffer::state::InvalidationCause;
use crate::core::Core;
use crate::observe::MoveCause;
use crate::residency::Trigger;
use crate::transfer::path::{MOMENT, PAUSE};

/// Why a buffer moves, and what the move may wait for.
#[derive(Clone, Copy, Debug)]
pub(in crate::buffer) struct MoveRequest {
    pub(in crate::buffer) cause: MoveCause,
    /// What triggered the move.
    pub(in crate::buffer) trigger: Trigger,
    /// Whether the destination is the buffer's clean copy.
    pub(in crate::buffer) clean: bool,
    /// Whether the caller may be kept waiting: for a long copy by the host, and for the devices of a bounce
    /// copy. False for a move that is a side effect of a use.
    pub(in crate::buffer) may_wait: bool,
    /// When all waits of the move end; with `None`, each wait ends when there is no
    /// progress for the engine timeout.
    pub(in crate::buffer) deadline: Option<Instant>,
}

impl MoveRequest {
    /// A request for a move to newly allocated memory.
    pub(in crate::buffer) fn to_new(cause: MoveCause, trigger: Trigger) -> Self {
        Self { cause, trigger, clean: false, may_wait: true, deadline: None }
    }

    /// When its waits end without success.
    pub(super) fn until(self, core: &Core) -> Until {
        self.deadline.map_or(Until::Stuck(core.timeout), Until::End)
    }

    /// The longest time that the host may spend on the copy.
    pub(super) fn host_time(self) -> Duration {
        if self.may_wait { PAUSE } else { MOMENT }
    }

    /// The cause that importers are notified with.
    pub(super) fn invalidation(self) -> InvalidationCause {
        match self.cause {
            MoveCause::Evicted | MoveCause::Promoted => InvalidationCause::Evict,
            _ => InvalidationCause::Move,
        }
    }
}

/// The outcome of an attempt to move a buffer that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) enum MoveOutcome {
    /// The buffer has moved.
    Moved,
    /// The buffer was attached, detached or moved meanwhile. The caller has to look again.
    Retry,
    /// No device sees both backings, and a bounce copy is not possible or not allowed by the request; or a
    /// no-wait move had to be cancelled.
    NoPath,
    /// The move would have to wait, and the request does not allow that.
    WouldBlock,
}

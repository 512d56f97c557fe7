//! A trace of what an engine does over time, for viewers and for replays.
//!
//! Kernel counterpart: the trace events of `dma_fence` and of a driver's memory moves, as `trace-cmd` records
//! them.
//!
//! `PEERBUF_TRACE=file` makes every engine write one, in the Chrome trace event format, which
//! <https://ui.perfetto.dev> and `chrome://tracing` open. It shows
//!
//! * for each place a counter of its budget, of what is used and what is in flight, and on a line of its own
//!   each use of a buffer and each decision with its reason;
//! * for each device the moves that it copies: a slice from the moment when importers are told until the
//!   copy is over, and inside it a short `tell` for each importer, and the copy;
//! * for each device the calls of its importers, with an arrow from the `tell` to the call.
//!
//! Slices that overlap take further lines of their track, because viewers cannot show them on one.
//! The file is a JSON array, one event a line, and not an object with the array inside: both viewers open an
//! array that was cut off, Perfetto no such object. While the engine lives, the file ends after a whole line
//! and lacks what came last, a second's worth at most if anything happens; when it is dropped the file is
//! whole. It grows by some 150 bytes an event, without a bound; memory does not.
//!
//! `read` takes the accesses out again: what eviction policies are replayed from.
//!
//! What is not here: who has something to tell. Everything comes in as plain numbers.

mod json;
mod read;
mod recorder;
#[cfg(test)]
mod tests;
mod tracer;
mod tracks;

pub use read::read;

pub(crate) use tracer::{MoveId, Tracer};

use crate::device::DeviceId;
use crate::memory::DomainId;

/// A device uses a buffer: what a policy learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessEvent {
    /// The buffer's number.
    pub buffer: u64,
    /// Its size.
    pub bytes: u64,
    /// Who uses it.
    pub device: DeviceId,
    /// The place whose policy is told: where the buffer is wanted.
    pub domain: DomainId,
    /// Whether it is there.
    pub resident: bool,
}

/// How full a place is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// What may be in use; `u64::MAX` is no bound, and is not shown.
    pub(crate) budget: u64,
    pub(crate) used: u64,
    /// What nobody has any more and devices still work on: places left by copies that run, and buffers
    /// that were dropped.
    pub(crate) in_flight: u64,
}

/// A buffer goes from one place to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) buffer: u64,
    pub(crate) bytes: u64,
    pub(crate) from: DomainId,
    pub(crate) to: DomainId,
    /// In a word or two: "eviction".
    pub(crate) cause: &'static str,
    /// The generation that the move makes.
    pub(crate) generation: u32,
    /// Who copies; `None` is the host.
    pub(crate) device: Option<DeviceId>,
}

/// What became of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The bytes are where they were to go.
    Moved,
    /// It was given up before anything was copied: the buffer is where it was.
    Stayed,
    /// The copy failed.
    Failed,
    /// It was still under way when the trace ended.
    Unfinished,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Stayed => "stayed",
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
        }
    }
}

//! A trace of what an engine does over time, for viewers and for replays.
//!
//! Kernel counterpart: the trace events of `dma_fence` and of a driver's memory moves, as `trace-cmd` records
//! them.
//!
//! If `PEERBUF_TRACE=file` is set, every engine writes a trace in the Chrome trace event format, which
//! <https://ui.perfetto.dev> and `chrome://tracing` open. It shows:
//!
//! * for each domain a counter of its budget, of the bytes in use and of those in flight, and on a line of its
//!   own each use of a buffer and each decision with its reason;
//! * for each device the moves that it copies: a slice from the notification of the importers to the end of
//!   the copy, and inside it a short `tell` for each importer, and the copy;
//! * for each device the calls of its importers, with an arrow from the `tell` to the call.
//!
//! Slices that overlap are put on further lines of their track, because viewers cannot show them on one.
//!
//! The file is a JSON array with one event a line. It is not an object that contains the array, because of
//! truncated files: both viewers open an array that is cut off, but Perfetto does not open such an object.
//! While the engine is alive, the file ends with a whole line. It lacks the latest events: if events arrive
//! all the time, those of at most a second. When the engine is dropped, the file is completed. The file grows
//! by about 150 bytes an event, without a limit; memory does not grow.
//!
//! [`read`] returns the accesses of a trace, from which eviction policies are replayed.
//!
//! Not here: the code that reports events. All events arrive as plain numbers.

mod event;
mod json;
mod read;
mod recorder;
#[cfg(test)]
mod tests;
mod tracer;
mod tracks;

pub use event::AccessEvent;
pub use read::read;

pub(crate) use event::{Counters, Move, Outcome};
pub(crate) use tracer::{MoveId, Tracer};

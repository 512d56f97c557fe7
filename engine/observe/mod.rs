//! What an engine reports about itself, as plain data.
//!
//! Counters of live objects, of moves and of waits; a report of all buffers and their users; the decisions
//! about a buffer, with their reasons; and a trace of all that over time.
//!
//! Kernel counterpart: `debugfs dma_buf/bufinfo`. The engine prints nothing. It emits `tracing` events, and
//! the caller prints what it asked for.
//!
//! This folder knows ids, domains and usages only. The code that collects the data is `buffer/`.

mod explain;
mod live;
mod looks;
mod move_cause;
mod moved;
mod report;
mod shard;
mod shard_sum;
mod shared_writes;
mod stalls;
pub mod trace;

pub use explain::{Decision, DecisionText, Pick, Reason, What};
pub use live::{Live, Object};
#[cfg(feature = "testing")]
pub use looks::looks;
pub use move_cause::MoveCause;
pub use moved::Moved;
pub use report::{
    AttachmentReport, BufferReport, DeviceReport, DomainReport, FenceReport, GhostReport,
    GroupReport, PinReport, Report, Shares, Totals,
};
#[cfg(feature = "testing")]
pub use shared_writes::shared_writes;
pub use stalls::{StallCause, Stalls};

pub(crate) use explain::History;
pub(crate) use looks::note_look;
pub(crate) use moved::MovedCounters;
pub(crate) use shard::{SHARDS, Shard};
pub(crate) use shard_sum::ShardSum;
pub(crate) use shared_writes::note_shared_write;
pub(crate) use stalls::StallCounters;

//! What is going on: live objects, as plain numbers, a report of who uses what, as plain data, why a buffer
//! is where it is, and a trace of all that over time.
//!
//! Kernel counterpart: `debugfs dma_buf/bufinfo`. The engine prints nothing; it emits `tracing`
//! events and answers questions.

mod explain;
mod live;
mod moved;
mod report;
mod shard;
mod stalls;
pub mod trace;

pub use explain::{Decision, Pick, Reason, Told, What};
pub use live::{Live, Object};
pub use moved::{MoveCause, Moved};
pub use report::{
    AttachmentReport, BufferReport, DeviceReport, DomainReport, FenceReport, GhostReport,
    GroupReport, PinReport, Report, Shares, Totals,
};
pub use stalls::{StallCause, Stalls};

pub(crate) use explain::History;
pub(crate) use moved::MovedCounters;
pub(crate) use shard::Shard;
pub(crate) use stalls::StallCounters;

//! What is going on: live objects, as plain numbers, a report of who uses what, as plain data, why a buffer
//! is where it is, and a trace of all that over time.
//!
//! Kernel counterpart: `debugfs dma_buf/bufinfo`. The engine prints nothing; it emits `tracing`
//! events and answers questions.

#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "nothing is decided yet"))]
mod explain;
mod live;
mod report;
mod shard;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "nobody tells it anything yet"))]
pub mod trace;

pub use explain::{Decision, Pick, Reason, Told, What};
pub use live::{Live, Object};
pub use report::{
    AttachmentReport, BufferReport, DeviceReport, DomainReport, FenceReport, GhostReport,
    PinReport, Report, Totals,
};

pub(crate) use shard::Shard;

//! What is going on: live objects, as plain numbers, and a report of who uses what, as plain data.
//!
//! Kernel counterpart: `debugfs dma_buf/bufinfo`. The engine prints nothing; it emits `tracing`
//! events and answers questions.

mod live;
mod report;
mod shard;

pub use live::{Live, Object};
pub use report::{
    AttachmentReport, BufferReport, DeviceReport, DomainReport, FenceReport, GhostReport,
    PinReport, Report, Totals,
};

pub(crate) use shard::Shard;

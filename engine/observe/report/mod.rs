//! A report of the objects of an engine and their users, at one moment.
//!
//! Kernel counterpart: `dma_buf_debug_show` (`debugfs dma_buf/bufinfo`).

mod buffer;
mod engine;
mod text;

pub use buffer::{AttachmentReport, BufferReport, FenceReport, GhostReport, PinReport};
pub use engine::{DeviceReport, DomainReport, GroupReport, Report, Shares, Totals};

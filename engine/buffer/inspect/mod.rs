//! What can be asked about a buffer: the report, its last decisions, its moves in a trace.
//!
//! Kernel counterparts: `debugfs/dma_buf/bufinfo`, the `dma_fence` and TTM trace points.
//!
//! What is not here: anything that moves or uses a buffer. The functions of this room only read, and record.

mod decisions;
mod explain;
mod report;
mod trace;

pub(in crate::buffer) use decisions::{full, what_holds};
pub use explain::Explanation;
pub(crate) use report::report;
pub(in crate::buffer) use trace::MoveSpan;

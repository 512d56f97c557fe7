//! What is going on: live objects, as plain numbers.
//!
//! Kernel counterpart: `debugfs dma_buf/bufinfo`. The engine prints nothing; it emits `tracing`
//! events and answers questions.

mod live;
mod shard;

pub use live::{Live, Object};

pub(crate) use shard::Shard;

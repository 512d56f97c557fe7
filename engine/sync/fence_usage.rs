//! How work uses a buffer: plain data.

use crate::access::Access;

/// How the work behind a fence uses the buffer (kernel: `enum dma_resv_usage`).
///
/// The order matters: a query for one usage includes all usages before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "dma_resv_usage")]
pub enum Usage {
    /// Moves or clears it. Every other use waits for this (kernel: `DMA_RESV_USAGE_KERNEL`).
    Move,
    /// Writes it.
    Write,
    /// Reads it.
    Read,
    /// Keeps its memory alive, without any ordering.
    Bookkeep,
}

impl Usage {
    /// The usage to wait for before a use of this kind may start (kernel: `dma_resv_usage_rw`). A write waits
    /// for all reads and writes, a read for all writes.
    pub fn waits_for(self) -> Self {
        match self {
            Self::Move => Self::Bookkeep,
            Self::Write => Self::Read,
            Self::Read | Self::Bookkeep => Self::Write,
        }
    }
}

impl From<Access> for Usage {
    /// The usage under which work with this access is added to a reservation.
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write | Access::ReadWrite => Self::Write,
        }
    }
}

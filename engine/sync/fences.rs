//! A buffer's fences, each with what the work behind it does to the buffer.
//!
//! Kernel counterpart: `struct dma_resv_list` (`drivers/dma-buf/dma-resv.c`).

use super::fence::Fence;
use crate::error::{Error, Result};

/// What the work behind a fence does to the buffer (kernel: `enum dma_resv_usage`).
///
/// The order matters: asking for one usage means that one and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "dma_resv_usage")]
pub enum Usage {
    /// Moves or clears it. Everybody waits for these (kernel: `DMA_RESV_USAGE_KERNEL`).
    Move,
    /// Writes it.
    Write,
    /// Reads it.
    Read,
    /// Keeps its memory alive, and orders nothing.
    Bookkeep,
}

impl Usage {
    /// What must be waited for before a use of this kind may start (kernel: `dma_resv_usage_rw`):
    /// before a write all reads, before a read all writes.
    pub fn waits_for(self) -> Self {
        match self {
            Self::Move => Self::Bookkeep,
            Self::Write => Self::Read,
            Self::Read | Self::Bookkeep => Self::Write,
        }
    }
}

/// The fences of one buffer. Protected by the buffer's reservation.
#[derive(Debug, Default)]
pub(crate) struct Fences(Vec<(Usage, Fence)>);

impl Fences {
    /// Adds a fence. It replaces those that it covers: on the same timeline, no later, and of a usage
    /// that is no stronger, so that nobody who would have waited before waits for less now. Signalled
    /// ones go as well.
    pub(crate) fn add(&mut self, usage: Usage, fence: Fence) {
        self.0.retain(|(old_usage, old)| {
            let replaced = usage <= *old_usage && fence.covers(old);
            !replaced && !old.is_over()
        });
        self.0.push((usage, fence));
    }

    /// Makes room for one more, so that adding it cannot fail (kernel: `dma_resv_reserve_fences`).
    pub(crate) fn reserve(&mut self) -> Result<()> {
        self.0.try_reserve(1).map_err(|_| Error::os("malloc", rustix::io::Errno::NOMEM))
    }

    /// Those of `usage` and of all before it that have not signalled; forgets those that have.
    pub(crate) fn pending(&mut self, usage: Usage) -> Vec<Fence> {
        if self.0.is_empty() {
            return vec![];
        }
        self.0.retain(|(_, fence)| !fence.is_over());
        self.0.iter().filter(|(of, _)| *of <= usage).map(|(_, fence)| fence.clone()).collect()
    }

    /// Whether work of any usage may still be running; forgets what is not.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.0.retain(|(_, fence)| !fence.is_over());
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_ordered_as_in_the_kernel() {
        assert!(Usage::Move < Usage::Write && Usage::Write < Usage::Read);
        assert!(Usage::Read < Usage::Bookkeep);
        assert_eq!(Usage::Write.waits_for(), Usage::Read);
        assert_eq!(Usage::Read.waits_for(), Usage::Write);
    }

    #[test]
    fn a_signalled_fence_is_nothing_to_wait_for() {
        let mut fences = Fences::default();
        fences.add(Usage::Write, Fence::signalled());
        assert!(fences.pending(Usage::Bookkeep).is_empty());
        assert!(fences.is_idle());
    }
}

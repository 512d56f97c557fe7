//! Zeroes unused memory of a pool ahead of its next use.

use std::sync::Arc;

use super::allocation::Allocation;
use super::allocation_host::HostWait;
use super::block::Span;
use super::host_copy::zero_by_host;
use super::pool::{Pool, Warm};
use super::size_class::CLASSES;
use super::slab::{Recycle, Slab};

impl Pool {
    /// Zeroes unused memory that the host has in its caches and that holds earlier buffers' bytes, until `bytes` bytes
    /// are zeroed: slots, what no slab has of the blocks, and whole allocations; of a slab's slots the last used ones come
    /// first. Returns how many bytes.
    ///
    /// Locks: a size class', that of the blocks, and the list of unused allocations, but not while zeroing.
    pub(crate) fn zero_unused(&self, bytes: u64) -> u64 {
        let mut zeroed = 0;
        for index in 0..CLASSES {
            while zeroed < bytes
                && let Some((slab, slot)) = self.take_stale(index)
            {
                let (offset, len) = (slab.offset(slot), slab.slot_size);
                let done = zero(&slab.allocation, offset, len);
                if let Some(cut) = slab.cut {
                    self.release_slot(cut, slot, !done);
                }
                if !done {
                    break;
                }
                zeroed += len;
            }
        }
        while zeroed < bytes
            && let Some(Span { allocation, at, .. }) = self.take_stale_span()
        {
            let done = zero(&allocation, at.start, at.len);
            self.blocks().give_back(at, !done);
            if !done {
                break;
            }
            zeroed += at.len;
        }
        while zeroed < bytes {
            let mut warm = self.warm();
            let Some(at) = warm.iter().rposition(|warm| warm.stale) else { break };
            let Warm { slab, .. } = warm.swap_remove(at);
            drop(warm);
            let len = slab.allocation.size();
            let done = zero(&slab.allocation, 0, len);
            // Others may have been returned meanwhile.
            self.keep(Warm { slab, stale: !done });
            if !done {
                break;
            }
            zeroed += len;
        }
        zeroed
    }

    /// Takes a free slot of a class that holds an owner's bytes. The class is locked no longer than that.
    fn take_stale(&self, index: usize) -> Option<(Arc<Slab>, u32)> {
        self.class(index).take_stale()
    }

    fn take_stale_span(&self) -> Option<Span> {
        self.blocks().take_stale()
    }
}

/// Zeroes memory that no buffer has, if the host has it in its caches. Returns whether it did.
#[expect(unsafe_code, reason = "writing to memory that has no user")]
fn zero(allocation: &Allocation, offset: u64, len: u64) -> bool {
    // SAFETY: a slot, a range of a block, or all of an allocation, that the pool has taken out of its lists. It was
    // returned when the work of its last owner had ended, and no buffer gets it before the pool lists it again.
    let zeroed = || unsafe { zero_by_host((allocation, offset), len, HostWait::Never) };
    allocation.is_fast_for_host() && zeroed().unwrap_or(false)
}

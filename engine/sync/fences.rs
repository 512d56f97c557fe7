//! A buffer's fences, each with its usage.
//!
//! Kernel counterpart: `struct dma_resv_list` (`drivers/dma-buf/dma-resv.c`).

use smallvec::SmallVec;

use super::fence::Fence;
use super::fence_usage::Usage;
use crate::error::{Error, Result};

/// The fences of one buffer. Protected by the buffer's reservation.
///
/// A fence is removed once it is over. The exception is a fence whose work was to write the bytes and failed:
/// it is kept until [`Fences::forget_failures`], and no use waits for it.
// A buffer without any use has no list, and pays only for the pointer.
#[derive(Debug, Default)]
pub(crate) struct Fences(Option<Box<Entries>>);

const _: () = assert!(size_of::<Fences>() <= 8, "there may be a million buffers");

/// Inline room for the usual case: a writer, and a reader or a move.
type Entries = SmallVec<[Entry; 2]>;

#[derive(Debug)]
struct Entry {
    usage: Usage,
    /// Whether it is over and its work, which was to write the bytes, has failed.
    failed: bool,
    fence: Fence,
}

impl Entry {
    /// Whether its work may still be running. Records a failure.
    fn is_running(&mut self) -> bool {
        if self.failed {
            return false;
        }
        let running = !self.fence.is_over();
        self.failed = !running && self.usage <= Usage::Write && self.fence.failure().is_some();
        running
    }
}

impl Fences {
    /// Adds a fence. It replaces every fence that it covers (same timeline, not later) and whose usage is not
    /// stronger than its own, so that no query returns less than before. A fence that is covered in this way
    /// itself is not added. Signalled fences are removed.
    pub(crate) fn add(&mut self, usage: Usage, mut fence: Fence) {
        let entries = self.0.get_or_insert_default();
        entries.retain(|old| {
            let replaced = !old.failed && usage <= old.usage && fence.covers(&old.fence);
            if replaced && old.usage <= Usage::Write && old.is_running() {
                // A dependency of the replaced fence may still fail, so the new fence must report that failure.
                fence = fence.clone().depends_on(std::slice::from_ref(&old.fence));
            }
            (!replaced && old.is_running()) || old.failed
        });
        let covers = |old: &Entry| !old.failed && old.usage <= usage && old.fence.covers(&fence);
        if !entries.iter().any(covers) {
            entries.push(Entry { usage, failed: false, fence });
        }
    }

    /// Reserves room for one more fence, so that adding it cannot fail (kernel: `dma_resv_reserve_fences`).
    pub(crate) fn reserve(&mut self) -> Result<()> {
        let entries = self.0.get_or_insert_default();
        entries.try_reserve(1).map_err(|_| Error::os("malloc", rustix::io::Errno::NOMEM))
    }

    /// The fences of `usage` and of all usages before it that are not over. Removes those that are.
    pub(crate) fn pending(&mut self, usage: Usage) -> Vec<Fence> {
        let mut pending = vec![];
        self.prune(|entry| {
            if entry.usage <= usage {
                pending.push(entry.fence.clone());
            }
        });
        pending
    }

    /// All fences that are not over, with their usages. Removes the others.
    pub(crate) fn running(&mut self) -> Vec<(Usage, Fence)> {
        let mut running = vec![];
        self.prune(|entry| running.push((entry.usage, entry.fence.clone())));
        running
    }

    /// Whether no work of any usage is running any more. Removes fences that are over.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut idle = true;
        self.prune(|_| idle = false);
        idle
    }

    /// Whether no work is running, and no failure is recorded.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.is_idle() && self.0.as_ref().is_none_or(|entries| entries.is_empty())
    }

    /// Describes the first recorded failure of work that was to write or move the bytes.
    pub(crate) fn failure(&mut self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let failed = self.0.as_ref()?.iter().find(|entry| entry.failed)?;
        let error = failed.fence.failure();
        Some(error.map_or_else(|| failed.fence.to_string(), |error| error.to_string()))
    }

    /// Removes the recorded failures; returns the strongest usage among them.
    pub(crate) fn forget_failures(&mut self) -> Option<Usage> {
        self.prune(|_| {});
        let entries = self.0.as_mut()?;
        let failed = entries.iter().filter(|entry| entry.failed);
        let strongest = failed.map(|entry| entry.usage).min();
        entries.retain(|entry| !entry.failed);
        strongest
    }

    /// Removes fences that are over, and calls `running` for each of the others.
    fn prune(&mut self, mut running: impl FnMut(&Entry)) {
        let Some(entries) = &mut self.0 else { return };
        entries.retain(|entry| {
            let is_running = entry.is_running();
            if is_running {
                running(entry);
            }
            is_running || entry.failed
        });
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

    #[test]
    fn a_failed_write_is_kept_and_no_use_waits_for_it() {
        for usage in [Usage::Move, Usage::Write] {
            let mut fences = Fences::default();
            let (fence, signal) = Fence::host();
            fences.add(usage, fence);
            assert!(!fences.is_idle() && fences.failure().is_none());
            signal.fail("the disk is full");
            assert!(fences.pending(Usage::Bookkeep).is_empty() && fences.is_idle());
            fences.add(Usage::Write, Fence::signalled());
            let cause = fences.failure().expect("kept");
            assert!(cause.contains("the disk is full") && !fences.is_empty(), "{cause}");
            assert_eq!(fences.forget_failures(), Some(usage));
            assert!(fences.is_empty() && fences.failure().is_none());
            assert_eq!(fences.forget_failures(), None);
        }
    }

    #[test]
    fn a_failed_read_is_not_kept() {
        for usage in [Usage::Read, Usage::Bookkeep] {
            let mut fences = Fences::default();
            let (fence, signal) = Fence::host();
            fences.add(usage, fence);
            signal.fail("cancelled");
            assert!(fences.failure().is_none() && fences.is_empty());
        }
    }

    #[test]
    fn a_failure_is_not_replaced_by_a_later_fence() {
        let mut fences = Fences::default();
        let (fence, signal) = Fence::host();
        fences.add(Usage::Write, fence.clone());
        signal.fail("torn");
        assert!(fences.failure().is_some());
        fences.add(Usage::Move, fence);
        assert_eq!(fences.forget_failures(), Some(Usage::Move));
    }
}

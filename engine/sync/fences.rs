//! A buffer's fences, each with its usage.
//!
//! Kernel counterpart: `struct dma_resv_list` (`drivers/dma-buf/dma-resv.c`).

use smallvec::SmallVec;

use super::fence::Fence;
use super::fence_usage::Usage;
use super::prefetch::prefetch;
use super::readings::Readings;
use crate::error::{Error, Result};

/// The fences of one buffer. Protected by the buffer's reservation.
///
/// A fence is removed once it is over. There are two exceptions, and no use waits for either. A fence whose work
/// was to write the bytes and failed is kept until [`Fences::forget_failures`]. A fence of a lost device is kept
/// until nothing submitted to the device is in use ([`Fence::is_released`]): the set is not idle before.
// A buffer without any use has no list, and pays only for the pointer.
#[derive(Debug, Default)]
pub(crate) struct Fences(Option<Box<Entries>>);

const _: () = assert!(size_of::<Fences>() <= 8, "there may be a million buffers");

/// Inline room for the usual case: a writer, and a reader or a move.
type Entries = SmallVec<[Entry; 2]>;

#[derive(Debug)]
struct Entry {
    usage: Usage,
    phase: Phase,
    fence: Fence,
}

/// What is known of the work behind a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It may be running. Uses wait for it.
    Running,
    /// It has ended or failed, and uses no memory.
    Ended { failed: bool },
    /// Its device is lost, and it may still use memory. `failed` says whether the failure counts.
    Unsettled { failed: bool },
}

impl Entry {
    fn new(usage: Usage, fence: Fence) -> Self {
        Self { usage, phase: Phase::Running, fence }
    }

    /// Brings the phase up to date, with the timelines as `readings` show them.
    #[inline]
    fn update(&mut self, readings: &mut Readings) -> Phase {
        match self.phase {
            Phase::Ended { .. } => {}
            Phase::Running if self.fence.has_plainly_succeeded_at(readings) => {
                self.phase = Phase::DONE;
            }
            _ => self.ask(readings),
        }
        self.phase
    }

    fn ask(&mut self, readings: &mut Readings) {
        if self.phase == Phase::Running
            && let Some(failure) = self.fence.outcome_at(readings)
        {
            // Only work that was to write the bytes leaves them undefined.
            let failed = self.usage <= Usage::Write && failure.is_some();
            self.phase = match failure {
                Some(_) => Phase::Unsettled { failed },
                None => Phase::Ended { failed },
            };
        }
        if let Phase::Unsettled { failed } = self.phase
            && self.fence.is_released()
        {
            self.phase = Phase::Ended { failed };
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Ended { failed: true } | Phase::Unsettled { failed: true })
    }

    /// Takes another fence. On the same timeline no reference count changes.
    fn renew(&mut self, usage: Usage, fence: &Fence) {
        (self.usage, self.phase) = (usage, Phase::Running);
        self.fence.clone_from(fence);
    }
}

impl Phase {
    /// Of no further use.
    const DONE: Self = Self::Ended { failed: false };

    /// Whether the work may still use memory.
    fn is_in_use(self) -> bool {
        matches!(self, Self::Running | Self::Unsettled { .. })
    }

    /// Whether the entry is of no further use.
    fn is_done(self) -> bool {
        self == Self::DONE
    }
}

impl Fences {
    /// Adds a fence. It replaces every fence that it covers (same timeline, not later) and whose usage is not
    /// stronger than its own, so that no query returns less than before. A fence that is covered in this way
    /// itself is not added. Signalled fences are removed.
    pub(crate) fn add(&mut self, usage: Usage, fence: Fence) {
        self.add_at(&mut Readings::default(), usage, &fence);
    }

    /// As [`Fences::add`], at the moment of `readings`. The fence takes the place of one that is removed, if there is one:
    /// a buffer that one device uses again and again has one entry, and no count of references changes.
    pub(crate) fn add_at(&mut self, readings: &mut Readings, usage: Usage, fence: &Fence) {
        let entries = self.0.get_or_insert_default();
        if let [only] = entries.as_mut_slice()
            && only.phase.is_done()
        {
            return only.renew(usage, fence);
        }
        let (mut inheriting, mut free, mut at) = (None::<Fence>, None, 0);
        while let Some(old) = entries.get_mut(at) {
            let phase = old.update(readings);
            let replaced =
                phase == Phase::Running && usage <= old.usage && fence.covers(&old.fence);
            if replaced && old.usage <= Usage::Write && old.fence.dependencies().is_some() {
                // A dependency of the replaced fence may still fail, so the new fence must report that failure.
                inheriting.get_or_insert_with(|| fence.clone()).inherit(&old.fence, readings);
            }
            match free {
                _ if !replaced && !phase.is_done() => at += 1,
                None => {
                    old.phase = Phase::DONE;
                    free = Some(at);
                    at += 1;
                }
                Some(_) => drop(entries.remove(at)),
            }
        }
        let fence = inheriting.as_ref().unwrap_or(fence);
        let covers = |old: &Entry| {
            old.phase == Phase::Running && old.usage <= usage && old.fence.covers(fence)
        };
        match (entries.iter().any(covers), free) {
            (true, Some(free)) => drop(entries.remove(free)),
            (true, None) => {}
            (false, Some(free)) => entries[free].renew(usage, fence),
            (false, None) => entries.push(Entry::new(usage, fence.clone())),
        }
    }

    /// Reserves room for one more fence, so that adding it cannot fail (kernel: `dma_resv_reserve_fences`).
    pub(crate) fn reserve(&mut self) -> Result<()> {
        let entries = self.0.get_or_insert_default();
        if entries.len() > 1 {
            // Those that are over would keep it from having room inline.
            entries.retain(|entry| !entry.phase.is_done());
        }
        entries.try_reserve(1).map_err(|_| Error::os("malloc", rustix::io::Errno::NOMEM))
    }

    /// Whether there are none at all: the usual buffer, of which each lock asks.
    #[inline]
    fn is_clear(&self) -> bool {
        self.0.as_ref().is_none_or(|entries| entries.is_empty())
    }

    /// The fences of `usage` and of all usages before it that are not over. Removes those that are.
    #[inline]
    pub(crate) fn pending(&mut self, usage: Usage) -> Vec<Fence> {
        if self.is_clear() { vec![] } else { self.pending_of(usage) }
    }

    fn pending_of(&mut self, usage: Usage) -> Vec<Fence> {
        let mut pending = vec![];
        self.prune(|entry| {
            if entry.phase == Phase::Running && entry.usage <= usage {
                pending.push(entry.fence.clone());
            }
        });
        pending
    }

    /// Loads them ahead of a pass.
    #[inline]
    pub(crate) fn prefetch(&self) {
        if let Some(entries) = &self.0 {
            prefetch(&**entries);
        }
    }

    /// Calls `each` for the fences that are not over at the moment of `readings`, with their usages. Those that are stay
    /// for the next fence to take their place. Returns whether a failure of work that was to write or move the bytes is
    /// recorded.
    #[inline]
    pub(crate) fn each_running(
        &mut self,
        readings: &mut Readings,
        mut each: impl FnMut(Usage, &Fence, &mut Readings),
    ) -> bool {
        let mut failed = false;
        for entry in self.0.iter_mut().flat_map(|entries| entries.iter_mut()) {
            match entry.update(readings) {
                Phase::DONE => {}
                Phase::Running => each(entry.usage, &entry.fence, readings),
                Phase::Ended { failed: its } | Phase::Unsettled { failed: its } => failed |= its,
            }
        }
        failed
    }

    /// All fences that are not over, with their usages. Removes the others.
    pub(crate) fn running(&mut self) -> Vec<(Usage, Fence)> {
        let mut running = vec![];
        self.prune(|entry| {
            if entry.phase == Phase::Running {
                running.push((entry.usage, entry.fence.clone()));
            }
        });
        running
    }

    /// All fences whose work may still use memory: those that are not over, and those of a lost device that has
    /// not settled. For memory that gets another owner; no use waits for the latter.
    pub(crate) fn in_use(&mut self) -> Vec<Fence> {
        let mut all = vec![];
        self.prune(|entry| {
            if entry.phase.is_in_use() {
                all.push(entry.fence.clone());
            }
        });
        all
    }

    /// Forgets what work depends on, as far as that has succeeded.
    pub(crate) fn forget_succeeded(&mut self) {
        self.prune(|entry| {
            if let Some(dependencies) = entry.fence.dependencies() {
                // It forgets them as it looks for a failure.
                dependencies.failure();
            }
        });
    }

    /// A fence that was running when it was asked last.
    pub(crate) fn first_running(&self) -> Option<&Fence> {
        let mut entries = self.0.iter().flat_map(|entries| entries.iter());
        entries.find(|entry| entry.phase == Phase::Running).map(|entry| &entry.fence)
    }

    /// Whether no work of any usage uses memory any more: nothing is running, and no lost device may still be at
    /// work. Removes fences that are over.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut idle = true;
        self.prune(|entry| idle &= !entry.phase.is_in_use());
        idle
    }

    /// Whether nothing is in use, and no failure is recorded.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.is_idle() && self.is_clear()
    }

    /// Describes the first recorded failure of work that was to write or move the bytes.
    #[inline]
    pub(crate) fn failure(&mut self) -> Option<String> {
        if self.is_clear() { None } else { self.recorded_failure() }
    }

    fn recorded_failure(&mut self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let failed = self.0.as_ref()?.iter().find(|entry| entry.has_failed())?;
        let error = failed.fence.failure();
        Some(error.map_or_else(|| failed.fence.to_string(), |error| error.to_string()))
    }

    /// Removes the recorded failures; returns the strongest usage among them.
    pub(crate) fn forget_failures(&mut self) -> Option<Usage> {
        self.prune(|_| {});
        let entries = self.0.as_mut()?;
        let failed = entries.iter().filter(|entry| entry.has_failed());
        let strongest = failed.map(|entry| entry.usage).min();
        entries.retain(|entry| {
            if let Phase::Unsettled { failed } = &mut entry.phase {
                *failed = false;
            }
            !entry.has_failed()
        });
        strongest
    }

    /// Removes fences that are of no further use, and calls `kept` for each of the others.
    fn prune(&mut self, mut kept: impl FnMut(&Entry)) {
        let Some(entries) = &mut self.0 else { return };
        if entries.is_empty() {
            return;
        }
        let readings = &mut Readings::default();
        entries.retain(|entry| {
            let done = entry.update(readings).is_done();
            if !done {
                kept(entry);
            }
            !done
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
    #[test]
    fn a_fence_takes_the_place_of_one_that_is_over() {
        let entries = |fences: &Fences| fences.0.as_ref().expect("there were fences").len();
        let mut fences = Fences::default();
        for round in 0..10 {
            let [(written, write), (read, reading)] = [(); 2].map(|()| Fence::host());
            fences.add(Usage::Write, written);
            fences.add(Usage::Read, read);
            assert_eq!((fences.running().len(), entries(&fences)), (2, 2), "round {round}");
            drop((write, reading));
            fences.forget_failures();
            let (last, signal) = Fence::host();
            fences.add(Usage::Read, last.clone());
            drop(signal);
            // What is over stays, and is no reason to take memory.
            fences.each_running(&mut Readings::default(), |_, fence, _| panic!("{fence} is over"));
            assert_eq!(entries(&fences), 1);
            fences.reserve().expect("there is room");
            fences.add(Usage::Write, Fence::signalled());
            assert_eq!(entries(&fences), 1, "in the same place");
            fences.reserve().expect("there is room");
            assert!(!fences.0.as_ref().expect("there were fences").spilled());
            assert!(fences.is_empty());
        }
    }
}

//! The interface of eviction policies.

use std::fmt;

/// A buffer's number in its domain. Numbers are dense and reused after [`Policy::forget`], so that policies
/// can index arrays by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    pub(super) fn index(self) -> usize {
        // CAST: there is no platform with less than 32 bits.
        self.0 as usize
    }
}

/// Chooses which buffers to evict from one domain.
///
/// A policy is deterministic: it reads no clock, and the same calls in the same order give the same answers.
/// No call fails or waits. Calls that make no sense, such as [`Policy::leave`] for a buffer that is not
/// resident, do nothing.
pub trait Policy: fmt::Debug + Send {
    /// The policy's name in reports.
    fn name(&self) -> &'static str;

    /// Sets the domain's budget in bytes. Budgets change at run time.
    fn capacity(&mut self, bytes: u64);

    /// Records a use of a buffer of `bytes`; `resident` tells whether it is in the domain now.
    fn access(&mut self, slot: Slot, bytes: u64, resident: bool);

    /// The buffer is resident from now on and may be chosen.
    fn admit(&mut self, slot: Slot, bytes: u64);

    /// The buffer may no longer be chosen: it has left the domain, or is pinned. Its history is kept.
    fn leave(&mut self, slot: Slot);

    /// The buffer was destroyed. Its slot may be given to another buffer.
    fn forget(&mut self, slot: Slot);

    /// Appends the buffers to evict to `into`, best first, until their bytes reach `wanted` or no candidate is
    /// left. It names no buffer twice, and none for which `skip` returns `true`. A buffer stays a candidate
    /// until [`Policy::leave`], so the next call may name it again.
    ///
    /// The time must grow with the buffers that are named or skipped, not with those that are resident.
    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>);

    /// Like [`Policy::victims`], but among the `members` of one client group only. Members that are not
    /// resident may be in the list; `skip` returns `true` for all buffers of other groups.
    ///
    /// The default walks past the buffers of other groups. For [`Lru`](super::Lru) and [`Clock`](super::Clock)
    /// that is exact, and fast if the group's buffers are among the oldest. If they were the youngest of 10⁵
    /// buffers it took 13 ms, and of 10⁶ 0.4 s. [`Adaptive`](super::Adaptive) samples the group's members: 2 to
    /// 12 µs, however many buffers are resident.
    fn victims_among(
        &mut self,
        members: &[Slot],
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        into: &mut Vec<Slot>,
    ) {
        let _ = members;
        self.victims(wanted, skip, into);
    }

    /// Whether room is better used for `slot`, which is being used and is not resident, than for the resident `victim`.
    ///
    /// A displaced buffer evicts others for its return only if this holds for each of them. Otherwise devices use it where
    /// it is.
    ///
    /// The default says yes. [`Adaptive`](super::Adaptive) compares the uses that it expects.
    fn is_worth_more(&self, slot: Slot, victim: Slot) -> bool {
        let _ = (slot, victim);
        true
    }

    /// The policy's memory in bytes, for the report.
    fn footprint(&self) -> usize;
}

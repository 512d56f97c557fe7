//! Compute passes on a mapping: fill, verify, checksum, copy.

use std::sync::Arc;

use super::pair::Pair;
use crate::access::Access;
use crate::buffer::attach::Mapping;
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::DirtyRanges;
use crate::error::{Error, Result};
use crate::sync::{Fence, RejectionWatch, Usage};
use crate::transfer::{Attempt, ComputeKernels, PassReport, Watch, Work};

impl Mapping {
    /// Writes the pattern of `seed` to the whole buffer, by a compute pass on this device, and waits for it.
    /// The buffer's size must be a multiple of 4 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`], [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`], [`Error::WrongAccess`],
    /// [`Error::Misaligned`], [`Error::Timeout`], [`Error::DeviceLost`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn fill(&self, seed: u32) -> Result<()> {
        self.run(Access::Write, |kernels, watch| kernels.fill(self.span(), seed, watch))
    }

    /// Compares every 32-bit word with the pattern of `seed`, by a compute pass on this device.
    ///
    /// # Errors
    ///
    /// As [`Mapping::fill`]. Mismatches are not an error; the report lists them.
    pub fn verify(&self, seed: u32) -> Result<PassReport> {
        self.run(Access::Read, |kernels, watch| kernels.verify(self.span(), seed, watch))
    }

    /// Returns a checksum of all 32-bit words that depends on their positions, by a compute pass on this
    /// device.
    ///
    /// # Errors
    ///
    /// As [`Mapping::fill`].
    pub fn checksum(&self) -> Result<u32> {
        self.run(Access::Read, |kernels, watch| kernels.checksum(self.span(), watch))
    }

    /// Copies the whole buffer to another one, by a compute pass instead of the copy engine. The target must be
    /// at least as large, and mapped by the same device.
    ///
    /// # Errors
    ///
    /// As [`Mapping::fill`]; [`Error::OutOfBounds`] if the target is smaller; [`Error::Overlap`] if it is the
    /// same buffer; [`Error::Unsupported`] if its mapping is of another device.
    pub fn copy_to(&self, target: &Self) -> Result<()> {
        let (from, to) = (self.buffer_inner(), target.buffer_inner());
        to.check_range(0, from.size)?;
        if Arc::ptr_eq(from, to) {
            return Err(Error::Overlap { buffer: from.name(), from: 0, to: 0, len: from.size });
        }
        if !Arc::ptr_eq(self.device_inner(), target.device_inner()) {
            return Err(Error::Unsupported {
                device: self.device_inner().name().to_owned(),
                missing: format!("a mapping of {}", to.name()),
            });
        }
        from.set.handle_lost_devices();
        from.leave_exported()?;
        to.leave_exported()?;
        self.check_access(Access::Read)?;
        target.check_access(Access::Write)?;
        self.view()?;
        target.view()?;
        let span = target.span().slice(0, from.size);
        let submit = |work: Work<'_>| self.submit_copy_to(target, work);
        let watch = Watch { timeout: from.core().timeout, submit: &submit };
        let kernels = from.core().compute_kernels(self.device_inner())?;
        retry_on_oom(&from.set, self.device_inner().id(), [&**from, &**to], || {
            kernels.copy(self.span(), span, &watch).map(drop)
        })
    }

    /// Runs a compute pass. Each of its submissions is made under the reservation: the mapping is then current,
    /// and no work is pending that conflicts with `access`.
    fn run<R>(
        &self,
        access: Access,
        pass: impl Fn(&ComputeKernels, &Watch<'_>) -> Result<R>,
    ) -> Result<R> {
        let set = &self.buffer_inner().set;
        set.handle_lost_devices();
        self.buffer_inner().leave_exported()?;
        self.check_access(access)?;
        self.view()?;
        let submit = |work: Work<'_>| self.submit(access, work);
        let watch = Watch { timeout: set.core.timeout, submit: &submit };
        let kernels = set.core.compute_kernels(self.device_inner())?;
        retry_on_oom(set, self.device_inner().id(), [&**self.buffer_inner()], || {
            pass(&kernels, &watch)
        })
    }

    /// Makes one submission of a pass, or returns the fences to wait for first.
    fn submit(&self, access: Access, work: Work<'_>) -> Result<Attempt> {
        let device = self.device_inner();
        let mut state = self.buffer_inner().lock();
        let mut waits = state.fences().pending(Usage::from(access).waits_for());
        // Collected before the check for failures: work that fails after it is among these fences, and the
        // fence of the pass reports its failure.
        let writers = state.fences().pending(Usage::Write);
        self.buffer_inner().check_usable(&mut state)?;
        // The device's queue orders its own work.
        waits.retain(|fence| !fence.is_on(device));
        if !waits.is_empty() {
            return Ok(Attempt::Wait(waits));
        }
        self.check_current()?;
        let watch = RejectionWatch::main(device);
        let submitted = work().map(|fence| fence.depends_on(&writers));
        let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        state.fences().add(Usage::from(access), fence);
        if access.writes() {
            let all = DirtyRanges::of(0..self.buffer_inner().size, self.buffer_inner().size);
            self.buffer_inner().note_submitted(&mut state, &all, device.id(), &submitted);
        }
        let fence = submitted?;
        self.buffer_inner().note_use(&mut state, Some(device.id()));
        Ok(Attempt::Submitted(fence))
    }

    /// Makes one submission of a copy to `target`, or returns the fences to wait for first.
    fn submit_copy_to(&self, target: &Self, work: Work<'_>) -> Result<Attempt> {
        let (from, to) = (self.buffer_inner(), target.buffer_inner());
        let mut pair = Pair::lock(&from.set, from, to)?;
        let waits = pair.waits_of_other_queues(self.device_inner());
        let writers = pair.writers();
        from.check_usable(pair.from())?;
        to.check_usable(pair.to())?;
        if !waits.is_empty() {
            return Ok(Attempt::Wait(waits));
        }
        self.check_current()?;
        target.check_current()?;
        let watch = RejectionWatch::main(self.device_inner());
        let submitted = work().map(|fence| fence.depends_on(&writers));
        let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        pair.from().fences().add(Usage::Read, fence.clone());
        pair.to().fences().add(Usage::Write, fence);
        let written = DirtyRanges::of(0..from.size, to.size);
        to.note_submitted(pair.to(), &written, self.device_inner().id(), &submitted);
        let fence = submitted?;
        pair.note_use(from, to, Some(self.device_inner().id()));
        Ok(Attempt::Submitted(fence))
    }
}

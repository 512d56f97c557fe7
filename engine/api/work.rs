//! Work on buffers: submissions and copies.

use smallvec::SmallVec;

use super::engine::Engine;
use crate::buffer::{
    self, Attachment, CopyBy, CopyRegion, CopyRun, CopyWay, Mapping, SharedBuffer, Submission,
};
use crate::device::Device;
use crate::error::Result;
use crate::sync::Fence;

/// # Submitting and copying
///
/// Work is ordered by the buffers that it uses: behind the fences of earlier uses, on whichever device those are.
impl Engine {
    /// Submits an application's commands to `device`'s queue.
    ///
    /// `declare` names the commands, and the buffers that they read and write, by their mappings. Then all
    /// reservations are locked together, and the commands are submitted behind the buffers' fences, on this device
    /// or others, between the two halves of the ownership transfers. The new fence is added to every buffer and
    /// returned.
    ///
    /// The call waits for no device, unless the device presents or a binary semaphore is signalled
    /// ([`Submission::signal_semaphore`]). It waits only for what no queue can wait for: work of the host, and external
    /// sync files if the device cannot import them. An open [`crate::HostAccess`] is no such work.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Stale`] with old and new generation if a buffer has moved since it was mapped (see
    /// [`Engine::submit_remapped`]); those of [`Submission::uses`]; [`crate::Error::Timeout`],
    /// [`crate::Error::DeviceLost`], the error of `declare` or of a call. Nothing was submitted then, with two
    /// exceptions. After [`crate::Error::DeviceLost`] the commands count as submitted, and what they use as in use
    /// (Vulkan, "Lost Device"). A device that presents, and a submission that signals a binary semaphore, also wait
    /// until all signals are submitted that the commands depend on; if that wait times out, the commands run.
    ///
    /// Locks: the reservations of all buffers, but not while waiting.
    pub fn submit<'a>(
        &self,
        device: &'a Device,
        declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
    ) -> Result<Fence> {
        buffer::submit(&self.set, &device.0, declare)
    }

    /// Submits as [`Engine::submit`] does, with mappings that are replaced if they are old.
    ///
    /// `declare` gets the mappings in the order of `mappings`. If a buffer has moved since it was mapped, its
    /// mapping is replaced and `declare` is called again, and must record again. For passes and other uses there
    /// is [`Attachment::remapped`].
    ///
    /// Buffers that may be used only in a device's memory first return there together ([`crate::Placement::Vram`]).
    /// None of them is evicted for another one.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`] and [`Attachment::remap`]; [`crate::Error::OutOfMemory`] with the names of the buffers if
    /// they do not fit at the same time; [`crate::Error::Stale`] only if a buffer has moved a
    /// hundred times meanwhile.
    ///
    /// Locks: as [`Engine::submit`].
    pub fn submit_remapped<'a>(
        &self,
        device: &'a Device,
        mappings: &mut [(&Attachment, &mut Mapping)],
        mut declare: impl FnMut(&mut Submission<'a>, &[&Mapping]) -> Result<()>,
    ) -> Result<Fence> {
        buffer::submit_remapped(&self.set, &device.0, mappings, |submission, mappings| {
            let current: SmallVec<[&Mapping; 4]> =
                mappings.iter().map(|(_, mapping)| &**mapping).collect();
            declare(submission, &current)
        })
    }

    /// Copies bytes between two buffers of any two devices.
    ///
    /// A device that can access both makes the copy; the returned fence signals when it is done. If there is no
    /// such device, the bytes are copied through staging memory, and the call returns when they have arrived.
    ///
    /// If no work is pending, and the host reads and writes both buffers at full speed, it copies those that are faster
    /// by the host, and a part of large ones while the device copies the rest, or all of them: in this call, for at most
    /// 100 ms or an eighth of the engine timeout, and then the device copies what is left. Longer than 1 ms it copies without
    /// the reservations; moves, uses of the destination and writes to the source then wait on their threads until the host
    /// has copied its part. The first copy of more than 64 KiB measures the speeds, as the first move does
    /// ([`crate::EngineDescriptor::copy_speeds`]).
    ///
    /// The bytes are read and written where the buffers are kept, whatever their placements. The copy is ordered behind the
    /// buffers' fences. Later uses through peerbuf wait for it. If the call fails after the device began its part, the
    /// destination has a part of the bytes.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfBounds`], [`crate::Error::Overlap`], [`crate::Error::ForeignEngine`],
    /// [`crate::Error::Timeout`], [`crate::Error::DeviceLost`], [`crate::Error::Staging`], or the error of a call.
    ///
    /// Locks: both reservations, but not while waiting.
    pub fn copy(
        &self,
        from: &SharedBuffer,
        to: &SharedBuffer,
        region: CopyRegion,
    ) -> Result<Fence> {
        buffer::copy(&self.set, from, to, region)
    }

    /// Copies bytes between two buffers by the given way, and by no other: for measurements, and for applications that know
    /// better than [`Engine::copy`] what suits them.
    ///
    /// The bytes are read and written where the buffers are kept; neither moves. The copy is ordered behind the buffers'
    /// fences, and later uses through peerbuf wait for it. A copy command is submitted and not waited for; the other ways
    /// return when the bytes are in the destination. A view that the device lacks is imported first, and its route is
    /// proved if it was not.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::copy`]; if there is no such way ([`Engine::copy_ways`]), [`crate::Error::Unreachable`] or
    /// [`crate::Error::Unsupported`]; [`crate::Error::Misaligned`] for a region that a compute pass cannot copy;
    /// [`crate::Error::Busy`] if the host is to copy while another access of it is open.
    ///
    /// Locks: both reservations, but not while waiting, nor while the host copies.
    pub fn copy_by(
        &self,
        from: &SharedBuffer,
        to: &SharedBuffer,
        region: CopyRegion,
        by: &CopyBy,
    ) -> Result<CopyRun> {
        buffer::copy_by(&self.set, from, to, region, by)
    }

    /// The ways to copy between two buffers where they are now, each with the reason why it is not there, if so: the ways
    /// of the source's home device, of the destination's, if that is another one, and those of the host.
    ///
    /// Views that the devices lack are imported, and routes are proved, as a copy would.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    ///
    /// Locks: each reservation, one at a time, but not while waiting.
    pub fn copy_ways(&self, from: &SharedBuffer, to: &SharedBuffer) -> Result<Vec<CopyWay>> {
        buffer::copy_ways(&self.set, from, to)
    }

    /// Locks the reservations of all `buffers` together, as a submission does, and calls `work`. It measures what that
    /// costs. With the feature `testing` alone.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Timeout`].
    ///
    /// Locks: the reservations of all buffers, also while `work` runs.
    #[cfg(feature = "testing")]
    pub fn model_lock<R>(&self, buffers: &[&SharedBuffer], work: impl FnOnce() -> R) -> Result<R> {
        buffer::lock_together(&self.set, buffers, work)
    }
}

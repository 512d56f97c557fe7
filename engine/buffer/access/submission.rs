//! A submission: the buffers that it uses, how it uses them, and the commands that it runs.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ash::vk;
use smallvec::SmallVec;

use super::uses::{Held, Use, UseTable, Uses, Views};
use super::work::{AroundObject, AroundUse, Work};
use crate::access::Access;
use crate::buffer::attach::{Mapping, RawView};
use crate::buffer::object::BufferInner;
use crate::buffer::state::DirtyRanges;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::sync::{Fence, Usage};
use crate::transfer::Scope;

/// Holds a buffer whose mapping may be dropped at any time.
fn counted<'a>(buffer: &Arc<BufferInner>) -> Held<'a> {
    Held::Counted(Arc::clone(buffer))
}

/// The buffers and commands of one submission. The closure given to [`crate::Engine::submit`] fills it in.
pub struct Submission<'a> {
    device: &'a Arc<DeviceInner>,
    pub(super) uses: Uses<'a>,
    pub(super) views: Views,
    table: UseTable,
    /// Stages that the device has: those of the last declaration.
    checked: vk::PipelineStageFlags,
    pub(super) after: SmallVec<[Fence; 2]>,
    pub(super) work: Work<'a>,
}

impl<'a> Submission<'a> {
    pub(super) fn new(device: &'a Arc<DeviceInner>) -> Self {
        Self {
            device,
            uses: Uses::new(),
            views: Views::default(),
            table: UseTable::default(),
            checked: vk::PipelineStageFlags::empty(),
            after: SmallVec::new(),
            work: Work::default(),
        }
    }

    /// Declares that the commands read the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn read(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Read, Scope::ALL)
    }

    /// Declares that the commands write the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn write(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Write, Scope::ALL)
    }

    /// Declares that the commands write the bytes in `part`, and no others, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses_part`].
    pub fn write_part(&mut self, mapping: &Mapping, part: Range<u64>) -> Result<RawView> {
        self.uses_part(mapping, Access::Write, Scope::ALL, part)
    }

    /// Declares that the commands use the buffer for `access`, in the stages and by the accesses of `scope`. A
    /// scope without stages means any stage.
    ///
    /// If a buffer is declared twice, both declarations hold. The returned handles are for recording now. The
    /// call waits for nothing.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAccess`]; [`Error::ForeignMapping`] for a mapping of another device; [`Error::Stale`] if
    /// the buffer has moved; [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`]; [`Error::Unsupported`]
    /// for stages that the device's queue does not have.
    pub fn uses(&mut self, mapping: &Mapping, access: Access, scope: Scope) -> Result<RawView> {
        self.uses_part(mapping, access, scope, 0..mapping.buffer_inner().size)
    }

    /// Declares a use as [`Submission::uses`] does, and that the commands write no bytes outside `part`.
    ///
    /// A large buffer with a clean copy in system memory is then evicted by copying only the written bytes
    /// ([`crate::ResidencyOptions::clean_copies`]). Parts that are declared one after the other add up. For reads, `part`
    /// has no effect. The handles are those of the whole buffer.
    ///
    /// The declaration is a promise: bytes written outside `part` may be lost when the buffer is evicted.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`]; [`Error::OutOfBounds`] if `part` is not within the buffer, or ends before it
    /// begins.
    pub fn uses_part(
        &mut self,
        mapping: &Mapping,
        access: Access,
        scope: Scope,
        part: Range<u64>,
    ) -> Result<RawView> {
        mapping.check_access(access)?;
        mapping.buffer_inner().check_part(&part)?;
        let scope = self.check_scope(scope)?;
        let written = if access.writes() { part } else { 0..0 };
        self.add(mapping, counted, Usage::from(access), written, scope)
    }

    /// Declares that the commands use all these buffers as [`Submission::uses`] does, and calls `each` with the handles of
    /// each one, in this order.
    ///
    /// For many buffers this takes less time than as many calls: it loads what is known of the next ones ahead. The mappings
    /// outlive the submission, so that no reference is counted.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`], for the first buffer that has one. The buffers before it are declared.
    pub fn uses_all(
        &mut self,
        mappings: impl IntoIterator<Item = &'a Mapping, IntoIter: Clone>,
        access: Access,
        scope: Scope,
        mut each: impl FnMut(RawView),
    ) -> Result<()> {
        // Each has two to four cache lines, and so many fit beside what else is in use.
        const AHEAD: usize = 64;
        let scope = self.check_scope(scope)?;
        let mut mappings = mappings.into_iter();
        self.uses.reserve(mappings.size_hint().0);
        loop {
            mappings.clone().take(AHEAD).for_each(|mapping| mapping.buffer_inner().prefetch());
            let mut declared = 0;
            for mapping in mappings.by_ref().take(AHEAD) {
                mapping.check_access(access)?;
                let written = if access.writes() { 0..mapping.buffer_inner().size } else { 0..0 };
                each(self.add(mapping, Held::Borrowed, Usage::from(access), written, scope)?);
                declared += 1;
            }
            if declared < AHEAD {
                return Ok(());
            }
        }
    }

    /// Checks that the device's queue has the stages. Returns the scope, which has some.
    fn check_scope(&mut self, scope: Scope) -> Result<Scope> {
        let scope = if scope.stages.is_empty() { Scope::ALL } else { scope };
        if scope.stages != self.checked {
            self.device.check_stages(scope.stages)?;
            self.checked = scope.stages;
        }
        Ok(scope)
    }

    /// Declares that the commands use the buffer, and that the application orders this use itself.
    ///
    /// The submission does not wait for the buffer's readers and writers, nor they for it, and no ownership is
    /// transferred. It still waits for moves, and the buffer's memory stays allocated while the commands run
    /// (kernel: `DMA_RESV_USAGE_BOOKKEEP`). If the mapping allows writing, all bytes count as written.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn unordered(&mut self, mapping: &Mapping) -> Result<RawView> {
        // The call does not say whether it writes, so the access of the mapping decides.
        let size = mapping.buffer_inner().size;
        let written = if mapping.access().writes() { 0..size } else { 0..0 };
        self.add(mapping, counted, Usage::Bookkeep, written, Scope::NONE)
    }

    /// Adds a use of a buffer, which the result of `hold` keeps alive.
    #[inline]
    fn add<'m>(
        &mut self,
        mapping: &'m Mapping,
        hold: impl FnOnce(&'m Arc<BufferInner>) -> Held<'a>,
        usage: Usage,
        written: Range<u64>,
        scope: Scope,
    ) -> Result<RawView> {
        if !Arc::ptr_eq(mapping.device_inner(), self.device) {
            return Err(Error::ForeignMapping {
                buffer: mapping.buffer_inner().name(),
                device: self.device.name().to_owned(),
            });
        }
        let buffer = mapping.buffer_inner();
        buffer.reservation.prefetch();
        mapping.check_current()?;
        match self.table.find_or_add(&self.uses, buffer) {
            Some(at) => {
                let known = &mut self.uses[at];
                known.usage = known.usage.min(usage);
                known.written.mark(written, buffer.size);
                known.scope = known.scope.and(scope);
            }
            None => {
                if self.uses.len() == self.uses.capacity() {
                    // To four times as many: a use is long, and each growth copies all.
                    self.uses.reserve(3 * self.uses.len());
                }
                self.uses.push(Use {
                    buffer: hold(buffer),
                    view: self.views.of(mapping),
                    offset: mapping.offset(),
                    generation: mapping.generation(),
                    usage,
                    written: DirtyRanges::of(written, buffer.size),
                    scope,
                });
            }
        }
        Ok(mapping.handles())
    }

    /// Records commands into a command buffer that peerbuf provides.
    ///
    /// Locks: `record` is called once per attempt (one, unless the driver is out of memory), under the
    /// reservations of all buffers and the queue's lock. It must not call into peerbuf. Its captures are
    /// dropped without these locks.
    ///
    /// # Safety
    ///
    /// The commands that `record` records are valid for the device's queue family, and use the buffers only as
    /// declared. Everything else that they use stays alive until the submission's fence has signalled.
    #[expect(unsafe_code, reason = "only the caller knows what it records")]
    pub unsafe fn record(&mut self, record: impl FnMut(vk::CommandBuffer) + 'a) {
        self.work.records.push(Box::new(record));
    }

    /// Whether another object of the same buffer is declared, and it or `object`, if used so, writes.
    pub(crate) fn is_in_conflict(&self, object: AroundObject, writes: bool) -> bool {
        self.work.is_in_conflict(object, writes)
    }

    /// Records commands for an object that is used together with a declared buffer: `before` ahead of all commands of the
    /// application, and `after` behind them, while this device owns the buffers. Of several objects, the later ones are
    /// inside. A further call for the same object adds to its use and records nothing of its own. Nothing is recorded
    /// if the application does ([`Submission::transfers_recorded`]).
    ///
    /// Locks: as [`Submission::record`].
    ///
    /// # Safety
    ///
    /// As [`Submission::record`], for both that `make` returns.
    #[expect(unsafe_code, reason = "only the caller knows what it records")]
    pub(crate) unsafe fn around<Before, After>(
        &mut self,
        declared: (AroundObject, AroundUse),
        make: impl FnOnce() -> (Before, After),
    ) where
        Before: FnMut(vk::CommandBuffer, AroundUse) + 'a,
        After: FnMut(vk::CommandBuffer, AroundUse) + 'a,
    {
        self.work.around(declared, make);
    }

    /// Submits command buffers of the application, after the commands that [`Submission::record`] recorded.
    ///
    /// # Safety
    ///
    /// They are executable, belong to this device and its queue's family, and are neither reset nor freed
    /// before the submission's fence has signalled; otherwise as [`Submission::record`].
    #[expect(unsafe_code, reason = "only the caller knows its command buffers")]
    pub unsafe fn commands(&mut self, commands: &[vk::CommandBuffer]) {
        self.work.commands.extend_from_slice(commands);
    }

    /// Says that the command buffers given to [`Submission::commands`] transfer ownership themselves. peerbuf then records
    /// none of its own for them. What [`Submission::record`] records must not call [`Mapping::acquire`].
    ///
    /// Without this call, peerbuf records the transfers. It records them beside what [`Submission::record`] records, or
    /// into two command buffers around those of [`Submission::commands`], which a driver starts and ends as well. An
    /// application that records its command buffers once and submits them often saves these two.
    ///
    /// A command buffer that was recorded through mappings stays usable until a buffer moves, or the device's last attachment
    /// of it ends. After a move the submission reports [`Error::Stale`], and the commands must be recorded again through
    /// new mappings. One that is submitted again while it may still run needs
    /// `VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT`.
    ///
    /// For images it is the same: peerbuf records nothing around the commands, neither transfers nor the copies of an image of
    /// the device's own. [`crate::ImageMapping::acquire`] and [`crate::ImageMapping::release`] record both.
    ///
    /// # Safety
    ///
    /// For each declared buffer, except for unordered ones, the commands record [`Mapping::acquire`] before their first
    /// use of it and [`Mapping::release`] after the last one, with scopes that include the uses: through the declared
    /// mapping, or through one of the same generation if an attachment of this device has lived ever since. The submission waits for the earlier users of the buffers, as
    /// [`Mapping::acquire`] requires. For each declared image they record [`crate::ImageMapping::acquire`] and
    /// [`crate::ImageMapping::release`] instead, through that mapping, which stays alive until they have finished.
    #[expect(unsafe_code, reason = "only the caller knows what the commands record")]
    pub unsafe fn transfers_recorded(&mut self) {
        self.work.transfers = true;
    }

    /// Makes the commands wait for a semaphore of the application: a binary one with `value` 0, such as that of an
    /// acquired image, or a timeline.
    ///
    /// After a wait for a timeline the device's queue shares no binary semaphores any more (sync files included),
    /// since the signal may not be submitted yet.
    ///
    /// # Safety
    ///
    /// The semaphore is a live one of this device until the submission's fence has signalled. A binary one has a
    /// pending signal that is submitted, with all that it depends on (VUID-vkQueueSubmit-pWaitSemaphores-03238),
    /// and nothing else waits for it. A timeline reaches `value` in bounded time, whatever becomes of this device.
    #[expect(unsafe_code, reason = "only the caller knows its semaphores")]
    pub unsafe fn wait_semaphore(&mut self, semaphore: vk::Semaphore, value: u64) {
        self.work.waits.push((semaphore, value));
    }

    /// Signals a semaphore of the application when the commands have finished: a binary one with `value` 0, such as
    /// one that a present waits for, or a timeline.
    ///
    /// With a binary semaphore the submission returns only when every signal that it depends on is submitted, as
    /// the wait for it requires ([`Fence::wait_submitted`]).
    ///
    /// # Safety
    ///
    /// The semaphore is a live one of this device until the submission's fence has signalled. A binary one is
    /// unsignalled and has no pending signal; the value of a timeline is larger than its present and pending ones
    /// (VUID-VkSubmitInfo-pSignalSemaphores-03242). If the submission fails with [`Error::DeviceLost`], the signal
    /// may be pending.
    #[expect(unsafe_code, reason = "only the caller knows its semaphores")]
    pub unsafe fn signal_semaphore(&mut self, semaphore: vk::Semaphore, value: u64) {
        self.work.signals.push((semaphore, value));
    }

    /// Makes the commands wait for `fence` as well. If the work behind `fence` fails, the commands run all the
    /// same, and the submission's fence reports the failure.
    pub fn after(&mut self, fence: &Fence) {
        self.after.push(fence.clone());
    }
}

impl fmt::Debug for Submission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("device", &self.device.name())
            .field("buffers", &self.uses.len())
            .finish_non_exhaustive()
    }
}

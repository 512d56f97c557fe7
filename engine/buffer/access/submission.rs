//! What a submission says of itself: which buffers it uses, for what, and what it does.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ash::vk;
use smallvec::SmallVec;

use crate::access::Access;
use crate::buffer::attach::{Mapping, RawView};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::state::{DirtyRanges, State};
use crate::device::{Body, DeviceInner, Submit};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::sync::{Fence, Usage, waits_on};
use crate::transfer::{Scope, Span, acquire, release};

/// What a submission uses and does: filled in by the closure given to [`crate::Engine::submit`].
pub struct Submission<'a> {
    device: &'a Arc<DeviceInner>,
    pub(in crate::buffer) uses: SmallVec<[Use; 4]>,
    pub(in crate::buffer) after: Vec<Fence>,
    pub(in crate::buffer) work: Work<'a>,
}

/// What a submission does.
#[derive(Default)]
pub(in crate::buffer) struct Work<'a> {
    /// Dropped without the reservations: they may own things whose drop takes one.
    records: Vec<Box<dyn FnMut(vk::CommandBuffer) + 'a>>,
    commands: Vec<vk::CommandBuffer>,
}

/// A buffer that is used, where a mapping of it was.
pub(in crate::buffer) struct Use {
    pub(in crate::buffer) buffer: Arc<BufferInner>,
    view: Arc<View>,
    offset: u64,
    pub(in crate::buffer) generation: u32,
    pub(in crate::buffer) usage: Usage,
    /// What it may write.
    pub(in crate::buffer) written: DirtyRanges,
    scope: Scope,
}

impl<'a> Submission<'a> {
    pub(in crate::buffer) fn new(device: &'a Arc<DeviceInner>) -> Self {
        Self { device, uses: SmallVec::new(), after: vec![], work: Work::default() }
    }

    /// The commands read the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn read(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Read, Scope::ALL)
    }

    /// The commands write the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn write(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Write, Scope::ALL)
    }

    /// The commands write bytes `part` of the buffer, and no others, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses_part`].
    pub fn write_part(&mut self, mapping: &Mapping, part: Range<u64>) -> Result<RawView> {
        self.uses_part(mapping, Access::Write, Scope::ALL, part)
    }

    /// The commands use the buffer for `access`, in the stages and by the accesses of `scope`; of no stages,
    /// in any. Said twice of a buffer, both hold. The handles are for recording now; nothing is waited for.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAccess`]; [`Error::ForeignMapping`] for a mapping of another device;
    /// [`Error::Stale`] if the buffer has moved; [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`];
    /// [`Error::Unsupported`] for stages that the device's queue does not have.
    pub fn uses(&mut self, mapping: &Mapping, access: Access, scope: Scope) -> Result<RawView> {
        self.uses_part(mapping, access, scope, 0..mapping.buffer_inner().size)
    }

    /// The same, but the commands write no bytes of the buffer outside of `part`. A large buffer that has a
    /// clean copy in system memory then leaves by copying those alone ([`crate::Rules::clean_copies`]).
    /// Parts that are said one after the other add up; for readers it makes no difference. The handles are
    /// those of the whole buffer.
    ///
    /// It is a promise: what is written outside of `part` may be lost when the buffer is evicted.
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
        let scope = if scope.stages.is_empty() { Scope::ALL } else { scope };
        self.device.check_stages(scope.stages)?;
        let written = if access.writes() { part } else { 0..0 };
        self.add(mapping, Usage::from(access), written, scope)
    }

    /// The commands use the buffer, and the application orders that itself: neither does the submission
    /// wait for the buffer's readers and writers, nor do they for it, nor is ownership transferred. Moves
    /// are waited for all the same, and the buffer's memory stays while the commands run (kernel:
    /// `DMA_RESV_USAGE_BOOKKEEP`). If it is mapped for writing all of it counts as written.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn unordered(&mut self, mapping: &Mapping) -> Result<RawView> {
        // Who orders it itself says nothing of what it does, but for what it is mapped for.
        let size = mapping.buffer_inner().size;
        let written = if mapping.access().writes() { 0..size } else { 0..0 };
        self.add(mapping, Usage::Bookkeep, written, Scope::NONE)
    }

    fn add(
        &mut self,
        mapping: &Mapping,
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
        mapping.check_current()?;
        let buffer = mapping.buffer_inner();
        let known = self.uses.iter_mut().find(|known| Arc::ptr_eq(&known.buffer, buffer));
        match known {
            Some(known) => {
                known.usage = known.usage.min(usage);
                known.written.mark(written, buffer.size);
                known.scope = known.scope.and(scope);
            }
            None => self.uses.push(Use {
                buffer: Arc::clone(buffer),
                view: mapping.shared_view(),
                offset: mapping.offset(),
                generation: mapping.generation(),
                usage,
                written: DirtyRanges::of(written, buffer.size),
                scope,
            }),
        }
        Ok(mapping.handles())
    }

    /// Records commands, into a command buffer of peerbuf's.
    ///
    /// Locks: `record` is called once for each attempt (one, unless the driver is out of memory), under the
    /// reservations of all buffers and the queue's lock: it may not
    /// call into peerbuf. What it owns is dropped without them.
    ///
    /// # Safety
    ///
    /// What `record` records is valid for the device's queue family, uses of the buffers only what was
    /// said, and everything else that it uses stays alive until the submission's fence has signalled.
    #[expect(unsafe_code, reason = "only the caller knows what it records")]
    pub unsafe fn record(&mut self, record: impl FnMut(vk::CommandBuffer) + 'a) {
        self.work.records.push(Box::new(record));
    }

    /// Submits command buffers of the application, behind what [`Submission::record`] recorded.
    ///
    /// # Safety
    ///
    /// They are executable, of this device and its queue's family, and neither reset nor freed before the
    /// submission's fence has signalled; otherwise as [`Submission::record`].
    #[expect(unsafe_code, reason = "only the caller knows its command buffers")]
    pub unsafe fn commands(&mut self, commands: &[vk::CommandBuffer]) {
        self.work.commands.extend_from_slice(commands);
    }

    /// The commands wait for `fence` as well. If what it stands for fails they run all the same, and the
    /// submission's fence says so.
    pub fn after(&mut self, fence: &Fence) {
        self.after.push(fence.clone());
    }
}

impl Use {
    /// What must have signalled before the commands may start.
    pub(in crate::buffer) fn waits(&self, state: &mut State) -> Vec<Fence> {
        // Who opts out of order still waits for moves.
        state.fences.pending(match self.usage {
            Usage::Bookkeep => Usage::Move,
            usage => usage.waits_for(),
        })
    }
}

impl Work<'_> {
    /// Records and submits, behind `pending`.
    #[expect(unsafe_code, reason = "ownership transfers around the application's commands")]
    pub(in crate::buffer) fn submit(
        &mut self,
        set: &Buffers,
        device: &Arc<DeviceInner>,
        uses: &[Use],
        pending: &[Fence],
    ) -> Result<Fence> {
        let waits = waits_on(&set.core.bridges, device, pending)?;
        let (mut spans, mut scope) = (SmallVec::<[Span<'_>; 4]>::new(), Scope::NONE);
        for used in uses.iter().filter(|used| used.usage != Usage::Bookkeep) {
            spans.push(Span { view: &used.view, offset: used.offset, len: used.buffer.size });
            scope = scope.and(used.scope);
        }
        let Self { records, commands } = self;
        let mut before = |commands| {
            if !spans.is_empty() {
                // SAFETY: the queue began `commands` for this device's family.
                unsafe { acquire(device, commands, &spans, scope) };
            }
            records.iter_mut().for_each(|record| record(commands));
        };
        let mut after = |commands| {
            if !spans.is_empty() {
                // SAFETY: as above.
                unsafe { release(device, commands, &spans, scope) };
            }
        };
        let body = Body::Around { before: &mut before, commands, after: &mut after };
        let value = device.submit_as(Submit { waits, body, signal: None })?;
        Ok(Fence::new(device, value))
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

//! A device's view of one generation of a buffer.

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::view_ref::{CurrentView, ViewRef};
use crate::access::Access;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::{AttachmentId, State};
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Backing, SLOT_ALIGN, View};
use crate::observe::Object;
use crate::sync::Fences;
use crate::transfer::{self, Scope, Span};

/// A device's view of one generation of a [`SharedBuffer`], from [`crate::Attachment::map`].
///
/// Of a static attachment: while it lives the buffer stays where it is. Of a dynamic one: the buffer may
/// move, and then this is old ([`Error::Stale`]); its handles stay valid until it is dropped, but show
/// the packed that the buffer has left. Of a revoked buffer it has no view ([`Error::Revoked`]), and somebody
/// waits for its drop. Drop it when the device has finished with what you submitted; work
/// that peerbuf submits itself is looked after.
///
/// # Invariants
///
/// It is counted in the buffer's state, for its seat, device and generation, from its making to its drop.
pub struct Mapping {
    buffer: Arc<BufferInner>,
    seat: AttachmentId,
    seen: ViewRef,
    generation: u32,
    packed: PackedView,
}

/// Where a mapping's bytes begin, and what it may be used for. In one word, so that two mappings share a
/// cache line: there may be a million of them.
///
/// # Invariants
///
/// The offset is a multiple of 256; the access is below that.
#[derive(Clone, Copy)]
struct PackedView(u64);

const OFFSET: u64 = !(SLOT_ALIGN - 1);

impl PackedView {
    pub(in crate::buffer) fn new(offset: u64, access: Access) -> Self {
        debug_assert_eq!(offset & !OFFSET, 0, "slots are aligned");
        let access = match access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        };
        Self(offset | access)
    }

    pub(in crate::buffer) fn offset(self) -> u64 {
        self.0 & OFFSET
    }

    fn access(self) -> Access {
        match self.0 & !OFFSET {
            0 => Access::Read,
            1 => Access::Write,
            _ => Access::ReadWrite,
        }
    }
}

/// What a device needs to use a buffer: Vulkan handles, valid while the [`Mapping`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawView {
    /// A buffer that the bytes are part of. It spans a whole slab; use `offset` and `size`.
    pub buffer: vk::Buffer,
    /// First byte in `buffer`; a multiple of 256.
    pub offset: u64,
    /// How many bytes are this buffer's.
    pub size: u64,
    /// The memory behind `buffer`, bound at 0.
    pub memory: vk::DeviceMemory,
}

impl Mapping {
    /// Maps for `seat`; `state` is the reservation's, and `seen` is where the buffer is.
    #[expect(unsafe_code, reason = "vouching for a view")]
    pub(in crate::buffer) fn new(
        buffer: &Arc<BufferInner>,
        state: &mut State,
        seat: AttachmentId,
        seen: &CurrentView,
        access: Access,
    ) -> Self {
        buffer.core().live.born(Object::Mapping);
        state.map(seat);
        // INVARIANT: counted just now, and given up in `drop`.
        Self {
            generation: buffer.generation(),
            buffer: Arc::clone(buffer),
            seat,
            // SAFETY: by the invariant of `Mapping` it is counted.
            seen: unsafe { ViewRef::new(&seen.view) },
            packed: PackedView::new(seen.offset, access),
        }
    }

    /// Makes this a view of the current generation, for `seat`; `state` is the reservation's. What is
    /// returned is to be given up without it.
    #[expect(unsafe_code, reason = "vouching for a view")]
    #[inline]
    pub(in crate::buffer) fn replace(
        &mut self,
        state: &mut State,
        seat: AttachmentId,
        seen: &CurrentView,
    ) -> Option<(Fences, Backing)> {
        let current = self.buffer.generation();
        state.map(seat);
        let left = state.unmap(self.seat, self.seen.get().device().id(), self.generation, current);
        // INVARIANT: counted above for the new place, and no longer for the old one.
        self.seat = seat;
        self.packed = PackedView::new(seen.offset, self.access());
        self.generation = current;
        // SAFETY: by the invariant of `Mapping` it is counted.
        self.seen = unsafe { ViewRef::new(&seen.view) };
        left
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device(Arc::clone(self.seen.get().device()))
    }

    /// The generation of the buffer that this is a view of.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What it was opened for.
    pub fn access(&self) -> Access {
        self.packed.access()
    }

    /// The handles, once the bytes are this buffer's own and in place: the first call scrubs memory
    /// that had another owner, and waits, in bounds, for a move that is still under way.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] if the buffer has moved since; [`Error::Revoked`]; [`Error::Purged`],
    /// [`Error::Poisoned`] if that was found before, or in the first call; [`Error::Timeout`],
    /// [`Error::DeviceLost`], or what a call said.
    ///
    /// Locks: the reservation, in the first call of anybody since the buffer moved; none after that.
    #[inline]
    pub fn view(&self) -> Result<RawView> {
        if !self.buffer.status.is_ready(self.generation) {
            self.make_ready()?;
        }
        Ok(self.handles())
    }

    /// The handles, whatever is in the memory.
    #[inline]
    pub(in crate::buffer) fn handles(&self) -> RawView {
        RawView {
            buffer: self.seen.get().buffer(),
            offset: self.packed.offset(),
            size: self.buffer.size,
            memory: self.seen.get().memory(),
        }
    }

    /// Records that this device takes the buffer over, before `scope` uses it: the acquire half of a
    /// queue-family ownership transfer, for those who record their own commands.
    ///
    /// # Errors
    ///
    /// As [`Mapping::view`]; nothing is recorded then.
    ///
    /// # Safety
    ///
    /// * `commands` is being recorded, outside a render pass, for the family
    ///   [`Device::queue_family`] of this mapping's device;
    /// * whoever used the buffer before has finished (its fences were waited for), and has released it
    ///   if it was another device.
    #[expect(unsafe_code, reason = "only the caller knows the state of its command buffer")]
    pub unsafe fn acquire(&self, commands: vk::CommandBuffer, scope: Scope) -> Result<()> {
        self.view()?;
        // SAFETY: the caller's contract.
        unsafe { transfer::acquire(self.seen.get().device(), commands, &[self.span()], scope) };
        Ok(())
    }

    /// Records that this device has finished with the buffer, after `scope` used it.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::acquire`], which was recorded before it.
    #[expect(unsafe_code, reason = "only the caller knows the state of its command buffer")]
    pub unsafe fn release(&self, commands: vk::CommandBuffer, scope: Scope) {
        // SAFETY: the caller's contract.
        unsafe { transfer::release(self.seen.get().device(), commands, &[self.span()], scope) };
    }

    pub(in crate::buffer) fn buffer_inner(&self) -> &Arc<BufferInner> {
        &self.buffer
    }

    pub(in crate::buffer) fn shared_view(&self) -> Arc<View> {
        self.seen.share()
    }

    pub(in crate::buffer) fn raw_view(&self) -> &View {
        self.seen.get()
    }

    pub(in crate::buffer) fn offset(&self) -> u64 {
        self.packed.offset()
    }

    pub(in crate::buffer) fn span(&self) -> Span<'_> {
        Span { view: self.seen.get(), offset: self.packed.offset(), len: self.buffer.size }
    }

    /// Checks that the mapping allows `access`.
    pub(in crate::buffer) fn check_access(&self, access: Access) -> Result<()> {
        let opened = self.access();
        let allowed = match access {
            Access::Read => opened.reads(),
            _ => opened.writes(),
        };
        if allowed {
            return Ok(());
        }
        Err(Error::WrongAccess { buffer: self.buffer.name(), opened, used: access })
    }

    /// Checks that the buffer is still where this is a view of, and may be used. What was found holds only
    /// as long as the reservation is held.
    #[inline]
    pub(in crate::buffer) fn check_current(&self) -> Result<()> {
        self.buffer.check_generation(self.generation)
    }

    #[cold]
    fn make_ready(&self) -> Result<()> {
        // Without the reservation, which an old mapping does not need.
        self.check_current()?;
        let owned = || self.buffer.lock_owned();
        let device = self.device_inner().id();
        let _state = retry_on_oom(&self.buffer.set, device, [&*self.buffer], owned)?;
        // Under the reservation: what was made its owner's is the current place, and only that.
        self.check_current()?;
        self.buffer.status.set_ready(true);
        Ok(())
    }

    pub(in crate::buffer) fn device_inner(&self) -> &Arc<DeviceInner> {
        self.seen.get().device()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        let device = self.seen.get().device().id();
        let left = state.unmap(self.seat, device, self.generation, self.buffer.generation());
        let take_drained = state.take_drained();
        drop(state);
        // After the reservation: those who wait for it take that next.
        drop(take_drained);
        self.buffer.retire(left);
        self.buffer.core().live.died(Object::Mapping);
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("buffer", &self.buffer.name())
            .field("device", &self.seen.get().device().name())
            .field("generation", &self.generation)
            .field("access", &self.access())
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Mapping>();
    assert!(size_of::<Mapping>() == 32, "two share a cache line");
};

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
use crate::memory::{Backing, Changes, SLOT_ALIGN, VIEW_LIMIT, View};
use crate::observe::{Object, note_look};
use crate::sync::Fences;
use crate::sync::primitive::atomic::{AtomicU64, Ordering};
use crate::transfer::{self, Scope, Span};

/// A device's view of one generation of a [`SharedBuffer`], from [`crate::Attachment::map`].
///
/// A mapping of a static attachment keeps the buffer in its backing. A mapping of a dynamic attachment does
/// not: once the buffer has moved, the mapping is stale ([`Error::Stale`]). Its handles stay valid until it is
/// dropped, but name the backing that the buffer has left. Once the buffer is revoked, the mapping has no view
/// any more ([`Error::Revoked`]), and the revocation waits for its drop.
///
/// A mapping may be dropped anywhere, also under an application's queue lock and in a callback of peerbuf: the drop
/// waits for no lock.
///
/// Drop the mapping only after the device has finished the work that the application submitted with its
/// handles. For work that peerbuf submits, the buffer's fences keep the memory alive.
///
/// # Invariants
///
/// The mapping is counted in the buffer's state, by its attachment, device and generation, from its creation to
/// its drop.
///
/// While the view's count of changes is `seen`, the buffer is in the mapping's generation, may be used, and its bytes are
/// valid and in place.
// In this order: the fields that a look-up reads are together. There may be a million mappings, and the buffer of each is
// one more cache miss, which a look-up does without.
#[repr(C)]
pub struct Mapping {
    view: ViewRef,
    packed: PackedView,
    /// Release and acquire: a thread that finds the count sees what the thread has seen that stored it.
    seen: AtomicU64,
    buffer: Arc<BufferInner>,
    id: AttachmentId,
    generation: u32,
}

/// The offset of a mapping's bytes in its allocation, the buffer's size if it is below 4 MiB, and the access that the mapping
/// allows, in one word.
///
/// # Invariants
///
/// Bits 0 and 1 encode the access, 2 to 23 the size (0 if it is larger), and the rest the offset, in units of 256 bytes.
#[derive(Clone, Copy)]
struct PackedView(u64);

const SIZE_SHIFT: u32 = 2;
const OFFSET_SHIFT: u32 = 24;

/// Sizes below this are in a [`PackedView`].
const SMALL: u64 = 1 << (OFFSET_SHIFT - SIZE_SHIFT);

const _: () = assert!((VIEW_LIMIT - 1) / SLOT_ALIGN <= u64::MAX >> OFFSET_SHIFT, "an offset fits");

impl PackedView {
    fn new(offset: u64, size: u64, access: Access) -> Self {
        debug_assert!(offset.is_multiple_of(SLOT_ALIGN) && offset < VIEW_LIMIT, "within a view");
        let access = match access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        };
        let size = if size < SMALL { size } else { 0 };
        Self((offset / SLOT_ALIGN) << OFFSET_SHIFT | size << SIZE_SHIFT | access)
    }

    #[inline]
    fn offset(self) -> u64 {
        (self.0 >> OFFSET_SHIFT) * SLOT_ALIGN
    }

    /// The size of the buffer, which is never 0; `None` if it is not known here.
    #[inline]
    fn size(self) -> Option<u64> {
        Some(self.0 >> SIZE_SHIFT & (SMALL - 1)).filter(|&size| size > 0)
    }

    fn access(self) -> Access {
        match self.0 & 3 {
            0 => Access::Read,
            1 => Access::Write,
            _ => Access::ReadWrite,
        }
    }
}

/// The Vulkan handles that a device needs to use a buffer. They are valid while the [`Mapping`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawView {
    /// The Vulkan buffer that contains the bytes. It spans a whole slab: use `offset` and `size`.
    pub buffer: vk::Buffer,
    /// Offset of the first byte in `buffer`, in bytes; a multiple of 256.
    pub offset: u64,
    /// Size of the shared buffer, in bytes.
    pub size: u64,
    /// The memory that `buffer` is bound to, at offset 0.
    pub memory: vk::DeviceMemory,
}

impl Mapping {
    /// Creates a mapping for the attachment `id`. `state` is that of the locked reservation, and `current` the
    /// device's view of the backing that the buffer is in.
    pub(super) fn new(
        buffer: &Arc<BufferInner>,
        state: &mut State,
        id: AttachmentId,
        current: &CurrentView,
        access: Access,
    ) -> Self {
        buffer.core().live.born(Object::Mapping);
        state.map(id);
        // INVARIANT: counted just now; the count is released in `drop`.
        Self {
            generation: buffer.generation(),
            view: current.view,
            packed: PackedView::new(current.offset, buffer.size, access),
            seen: AtomicU64::new(Changes::NEVER),
            buffer: Arc::clone(buffer),
            id,
        }
    }

    /// Makes the mapping a view of the current generation, for the attachment `id`. `state` is that of the
    /// locked reservation, and `current` the device's view of the backing that the buffer is in.
    ///
    /// Returns the backing that was left, if this was its last mapping. The caller must retire it after
    /// unlocking the reservation.
    #[inline]
    pub(super) fn replace(
        &mut self,
        state: &mut State,
        id: AttachmentId,
        current: &CurrentView,
    ) -> Option<(Fences, Backing)> {
        let generation = self.buffer.generation();
        state.map(id);
        let device = self.view.get().device().id();
        let left = state.unmap(self.id, device, self.generation, generation);
        // INVARIANT: counted above for the new generation, and no longer for the old one.
        self.id = id;
        self.packed = PackedView::new(current.offset, self.buffer.size, self.access());
        self.generation = generation;
        self.view = current.view;
        self.seen = AtomicU64::new(Changes::NEVER);
        left
    }

    /// Returns the buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        Device(Arc::clone(self.view.get().device()))
    }

    /// Returns the generation of the buffer that this is a view of.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the access that the mapping allows.
    pub fn access(&self) -> Access {
        self.packed.access()
    }

    /// Returns the handles, once the content of the backing is valid and in place.
    ///
    /// The first call since the buffer was created or moved zeroes recycled memory. It waits, for at most the
    /// engine timeout, for a move in progress.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] if the buffer has moved since it was mapped; [`Error::Revoked`]; [`Error::Purged`],
    /// [`Error::Poisoned`] if that was found before, or in the first call; [`Error::Timeout`],
    /// [`Error::DeviceLost`], or the error of a Vulkan or system call.
    ///
    /// Locks: the reservation, in the first call on any mapping of the buffer since it moved; none after that.
    #[inline]
    pub fn view(&self) -> Result<RawView> {
        if self.seen.load(Ordering::Acquire) != self.view.get().changes().now() {
            self.look_at_buffer()?;
        }
        Ok(self.handles())
    }

    /// Looks at the buffer, whose status may have changed since the last look.
    fn look_at_buffer(&self) -> Result<()> {
        note_look();
        // Before the status: a change of that which is not seen below is counted later than this.
        let now = self.view.get().changes().now();
        if !self.buffer.status.is_ready(self.generation) {
            self.make_ready()?;
        }
        // INVARIANT: the status was good after the count was read, and each change of it is counted.
        self.seen.store(now, Ordering::Release);
        Ok(())
    }

    /// The size of the buffer in bytes.
    #[inline]
    fn size(&self) -> u64 {
        self.packed.size().unwrap_or_else(|| self.buffer.size)
    }

    /// Returns the address of the buffer's bytes for shaders of this mapping's device.
    ///
    /// It belongs to the mapping's generation, as the handles do: it changes when the buffer moves. Addresses exist
    /// only where they were asked for: [`crate::EngineDescriptor::device_addresses`],
    /// [`crate::device::AdoptedDevice::device_addresses`].
    ///
    /// # Errors
    ///
    /// As [`Mapping::view`]; [`Error::Unsupported`] if the device has no addresses.
    ///
    /// Locks: as [`Mapping::view`].
    #[doc(alias = "vkGetBufferDeviceAddress")]
    pub fn device_address(&self) -> Result<vk::DeviceAddress> {
        let RawView { offset, .. } = self.view()?;
        let start = self.view.get().device_address().ok_or_else(|| Error::Unsupported {
            device: self.device_inner().name().to_owned(),
            missing: "buffer device addresses: ask for them when the engine is opened".into(),
        })?;
        Ok(start + offset)
    }

    /// Returns the handles without a check of the content.
    #[inline]
    pub(in crate::buffer) fn handles(&self) -> RawView {
        RawView {
            buffer: self.view.get().buffer(),
            offset: self.packed.offset(),
            size: self.size(),
            memory: self.view.get().memory(),
        }
    }

    /// Records the acquire half of a queue-family ownership transfer, before `scope` uses the buffer. It is for
    /// applications that record their own commands.
    ///
    /// # Errors
    ///
    /// As [`Mapping::view`]; nothing is recorded then.
    ///
    /// # Safety
    ///
    /// * `commands` is being recorded, outside a render pass, for the family [`Device::queue_family`] of this
    ///   mapping's device;
    /// * earlier users of the buffer have finished (their fences were waited for), and have released it if they
    ///   were on another device.
    #[expect(unsafe_code, reason = "only the caller knows the state of its command buffer")]
    pub unsafe fn acquire(&self, commands: vk::CommandBuffer, scope: Scope) -> Result<()> {
        self.view()?;
        // SAFETY: the caller's contract.
        unsafe { transfer::acquire(self.view.get().device(), commands, &[self.span()], scope) };
        Ok(())
    }

    /// Records the release half of a queue-family ownership transfer, after `scope` has used the buffer.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::acquire`], which was recorded before it.
    #[expect(unsafe_code, reason = "only the caller knows the state of its command buffer")]
    pub unsafe fn release(&self, commands: vk::CommandBuffer, scope: Scope) {
        // SAFETY: the caller's contract.
        unsafe { transfer::release(self.view.get().device(), commands, &[self.span()], scope) };
    }

    /// The queue family that owns the bytes between uses, for applications that record ownership transfers of their
    /// own ([`Mapping::aliased_buffer`]): `VK_QUEUE_FAMILY_EXTERNAL` or `VK_QUEUE_FAMILY_FOREIGN_EXT`.
    pub fn outside_queue_family(&self) -> u32 {
        transfer::outside_family(self.view.get().device(), self.view.get())
    }

    pub(in crate::buffer) fn buffer_inner(&self) -> &Arc<BufferInner> {
        &self.buffer
    }

    pub(crate) fn shared_view(&self) -> Arc<View> {
        self.view.share()
    }

    /// Whether `view` is its device's view.
    #[inline]
    pub(in crate::buffer) fn is_of_view(&self, view: &View) -> bool {
        std::ptr::eq(self.view.get(), view)
    }

    pub(crate) fn raw_view(&self) -> &View {
        self.view.get()
    }

    pub(crate) fn offset(&self) -> u64 {
        self.packed.offset()
    }

    pub(in crate::buffer) fn span(&self) -> Span<'_> {
        Span { view: self.view.get(), offset: self.packed.offset(), len: self.size() }
    }

    /// Checks that the mapping allows `access`.
    #[inline]
    pub(in crate::buffer) fn check_access(&self, access: Access) -> Result<()> {
        let opened = self.access();
        let allowed = match access {
            Access::Read => opened.reads(),
            _ => opened.writes(),
        };
        if allowed { Ok(()) } else { self.wrong_access(access) }
    }

    #[cold]
    fn wrong_access(&self, used: Access) -> Result<()> {
        Err(Error::WrongAccess { buffer: self.buffer.name(), opened: self.access(), used })
    }

    /// Checks that this is a mapping of the current generation, and that the buffer may be used. The result
    /// stays true only while the reservation is held.
    #[inline]
    pub(in crate::buffer) fn check_current(&self) -> Result<()> {
        self.buffer.check_generation(self.generation)
    }

    #[cold]
    fn make_ready(&self) -> Result<()> {
        // A stale mapping is refused here, before the reservation is locked.
        self.check_current()?;
        let lock_owned = || self.buffer.lock_valid();
        let device = self.device_inner().id();
        let _state = retry_on_oom(&self.buffer.set, device, [&*self.buffer], lock_owned)?;
        // Check again under the reservation: only the content of the current backing was made valid.
        self.check_current()?;
        self.buffer.status.set_ready(true);
        Ok(())
    }

    pub(crate) fn device_inner(&self) -> &Arc<DeviceInner> {
        self.view.get().device()
    }
}

impl Drop for Mapping {
    /// Waits for no lock: if the reservation is taken, its owner removes the mapping.
    fn drop(&mut self) {
        let (id, device, generation) = (self.id, self.view.get().device().id(), self.generation);
        self.buffer.core().live.died(Object::Mapping);
        self.buffer.do_or_defer(move |buffer, state| {
            let left = state.unmap(id, device, generation, buffer.generation());
            buffer.retire(left);
            // After unlocking: the threads that wait for the last user lock the reservation next.
            state.take_drained().map(|drained| Box::new(drained) as _)
        });
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("buffer", &self.buffer.name())
            .field("device", &self.view.get().device().name())
            .field("generation", &self.generation)
            .field("access", &self.access())
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Mapping>();
    #[cfg(not(all(test, peerbuf_shuttle)))]
    assert!(size_of::<Mapping>() == 40, "there may be a million of them");
};

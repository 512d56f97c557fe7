//! A device's view of one generation of a buffer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ash::vk;

use super::access::Access;
use super::own_buffer::OwnBuffer;
use super::shared::{BufferInner, SharedBuffer};
use super::state::State;
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Content, View};
use crate::observe::Object;
use crate::sync::{Fence, Usage};
use crate::transfer::{self, PassReport, Scope, Span, Watch};

/// A device's view of one generation of a [`SharedBuffer`], from [`crate::Attachment::map`].
///
/// While it lives the buffer stays where it is. Drop it when the device has finished with what you
/// submitted; work that peerbuf submits itself is looked after.
pub struct Mapping {
    buffer: Arc<BufferInner>,
    view: Arc<View>,
    offset: u64,
    generation: u32,
    access: Access,
    /// Whether the bytes are known to be this buffer's and in place. Release/acquire: who sees `true`
    /// sees the memory as it was when it was set.
    ready: AtomicBool,
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
    /// The seat has been marked as mapped, under the reservation, which is still held: `state`.
    pub(super) fn new(
        buffer: &Arc<BufferInner>,
        state: &mut State,
        view: Arc<View>,
        access: Access,
    ) -> Self {
        buffer.core.live.born(Object::Mapping);
        // The usual case: somebody has used it before, and nothing is under way.
        let ready = state.backing.content() == Content::Own && state.fences.is_idle();
        Self {
            generation: buffer.generation(),
            buffer: Arc::clone(buffer),
            view,
            offset: state.backing.offset(),
            access,
            ready: AtomicBool::new(ready),
        }
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device(Arc::clone(self.view.device()))
    }

    /// The generation of the buffer that this is a view of.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What it was opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The handles, once the bytes are this buffer's own and in place: the first call scrubs memory
    /// that had another owner, and waits, in bounds, for a move that is still under way.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::DeviceLost`], or what a call said.
    ///
    /// Locks: the reservation, in the first call.
    pub fn view(&self) -> Result<RawView> {
        if !self.ready.load(Ordering::Acquire) {
            self.make_ready()?;
        }
        Ok(RawView {
            buffer: self.view.buffer(),
            offset: self.offset,
            size: self.buffer.size,
            memory: self.view.memory(),
        })
    }

    /// A `VkBuffer` of its own over exactly these bytes, with `usage`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the driver wants the memory for one buffer alone,
    /// [`Error::Misaligned`] where it wants a coarser offset than 256, or what a call said.
    pub fn own_buffer(self: &Arc<Self>, usage: vk::BufferUsageFlags) -> Result<OwnBuffer> {
        OwnBuffer::new(self, usage)
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
        unsafe { transfer::acquire(self.view.device(), commands, &[self.span()], scope) };
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
        unsafe { transfer::release(self.view.device(), commands, &[self.span()], scope) };
    }

    /// Writes the pattern of `seed`, by a compute pass on this device, and waits for it. The buffer's
    /// size must be a multiple of 4.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAccess`], [`Error::Misaligned`], [`Error::Timeout`], [`Error::DeviceLost`].
    pub fn fill(&self, seed: u32) -> Result<()> {
        self.prepare(Access::Write)?;
        self.passes()?.fill(
            self.span(),
            seed,
            &self.watch(&|fence| self.enter(Usage::Write, fence)),
        )
    }

    /// Compares every word with the pattern of `seed`, by a compute pass on this device.
    ///
    /// # Errors
    ///
    /// As [`Mapping::fill`]. Wrong bytes are no error but a report.
    pub fn verify(&self, seed: u32) -> Result<PassReport> {
        self.prepare(Access::Read)?;
        self.passes()?.verify(
            self.span(),
            seed,
            &self.watch(&|fence| self.enter(Usage::Read, fence)),
        )
    }

    /// A sum over all words that depends on their positions, by a compute pass on this device.
    ///
    /// # Errors
    ///
    /// As [`Mapping::fill`].
    pub fn checksum(&self) -> Result<u32> {
        self.prepare(Access::Read)?;
        self.passes()?.checksum(self.span(), &self.watch(&|fence| self.enter(Usage::Read, fence)))
    }

    /// Copies all of this buffer to another one of the same size that the same device has mapped, by a
    /// compute pass instead of the copy engine.
    ///
    /// # Errors
    ///
    /// As [`Mapping::fill`]; [`Error::OutOfBounds`] if the sizes differ; [`Error::Unsupported`] if the
    /// other mapping is of another device.
    pub fn copy_to(&self, target: &Self) -> Result<()> {
        target.buffer.check_range(0, self.buffer.size)?;
        if !Arc::ptr_eq(self.view.device(), target.view.device()) {
            return Err(Error::Unsupported {
                device: self.view.device().name().to_owned(),
                missing: format!("the mapping of {}", target.view.device().name()),
            });
        }
        self.prepare(Access::Read)?;
        target.prepare(Access::Write)?;
        let to = target.span().slice(0, self.buffer.size);
        let submitted = |fence: &Fence| {
            self.enter(Usage::Read, fence);
            target.enter(Usage::Write, fence);
        };
        self.passes()?.copy(self.span(), to, &self.watch(&submitted))
    }

    pub(super) fn buffer_inner(&self) -> &BufferInner {
        &self.buffer
    }

    pub(super) fn raw_view(&self) -> &View {
        &self.view
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn span(&self) -> Span<'_> {
        Span { view: &self.view, offset: self.offset, len: self.buffer.size }
    }

    /// Checks that the mapping allows `access`, and waits for what it may not overlap with.
    fn prepare(&self, access: Access) -> Result<()> {
        let allowed = match access {
            Access::Read => self.access.reads(),
            _ => self.access.writes(),
        };
        if !allowed {
            return Err(Error::WrongAccess {
                buffer: self.buffer.name(),
                opened: self.access,
                used: access,
            });
        }
        self.view()?;
        drop(self.buffer.lock_idle(access.usage().waits_for(), |_| true)?);
        Ok(())
    }

    #[cold]
    fn make_ready(&self) -> Result<()> {
        self.buffer.own(&mut self.buffer.lock())?;
        drop(self.buffer.lock_idle(Usage::Move, |_| true)?);
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Enters a fence into the buffer's reservation.
    fn enter(&self, usage: Usage, fence: &Fence) {
        self.buffer.lock().fences.add(usage, fence.clone());
    }

    fn watch<'a>(&self, submitted: &'a dyn Fn(&Fence)) -> Watch<'a> {
        Watch { timeout: self.buffer.core.timeout, submitted }
    }

    fn passes(&self) -> Result<Arc<transfer::Passes>> {
        self.buffer.core.passes(self.view.device())
    }

    pub(super) fn device_inner(&self) -> &Arc<DeviceInner> {
        self.view.device()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let device = self.view.device().id();
        let mut state = self.buffer.lock();
        if let Some(seat) = state.seat(device) {
            seat.mapped -= 1;
            if !seat.attached {
                state.sweep(device);
            }
        }
        drop(state);
        self.buffer.core.live.died(Object::Mapping);
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("buffer", &self.buffer.name())
            .field("device", &self.view.device().name())
            .field("generation", &self.generation)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Mapping>();
};

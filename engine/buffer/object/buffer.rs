//! The shared buffer, and the set of buffers that it belongs to.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::creation_flags::{CreationFlags, UsageAndMemory};
use super::return_backoff::ReturnBackoff;
use super::set_ref::SetRef;
use super::status::Status;
use crate::buffer::state::{AttachCaps, State};
use crate::core::{Core, EndedExports, ExportTable, Ids, ImportTable, Registry, SlotId};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::memory::{Backing, DomainId, Placement, Provider};
use crate::observe::Object;
use crate::sync::primitive::atomic::{AtomicU16, Ordering};
use crate::sync::primitive::yield_now;
use crate::sync::{Fences, Reservation, Retired, prefetch};

/// A buffer that several devices share. Its identity does not depend on where its bytes are.
///
/// Made by [`crate::Engine::create_buffer`]. A clone is cheap, and is the same buffer. The memory is reused
/// after the last clone, attachment, mapping and export is dropped and the last device has finished with it.
/// Dropping never waits.
///
/// Kernel counterpart: `struct dma_buf`. As there, the size never changes.
#[derive(Clone)]
#[doc(alias = "dma_buf")]
pub struct SharedBuffer(pub(crate) Arc<BufferInner>);

/// # Invariants
///
/// The state's backing holds at least `size` bytes.
// In this order: the fields that a look-up reads are together. An `Arc` begins with 16 bytes of its own, and
// memory comes in multiples of 16, so the first 16 bytes here are always on one cache line.
#[repr(C)]
pub(crate) struct BufferInner {
    // Constant after creation, except the status, the home and the back-off.
    pub(in crate::buffer) size: u64,
    /// The generation and the status flags. Written under the reservation.
    pub(in crate::buffer) status: Status,
    /// The number of the home device. Written under the reservation. Relaxed: code that relies on it holds
    /// the reservation.
    home: AtomicU16,
    pub(in crate::buffer) flags: CreationFlags,
    /// Whether the buffer is outside its preferred domain, and when a restore is tried again.
    pub(in crate::buffer) backoff: ReturnBackoff,
    pub(in crate::buffer) set: SetRef<Buffers>,
    /// The reservation: the one lock of the buffer (kernel: `dma_resv`).
    pub(in crate::buffer) reservation: Reservation<State>,
    slot: SlotId,
    pub(in crate::buffer) usage: UsageAndMemory,
    id: u64,
}

// With the 16 bytes of its `Arc` and the registry's slot of 8, each live buffer has 120 bytes. What only some
// have is elsewhere: further attachments, decisions and rare state behind one pointer of the state, names in
// the registry.
#[cfg(not(all(test, peerbuf_shuttle)))]
const _: () = assert!(size_of::<BufferInner>() <= 96, "there may be a million of them");

/// All buffers of one engine, with the engine's services. Every buffer holds a reference to its set.
// Dropped in this order: the services wait for unfinished work before the lists are dropped.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub(crate) core: Core,
    /// All live buffers.
    pub(in crate::buffer) live: Registry<BufferInner>,
    /// Exported buffers by the identity of the file.
    pub(in crate::buffer) exports: ExportTable<BufferInner>,
    /// Buffers that move to other memory before their next use, because the exported one is known outside.
    pub(in crate::buffer) ended_exports: EndedExports<BufferInner>,
    /// Imported buffers by the identity of the file.
    pub(in crate::buffer) imports: ImportTable<BufferInner>,
    /// The number of buffers with a clean copy. Relaxed: it only says whether a search makes sense.
    pub(in crate::buffer) clean_copies: AtomicUsize,
    /// Where the last search for clean copies to drop ended in the registry. Relaxed: any start will do.
    pub(in crate::buffer) clean_at: AtomicUsize,
    /// Whether a thread empties sparse blocks.
    pub(in crate::buffer) compacting: AtomicBool,
    /// Where the last one ended in the registry. Relaxed: any start will do.
    pub(in crate::buffer) compacted_at: AtomicUsize,
    /// The numbers of buffers.
    pub(in crate::buffer) ids: Ids,
}

/// The properties of a new buffer that has no slot in the registry yet.
pub(in crate::buffer) struct Made {
    pub(in crate::buffer) id: u64,
    pub(in crate::buffer) home: DeviceId,
    pub(in crate::buffer) size: u64,
    pub(in crate::buffer) usage: UsageAndMemory,
    pub(in crate::buffer) flags: CreationFlags,
    /// Whether its backing is in another domain than the one it prefers.
    pub(in crate::buffer) is_displaced: bool,
    pub(in crate::buffer) name: Option<Box<str>>,
}

impl BufferInner {
    /// Makes a buffer and registers it. `state` makes the state for its slot.
    pub(in crate::buffer) fn new(
        set: SetRef<Buffers>,
        made: Made,
        state: impl FnOnce(&Core, SlotId) -> State,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            let slot = set.live.add(this.clone(), made.name);
            let state = state(&set.core, slot);
            Self {
                size: made.size,
                status: Status::default(),
                home: AtomicU16::new(made.home.0),
                flags: made.flags,
                backoff: ReturnBackoff::new(u8::from(made.is_displaced)),
                set,
                reservation: Reservation::new(state),
                slot,
                usage: made.usage,
                id: made.id,
            }
        })
    }
}

impl SharedBuffer {
    /// The buffer's number in its engine, which never changes and is never reused.
    ///
    /// Reports ([`crate::observe::BufferReport::id`]), traces and [`crate::Invalidation::buffer_id`] name the
    /// buffer by it.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The size in bytes. It never changes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The engine's services.
    pub(crate) fn services(&self) -> &Core {
        self.0.core()
    }

    /// The name; without one, "buffer" and a number.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// The home device: its memory is the buffer's VRAM, and it copies the bytes when the buffer moves.
    pub fn home(&self) -> Device {
        Device(self.0.home())
    }

    /// Where devices may use it.
    pub fn placement(&self) -> Placement {
        self.0.placement()
    }

    /// The domain of the bytes; of a purged buffer, the last one.
    ///
    /// Locks: the reservation.
    pub fn domain(&self) -> DomainId {
        self.0.lock().location().domain()
    }

    /// The provider of the memory; of a purged buffer, the last one.
    ///
    /// Locks: the reservation.
    pub fn provider(&self) -> Provider {
        self.0.lock().location().provider()
    }

    /// The number of moves so far. A [`crate::Mapping`] has the generation that it was made in.
    pub fn generation(&self) -> u32 {
        self.0.generation()
    }

    /// Sets the generation, for tests of numbers that come round. Nothing may be mapped. With the feature `testing`
    /// alone.
    #[cfg(feature = "testing")]
    pub fn model_generation(&self, generation: u32) {
        let state = self.0.lock();
        assert!(
            state.attachments().all(|attachment| attachment.mapped() == 0),
            "nothing is mapped"
        );
        self.0.status.set_generation(generation);
    }

    /// Whether peerbuf can move it. A buffer that was imported from an external fd stays where it is.
    pub fn is_dynamic(&self) -> bool {
        !matches!(self.provider(), Provider::Foreign(_))
    }

    /// Whether both handles name the same buffer, as `==` says too.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl BufferInner {
    pub(in crate::buffer) fn name(&self) -> String {
        self.given_name().map_or_else(|| format!("buffer {}", self.id), String::from)
    }

    /// Loads it ahead of a use. It has up to three cache lines.
    #[inline]
    pub(in crate::buffer) fn prefetch(&self) {
        prefetch(self);
    }

    /// The engine's services.
    #[inline]
    pub(in crate::buffer) fn core(&self) -> &Core {
        &self.set.core
    }

    /// The slot in the registry.
    pub(in crate::buffer) fn slot(&self) -> SlotId {
        self.slot
    }

    /// The number of the buffer in its engine.
    pub(in crate::buffer) fn id(&self) -> u64 {
        self.id
    }

    /// The name, if it has one.
    pub(in crate::buffer) fn given_name(&self) -> Option<Box<str>> {
        if self.flags.is_named() { self.set.live.name(self.slot) } else { None }
    }

    /// Where devices may use it.
    pub(in crate::buffer) fn placement(&self) -> Placement {
        self.flags.placement()
    }

    /// Whether its placement allows uses by devices only in a device's memory.
    #[inline]
    pub(in crate::buffer) fn is_vram_only(&self) -> bool {
        self.placement() == Placement::Vram
    }

    /// Whether its memory need not be exportable while only its home device is attached.
    pub(in crate::buffer) fn is_private(&self) -> bool {
        self.flags.is_private()
    }

    /// Whether it may be in one device's own memory while other devices are attached.
    pub(in crate::buffer) fn peer_to_peer(&self) -> bool {
        self.flags.peer_to_peer()
    }

    /// What a device may do with the buffer to copy it.
    pub(in crate::buffer) fn caps_of(&self, device: DeviceId) -> AttachCaps {
        AttachCaps { device, peer_to_peer: self.peer_to_peer() }
    }

    /// A counted reference to the home device.
    ///
    /// **Invariant:** a device that has left is the home of no live buffer. Its unplug, which takes each reservation,
    /// gives the buffer another home, and a home is set under the reservation, to a device that is not unplugged. While
    /// a removal counts the references, it looks for buffers whose home the device is, and gives up if it finds one.
    pub(in crate::buffer) fn home(&self) -> Arc<DeviceInner> {
        loop {
            if let Some(home) = self.core().devices.device(self.home_id()) {
                return home;
            }
            // The home has changed since it was read.
            yield_now();
        }
    }

    /// Whether the device is the home device. Reads no lock: only a removal that no thread can overtake relies on it.
    pub(in crate::buffer) fn is_home(&self, device: DeviceId) -> bool {
        self.home_id() == device
    }

    pub(in crate::buffer) fn home_id(&self) -> DeviceId {
        DeviceId(self.home.load(Ordering::Relaxed))
    }

    #[inline]
    pub(in crate::buffer) fn generation(&self) -> u32 {
        self.status.generation()
    }

    /// Whether the buffer is outside its preferred domain. Read without the reservation: it may change at any
    /// time.
    pub(in crate::buffer) fn is_displaced(&self) -> bool {
        self.backoff.is_displaced()
    }

    /// Begins the next generation, with this home device. `state` is that of the locked reservation, and has the new location
    /// already.
    pub(in crate::buffer) fn next_generation(&self, state: &State, home: DeviceId) {
        self.set_home(home);
        let left = self.generation();
        self.status.next_generation(|number| state.knows_generation(number));
        // Without mappings of the last generation it is no ghost, and nothing shows it.
        if let Some(ghost) = state.ghosts().find(|ghost| ghost.generation == left) {
            ghost.allocation().note_change();
        }
    }

    /// Notes that the status has lost what mappings of the current generation rely on. `state` is that of the locked
    /// reservation.
    pub(in crate::buffer) fn note_change(&self, state: &State) {
        // Without a backing there is no such mapping.
        if let Some(backing) = state.location().backing() {
            backing.allocation().note_change();
        }
    }

    /// Sets the home device. The reservation must be held.
    pub(in crate::buffer) fn set_home(&self, home: DeviceId) {
        self.home.store(home.0, Ordering::Relaxed);
    }

    /// Retires a backing that has no mappings any more. To be called without the reservation, because it may
    /// take a pool's lock.
    pub(in crate::buffer) fn retire(&self, left: Option<(Fences, Backing)>) {
        if let Some((fences, backing)) = left {
            self.core().retire.push(fences, Retired::Backing(backing));
        }
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        let state = self.reservation.get_mut();
        // Unlisted before another buffer can get the slot in the registry.
        if let Some((order, slot)) = state.entry_mut().take_slot() {
            self.set.core.domain_state(order).eviction_list.remove(slot);
        }
        self.set.core.bulk_groups.forget(self.slot);
        self.set.core.groups.left(state.location().group());
        self.set.live.vacate(self.slot, self.flags.is_named());
        if let Some(clean) = state.set_clean(None) {
            self.set.clean_copies.fetch_sub(1, Ordering::Relaxed);
            if let Some((fences, backing)) = clean.into_backing() {
                self.set.core.retire.push(fences, Retired::Backing(backing));
            }
        }
        if state.fences().is_idle() {
            if let Some(backing) = state.location_mut().take() {
                self.set.core.recycle(backing);
            }
        } else {
            // A device still uses it: the memory is reused when that work has ended.
            let fences = std::mem::take(state.fences());
            if let Some(backing) = state.location_mut().take() {
                self.set.core.retire.push(fences, Retired::Backing(backing));
            }
        }
        self.set.core.live.died(Object::Buffer);
    }
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SharedBuffer");
        out.field("name", &self.name()).field("size", &self.size());
        out.field("generation", &self.generation());
        // The caller may hold the reservation.
        match self.0.reservation.try_lock(&self.0.core().queues) {
            Some(state) => out.field("domain", &state.location().domain()),
            None => out.field("domain", &"(locked)"),
        };
        out.finish_non_exhaustive()
    }
}

/// Handles are equal if they are the same buffer, whatever its content.
impl PartialEq for SharedBuffer {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

impl Eq for SharedBuffer {}

impl Hash for SharedBuffer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<SharedBuffer>();
};

impl fmt::Debug for BufferInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferInner").field("name", &self.name()).finish_non_exhaustive()
    }
}

//! The shared buffer: identity, size, current backing, generation, reservation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use ash::vk;

use super::creation_flags::CreationFlags;
use super::return_backoff::ReturnBackoff;
use super::status::Status;
use crate::buffer::state::State;
use crate::core::{Core, ExportTable, Registry, SlotId};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::memory::{Backing, DomainId, Placement, Provider};
use crate::observe::Object;
use crate::sync::primitive::atomic::{AtomicU16, Ordering};
use crate::sync::{Fences, Reservation, Retired};

/// A buffer that several devices share: a name that outlives every place it lives in.
///
/// Made by [`crate::Engine::create_buffer`]. Cheap to clone; all clones are the same buffer, whose
/// memory goes to the next owner when the last clone, attachment, mapping and export is gone and the
/// last device has finished with it. Dropping never waits.
///
/// Kernel counterpart: `struct dma_buf`. Size is invariant over its life.
#[derive(Clone)]
#[doc(alias = "dma_buf")]
pub struct SharedBuffer(pub(crate) Arc<BufferInner>);

/// # Invariants
///
/// The state's backing holds at least `size` bytes.
// In this order: what a look-up reads lies together. An `Arc` begins with 16 bytes of its own and memory
// comes in multiples of 16, so the first 16 here are always on one cache line.
#[repr(C)]
pub(crate) struct BufferInner {
    // Constant after creation, but for the standing, the home and `away`.
    pub(in crate::buffer) size: u64,
    /// How often it has moved, and how it stands. Written under the reservation.
    pub(in crate::buffer) status: Status,
    /// Written under the reservation. Relaxed: whoever relies on it holds that.
    home: AtomicU16,
    pub(in crate::buffer) flags: CreationFlags,
    /// Whether it is elsewhere than it wants to be.
    pub(in crate::buffer) backoff: ReturnBackoff,
    pub(in crate::buffer) set: Arc<Buffers>,
    /// The reservation: the one lock of the buffer (kernel: `dma_resv`).
    pub(in crate::buffer) reservation: Reservation<State>,
    slot: SlotId,
    pub(in crate::buffer) usage: vk::BufferUsageFlags,
    id: u64,
}

// With the 16 bytes of its `Arc` and the registry's slot of 8 that is 120 for each live buffer. What not all
// of them have is elsewhere: seats beyond two, decisions and all that is rare behind one pointer of the
// state, names in the registry.
#[cfg(not(all(test, peerbuf_shuttle)))]
const _: () = assert!(size_of::<BufferInner>() <= 96, "there may be a million of them");

/// The set that a buffer belongs to.
// Dropped in this order: the engine's services wait for what is still running before the lists go.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub(crate) core: Core,
    /// Every buffer that is alive.
    pub(in crate::buffer) live: Registry<BufferInner>,
    /// Buffers that were exported, by the identity of the file.
    pub(in crate::buffer) exports: ExportTable<BufferInner>,
    /// How many buffers keep a clean copy. Relaxed: it says whether to look for any.
    pub(in crate::buffer) clean_copies: AtomicUsize,
    /// Where in the registry one was given up last. Relaxed: whose goes next is no matter.
    pub(in crate::buffer) clean_at: AtomicUsize,
    pub(super) next: AtomicU64,
}

/// What a new buffer is, before it has a slot in the registry.
pub(in crate::buffer) struct Made {
    pub(in crate::buffer) id: u64,
    pub(in crate::buffer) home: DeviceId,
    pub(in crate::buffer) size: u64,
    pub(in crate::buffer) usage: vk::BufferUsageFlags,
    pub(in crate::buffer) flags: CreationFlags,
    /// Whether its backing is in another domain than the one it prefers.
    pub(in crate::buffer) is_displaced: bool,
    pub(in crate::buffer) name: Option<Box<str>>,
}

impl BufferInner {
    /// A buffer in the registry, with the state that `state` makes for its slot.
    pub(in crate::buffer) fn new(
        set: &Arc<Buffers>,
        made: Made,
        state: impl FnOnce(SlotId) -> State,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            let slot = set.live.add(this.clone(), made.name);
            Self {
                size: made.size,
                status: Status::default(),
                home: AtomicU16::new(made.home.0),
                flags: made.flags,
                backoff: ReturnBackoff::new(u8::from(made.is_displaced)),
                set: Arc::clone(set),
                reservation: Reservation::new(state(slot)),
                slot,
                usage: made.usage,
                id: made.id,
            }
        })
    }
}

impl SharedBuffer {
    /// Its size in bytes; never changes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Its name, or a number if it was given none.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// The device it is at home on: whose memory is its VRAM, and which moves it.
    pub fn home(&self) -> Device {
        Device(Arc::clone(&self.0.core().member(self.0.home_id()).device))
    }

    /// Where it may live.
    pub fn placement(&self) -> Placement {
        self.0.placement()
    }

    /// Where its bytes are; of a purged buffer, where they were.
    ///
    /// Locks: the reservation.
    pub fn domain(&self) -> DomainId {
        self.0.lock().location.domain()
    }

    /// Who provides its memory; of a purged buffer, who did.
    ///
    /// Locks: the reservation.
    pub fn provider(&self) -> Provider {
        self.0.lock().location.provider()
    }

    /// How often it has moved. A [`crate::Mapping`] tells which generation it is of.
    pub fn generation(&self) -> u32 {
        self.0.generation()
    }

    /// Whether peerbuf can move it. A buffer that came in as a stranger's fd stays where it is.
    pub fn is_dynamic(&self) -> bool {
        !matches!(self.provider(), Provider::Foreign(_))
    }

    /// Whether two handles are the same buffer.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl BufferInner {
    pub(in crate::buffer) fn name(&self) -> String {
        self.given_name().map_or_else(|| format!("buffer {}", self.id), String::from)
    }

    /// The services of its engine.
    #[inline]
    pub(in crate::buffer) fn core(&self) -> &Core {
        &self.set.core
    }

    /// Its slot in the registry.
    pub(in crate::buffer) fn slot(&self) -> SlotId {
        self.slot
    }

    /// Its number in this engine.
    pub(in crate::buffer) fn id(&self) -> u64 {
        self.id
    }

    /// The name that it was given.
    pub(in crate::buffer) fn given_name(&self) -> Option<Box<str>> {
        if self.flags.is_named() { self.set.live.name(self.slot) } else { None }
    }

    /// Where it may live.
    pub(in crate::buffer) fn placement(&self) -> Placement {
        self.flags.placement()
    }

    /// Whether it may be in a device's own memory while others are attached.
    pub(in crate::buffer) fn peer_to_peer(&self) -> bool {
        self.flags.peer_to_peer()
    }

    pub(in crate::buffer) fn home(&self) -> Arc<DeviceInner> {
        Arc::clone(&self.core().member(self.home_id()).device)
    }

    pub(in crate::buffer) fn home_id(&self) -> DeviceId {
        DeviceId(self.home.load(Ordering::Relaxed))
    }

    #[inline]
    pub(in crate::buffer) fn generation(&self) -> u32 {
        self.status.generation()
    }

    /// Says that the buffer is now elsewhere, and at home on `home`. The reservation is held.
    pub(in crate::buffer) fn next_generation(&self, home: DeviceId) {
        self.settle_at(home);
        self.status.next_generation();
    }

    /// Says that the buffer, where it is, is now at home on `home`. The reservation is held.
    pub(in crate::buffer) fn settle_at(&self, home: DeviceId) {
        self.home.store(home.0, Ordering::Relaxed);
    }

    /// Gives up a place that the last mapping has left. Without the reservation: it may take a pool's lock.
    pub(in crate::buffer) fn retire(&self, left: Option<(Fences, Backing)>) {
        if let Some((fences, backing)) = left {
            self.core().retire.push(fences, Retired::Backing(backing));
        }
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        let state = self.reservation.get_mut();
        // Before its number in the registry is somebody else's.
        if let Some((order, slot)) = state.entry.take_slot() {
            self.set.core.domain_state(order).eviction_list.remove(slot);
        }
        self.set.core.bulk_groups.forget(self.slot);
        self.set.core.groups.left(state.location.group());
        self.set.live.vacate(self.slot, self.flags.is_named());
        if let Some(clean) = state.set_clean(None) {
            self.set.clean_copies.fetch_sub(1, Ordering::Relaxed);
            if let Some((fences, backing)) = clean.into_backing() {
                self.set.core.retire.push(fences, Retired::Backing(backing));
            }
        }
        if !state.fences.is_idle() {
            // A device is still at work on it: its memory goes to the next owner when that has ended.
            let fences = std::mem::take(&mut state.fences);
            if let Some(backing) = state.location.take() {
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
        // Whoever prints may hold the reservation.
        match self.0.reservation.try_lock(&self.0.core().queues) {
            Some(state) => out.field("domain", &state.location.domain()),
            None => out.field("domain", &"(locked)"),
        };
        out.finish_non_exhaustive()
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

impl BufferInner {
    /// Whether it is elsewhere than it wants to be. A look without the reservation: it may change at once.
    pub(in crate::buffer) fn is_displaced(&self) -> bool {
        self.backoff.is_displaced()
    }
}

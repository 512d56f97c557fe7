//! Pools: the slabs of one provider, and its unused allocations kept for reuse.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::allocation::Allocation;
use super::backing::Backing;
use super::origin::Origin;
use super::provider::Provider;
use super::size_class::{CLASSES, class_of, dedicated_size, is_dedicated, slot_size};
use super::slab::{Cut, Recycle, Slab, SlabSlots};
use crate::error::{Error, Result};

/// Bytes of the first and of the largest slab of a class.
///
/// Slabs double up to the largest size. So a few buffers do not occupy 64 MiB of VRAM, and 100,000 buffers of
/// 4 KiB need ten slabs.
const FIRST_SLAB: u64 = 1 << 20;
const LARGEST_SLAB: u64 = 64 << 20;

/// The least number of slots of a slab.
const MIN_SLOTS: u64 = 8;

/// Bytes of unused dedicated allocations that are kept for reuse.
const WARM_BYTES: u64 = 256 << 20;

/// All memory that one provider has allocated.
#[derive(Debug)]
pub(crate) struct Pool {
    origin: Origin,
    // Each protected by its own mutex. Taken before an allocation's lock, after a reservation.
    classes: [Mutex<Class>; CLASSES],
    /// Unused whole slabs, kept for reuse.
    warm: Mutex<Vec<Arc<Slab>>>,
}

/// The slabs of one slot size.
#[derive(Debug, Default)]
struct Class {
    /// By [`Cut::index`]; trimming leaves holes.
    slabs: Vec<Option<SlabSlots>>,
    /// Positions of slabs that have a free slot; the last one is used first.
    open: Vec<usize>,
}

impl Pool {
    pub(crate) fn new(origin: Origin) -> Arc<Self> {
        Arc::new(Self {
            origin,
            classes: [const { Mutex::new(Class { slabs: Vec::new(), open: Vec::new() }) }; CLASSES],
            warm: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn provider(&self) -> Provider {
        self.origin.provider
    }

    /// Allocates a backing for `size` bytes: a slot of a slab, or an allocation of its own if it is large or
    /// must be `dedicated`. The caller has charged the domain for it ([`super::footprint`]); dropping the backing
    /// uncharges it.
    ///
    /// Locks: the size class'; a new slab is allocated under it.
    pub(crate) fn allocate(self: &Arc<Self>, size: u64, dedicated: bool) -> Result<Backing> {
        if is_dedicated(size, dedicated) {
            self.allocate_dedicated(size)
        } else {
            self.allocate_slot(size)
        }
    }

    /// Allocates a backing that shares its memory with no other buffer, whatever its size.
    ///
    /// The allocation is new, or was another buffer's before; never one that is known outside this process.
    fn allocate_dedicated(self: &Arc<Self>, size: u64) -> Result<Backing> {
        let rounded = dedicated_size(size).ok_or_else(|| Error::too_large(size))?;
        if let Some(warm) = self.take_warm(rounded) {
            return Ok(Backing::dedicated(warm, true));
        }
        let allocation = Allocation::create(&self.origin, rounded)?;
        let stale = !allocation.is_zeroed();
        Ok(Backing::dedicated(Slab::whole(allocation, Some(self.weak())), stale))
    }

    fn allocate_slot(self: &Arc<Self>, size: u64) -> Result<Backing> {
        let index = class_of(size);
        let mut class = self.class(index);
        loop {
            let Some(&open) = class.open.last() else {
                self.grow(&mut class, index)?;
                continue;
            };
            let Some(Some(slots)) = class.slabs.get_mut(open) else {
                unreachable!("an open slab is in the list")
            };
            let Some(taken) = slots.take() else { unreachable!("an open slab has a free slot") };
            let backing = Backing::slot(Arc::clone(&slots.slab), taken.slot, taken.stale);
            if slots.is_full() {
                class.open.pop();
            }
            return Ok(backing);
        }
    }

    #[cold]
    fn grow(self: &Arc<Self>, class: &mut Class, index: usize) -> Result<()> {
        let slot_size = slot_size(index);
        // CAST: the number of slabs of a class.
        let doublings = class.slabs.iter().flatten().count().min(16) as u32;
        let size = (FIRST_SLAB << doublings).max(slot_size * MIN_SLOTS).min(LARGEST_SLAB);
        let size = size.max(slot_size * MIN_SLOTS);
        // A multiple of the slot size, and of a megabyte where memory is imported by address.
        let allocation = Allocation::create(&self.origin, size)?;
        let hole = class.slabs.iter().position(Option::is_none);
        let position = hole.unwrap_or(class.slabs.len());
        let cut = Cut { class: index, index: position };
        let slots = SlabSlots::new(Slab::cut(allocation, slot_size, self.weak(), cut));
        match hole {
            Some(hole) => class.slabs[hole] = Some(slots),
            None => class.slabs.push(Some(slots)),
        }
        class.open.push(position);
        tracing::debug!(provider = %self.origin.provider, size, slot_size, "slab allocated");
        Ok(())
    }

    /// Frees unused memory; returns how many bytes.
    pub(crate) fn trim(&self) -> u64 {
        let mut freed: Vec<Arc<Slab>> = std::mem::take(&mut *self.warm());
        for index in 0..CLASSES {
            let mut class = self.class(index);
            for position in 0..class.slabs.len() {
                let unused = class.slabs[position].as_ref().is_some_and(SlabSlots::is_unused);
                if let Some(slots) = class.slabs[position].take_if(|_| unused) {
                    freed.push(Arc::clone(&slots.slab));
                    class.open.retain(|&open| open != position);
                }
            }
        }
        freed.iter().map(|slab| slab.allocation.size()).sum()
    }

    fn take_warm(&self, size: u64) -> Option<Arc<Slab>> {
        let mut warm = self.warm();
        let index = warm.iter().rposition(|slab| slab.allocation.size() == size)?;
        Some(warm.swap_remove(index))
    }

    fn class(&self, index: usize) -> MutexGuard<'_, Class> {
        self.classes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warm(&self) -> MutexGuard<'_, Vec<Arc<Slab>>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reference that its slabs keep.
    fn weak(self: &Arc<Self>) -> Weak<dyn Recycle> {
        let weak: Weak<Self> = Arc::downgrade(self);
        weak
    }
}

impl Recycle for Pool {
    fn release_slot(&self, cut: Cut, slot: u32, stale: bool) {
        let mut class = self.class(cut.class);
        let Some(Some(slots)) = class.slabs.get_mut(cut.index) else {
            unreachable!("a slab with a slot in use is in the list")
        };
        let was_full = slots.is_full();
        slots.give_back(slot, stale);
        if was_full {
            class.open.push(cut.index);
        }
    }

    /// Keeps it for reuse, up to [`WARM_BYTES`].
    fn recycle(&self, whole: Arc<Slab>) {
        let mut warm = self.warm();
        let kept: u64 = warm.iter().map(|slab| slab.allocation.size()).sum();
        if kept + whole.allocation.size() <= WARM_BYTES {
            warm.push(whole);
        } else {
            drop(warm);
            drop(whole);
        }
    }
}

//! Pools: the slabs of one provider for one set of devices, and its unused allocations kept for reuse.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::allocation::Allocation;
use super::backing::Backing;
use super::device_set::DeviceSet;
use super::memory_type::MemoryPriority;
use super::origin::Origin;
use super::provider::Provider;
use super::size_class::{CLASSES, Fit, fit, slot_size};
use super::slab::{Cut, Recycle, Slab, SlabSlots};
use crate::error::{Error, Result};

/// Bytes of the first and of the largest slab of a class; a slab has at least one slot.
///
/// Slabs double up to the largest size. So a few buffers do not occupy 64 MiB of VRAM, and 100,000 buffers of
/// 4 KiB need fourteen slabs. The first slab is small, because there are a hundred classes.
const FIRST_SLAB: u64 = 256 << 10;
const LARGEST_SLAB: u64 = 64 << 20;

/// A slab takes at most this part of its heap, so that a small heap is not used up by the first classes.
const HEAP_PARTS: u64 = 16;

/// By how much a slab shrinks after memory for it was refused.
const SHRINK: u64 = 8;

/// Bytes of unused dedicated allocations that are kept for reuse.
const WARM_BYTES: u64 = 256 << 20;

/// All memory that one provider has allocated for buffers that the same devices share. No other device imports it, except
/// for a buffer that could not move when the device attached it.
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

    pub(crate) fn sharers(&self) -> DeviceSet {
        self.origin.sharers
    }

    /// Allocates a backing for `size` bytes: a slot of a slab, or an allocation of its own if it is large or
    /// must be `dedicated`. Only the latter has the buffer's `priority`. No allocation exceeds `limit` bytes, unless the buffer itself does. The caller has charged
    /// the domain for it ([`super::footprint`] with the same limit); dropping the backing uncharges it.
    ///
    /// Locks: the size class'; a new slab is allocated under it.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        size: u64,
        (dedicated, priority): (bool, MemoryPriority),
        limit: u64,
    ) -> Result<Backing> {
        match fit(size, dedicated, limit).ok_or_else(|| Error::too_large(size))? {
            Fit::Slot(class) => self.allocate_slot(class, limit),
            Fit::Own(bytes) => self.allocate_dedicated(bytes, priority),
        }
    }

    /// Allocates a backing that shares its memory with no other buffer, whatever its size.
    ///
    /// The allocation is new, or was another buffer's before; never one that is known outside this process.
    fn allocate_dedicated(
        self: &Arc<Self>,
        size: u64,
        priority: MemoryPriority,
    ) -> Result<Backing> {
        if let Some(warm) = self.take_warm(size, priority) {
            return Ok(Backing::dedicated(warm, true));
        }
        let allocation = self.create(&self.origin.with_priority(priority), size)?;
        let stale = !allocation.is_zeroed();
        Ok(Backing::dedicated(Slab::whole(allocation, Some(self.weak())), stale))
    }

    fn allocate_slot(self: &Arc<Self>, index: usize, limit: u64) -> Result<Backing> {
        let mut class = self.class(index);
        loop {
            let Some(&open) = class.open.last() else {
                self.grow(&mut class, index, limit)?;
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

    /// Allocates memory for buffers, within the driver's budget.
    fn create(&self, origin: &Origin, size: u64) -> Result<Arc<Allocation>> {
        origin.check_driver_budget(size)?;
        Allocation::create(origin, size)
    }

    /// Adds a slab to a class: the next larger one, or as large a one as there is memory for.
    #[cold]
    fn grow(self: &Arc<Self>, class: &mut Class, index: usize, limit: u64) -> Result<()> {
        let slot_size = slot_size(index);
        // CAST: the number of slabs of a class.
        let doublings = class.slabs.iter().flatten().count().min(16) as u32;
        let most = LARGEST_SLAB.min(limit).min(self.origin.domain.physical() / HEAP_PARTS);
        let mut slots = ((FIRST_SLAB << doublings).min(most) / slot_size).max(1);
        let allocation = loop {
            match self.create(&self.origin, slots * slot_size) {
                Err(error) if slots > 1 && error.is_out_of_bytes() => {
                    slots = (slots / SHRINK).max(1);
                }
                made => break made?,
            }
        };
        let size = slots * slot_size;
        let hole = class.slabs.iter().position(Option::is_none);
        let position = hole.unwrap_or(class.slabs.len());
        let cut = Cut { class: index, index: position };
        let slots = SlabSlots::new(Slab::cut(allocation, slot_size, self.weak(), cut));
        match hole {
            Some(hole) => class.slabs[hole] = Some(slots),
            None => class.slabs.push(Some(slots)),
        }
        class.open.push(position);
        let (provider, sharers) = (self.origin.provider, self.origin.sharers);
        tracing::debug!(%provider, ?sharers, size, slot_size, "slab allocated");
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

    /// Closes slabs that are at most half full, if the other slabs of their class have room for all their buffers. Large
    /// ones come first.
    pub(crate) fn close_sparse(self: &Arc<Self>) -> SparseSlabs {
        let mut closed = Vec::new();
        for index in 0..CLASSES {
            let mut class = self.class(index);
            let mut slabs: Vec<_> = class
                .slabs
                .iter()
                .enumerate()
                .filter_map(|(position, slots)| Some((position, slots.as_ref()?)))
                .collect();
            let mut room: u32 = slabs.iter().map(|(_, slots)| slots.free()).sum();
            slabs.sort_by_key(|(_, slots)| std::cmp::Reverse(slots.free()));
            let mut moving = 0;
            let mut chosen = Vec::new();
            for (position, slots) in slabs {
                let is_sparse = slots.used() > 0 && slots.used() <= slots.free();
                if is_sparse && moving + slots.used() <= room - slots.free() {
                    moving += slots.used();
                    room -= slots.free();
                    chosen.push((index, position, Arc::clone(&slots.slab)));
                }
            }
            class.open.retain(|&open| !chosen.iter().any(|(_, position, _)| *position == open));
            closed.append(&mut chosen);
        }
        SparseSlabs { pool: Arc::clone(self), closed }
    }

    fn take_warm(&self, size: u64, priority: MemoryPriority) -> Option<Arc<Slab>> {
        let mut warm = self.warm();
        let suits = |slab: &Arc<Slab>| {
            slab.allocation.size() == size && slab.allocation.priority() == priority
        };
        let index = warm.iter().rposition(suits)?;
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

/// Slabs that give out no slots while their buffers move away. They do again once this is dropped.
#[derive(Debug)]
pub(crate) struct SparseSlabs {
    pool: Arc<Pool>,
    /// With class and position.
    closed: Vec<(usize, usize, Arc<Slab>)>,
}

impl SparseSlabs {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.closed.is_empty()
    }

    /// Whether a backing is in one of them.
    pub(crate) fn contain(&self, backing: &Backing) -> bool {
        self.closed.iter().any(|(.., slab)| Arc::ptr_eq(&slab.allocation, backing.allocation()))
    }
}

impl Drop for SparseSlabs {
    fn drop(&mut self) {
        for (index, position, slab) in &self.closed {
            let mut class = self.pool.class(*index);
            // The slab may have been freed meanwhile, and another one may be in its place.
            let is_there = matches!(
                class.slabs.get(*position),
                Some(Some(slots)) if Arc::ptr_eq(&slots.slab, slab) && !slots.is_full()
            );
            if is_there && !class.open.contains(position) {
                // The last one in the list is used first.
                class.open.insert(0, *position);
            }
        }
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

    /// Keeps it for reuse, up to [`WARM_BYTES`], unless another device has imported it than those of this pool.
    fn recycle(&self, whole: Arc<Slab>) {
        if whole.allocation.is_viewed_by_others() {
            return;
        }
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

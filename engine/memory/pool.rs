//! Pools: the slabs and warm allocations of one provider.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::allocation::{Allocation, Origin};
use super::backing::Backing;
use super::provider::Provider;
use super::size_class::{CLASSES, class_of, dedicated_size, is_dedicated, slot_size};
use super::slab::{Cut, Slab, SlabSlots};
use crate::error::{Error, Result};

/// Bytes of a class' first slab, and of its largest.
///
/// Slabs double up to the largest, so that a handful of buffers does not claim 64 MiB of VRAM and
/// 100,000 buffers of 4 KiB need ten slabs.
const FIRST_SLAB: u64 = 1 << 20;
const LARGEST_SLAB: u64 = 64 << 20;

/// Slots that a slab has at least.
const MIN_SLOTS: u64 = 8;

/// Bytes of unused dedicated allocations that are kept warm.
const WARM_BYTES: u64 = 256 << 20;

/// Everything that one provider has provided.
#[derive(Debug)]
pub(crate) struct Pool {
    origin: Origin,
    // Each protected by its own mutex. Taken before an allocation's lock, after a reservation.
    classes: [Mutex<Class>; CLASSES],
    /// Whole ones.
    warm: Mutex<Vec<Arc<Slab>>>,
}

/// The slabs of one slot size.
#[derive(Debug, Default)]
struct Class {
    /// By [`Slab::index`]; trimming leaves holes.
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

    /// A backing for `size` bytes: a slot of a slab, or an allocation of its own if it is large or has to be
    /// `dedicated`. The caller has charged the domain for it ([`super::footprint`]), and the backing gives
    /// that back.
    ///
    /// Locks: the size class'; a new slab is allocated under it.
    pub(crate) fn allocate(self: &Arc<Self>, size: u64, dedicated: bool) -> Result<Backing> {
        if is_dedicated(size, dedicated) {
            self.allocate_dedicated(size)
        } else {
            self.allocate_slot(size)
        }
    }

    /// A backing that shares its memory with nobody, whatever its size.
    ///
    /// It is *fresh* or was somebody's before; never one that a stranger may still know.
    fn allocate_dedicated(self: &Arc<Self>, size: u64) -> Result<Backing> {
        let rounded = dedicated_size(size).ok_or_else(|| Error::too_large(size))?;
        if let Some(warm) = self.take_warm(rounded) {
            return Ok(Backing::dedicated(warm, true));
        }
        let allocation = Allocation::create(&self.origin, rounded, Arc::downgrade(self))?;
        let stale = !allocation.is_zeroed();
        Ok(Backing::dedicated(Slab::whole(allocation), stale))
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
        // Whole slots, and whole megabytes for what is imported by address.
        let allocation = Allocation::create(&self.origin, size, std::sync::Weak::new())?;
        let hole = class.slabs.iter().position(Option::is_none);
        let position = hole.unwrap_or(class.slabs.len());
        let slots = SlabSlots::new(Arc::new(Slab {
            allocation,
            slot_size,
            cut: Some(Cut { class: index, index: position, pool: Arc::downgrade(self) }),
        }));
        match hole {
            Some(hole) => class.slabs[hole] = Some(slots),
            None => class.slabs.push(Some(slots)),
        }
        class.open.push(position);
        tracing::debug!(provider = %self.origin.provider, size, slot_size, "slab");
        Ok(())
    }

    /// Takes a slot back.
    pub(super) fn release_slot(&self, slab: &Cut, slot: u32, stale: bool) {
        let mut class = self.class(slab.class);
        let Some(Some(slots)) = class.slabs.get_mut(slab.index) else {
            unreachable!("a slab with a slot in use is in the list")
        };
        let was_full = slots.is_full();
        slots.give_back(slot, stale);
        if was_full {
            class.open.push(slab.index);
        }
    }

    /// Takes a whole slab back, and keeps it warm if there is room.
    pub(super) fn recycle(&self, whole: Arc<Slab>) {
        let mut warm = self.warm();
        let kept: u64 = warm.iter().map(|slab| slab.allocation.size()).sum();
        if kept + whole.allocation.size() <= WARM_BYTES {
            warm.push(whole);
        } else {
            drop(warm);
            drop(whole);
        }
    }

    /// Gives unused memory back to the provider; returns how many bytes.
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
}

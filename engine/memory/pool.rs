//! Pools: the slabs of one provider for one set of devices, and its unused allocations kept for reuse.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::allocation::Allocation;
use super::backing::Backing;
use super::block::{Blocks, PAGE, Span, Wanted};
use super::device_set::DeviceSet;
use super::host::HOST_GRANULE;
use super::kept_slots::KeptSlots;
use super::memory_type::MemoryPriority;
use super::origin::Origin;
use super::provider::Provider;
use super::size_class::{CLASSES, Fit, fit, slot_size};
use super::slab::{Cut, Recycle, Slab, SlabSlots, Taken};
use super::slab_class::SlabClass;
use super::unlisted::Unlisted;
use crate::error::{Error, Result};
use crate::observe::note_shared_write;

/// Bytes of the first and of the largest block; a block has at least one slot.
///
/// The first one is small, so that a few buffers do not occupy 64 MiB of VRAM.
const FIRST_BLOCK: u64 = 256 << 10;
const LARGEST_BLOCK: u64 = 64 << 20;

/// Bytes of the first slab of a class. It is small, because there are a hundred classes.
const SMALLEST_SLAB: u64 = 16 << 10;

/// The slabs of a class grow by this part of what there is, so that little is held that no buffer uses.
const GROWTH: u64 = 16;

/// Blocks grow by more, since each of them has file descriptors and an import; and none is smaller than this once there is
/// as much.
const BLOCK_GROWTH: u64 = 11;
const STEADY_BLOCK: u64 = 3 << 20;

/// Slots of more than this part of a block get blocks of their own class.
const LARGE_PART: u64 = 8;

/// A block takes at most this part of its heap, so that a small heap is not used up by the first ones.
const HEAP_PARTS: u64 = 16;

/// By how much a block shrinks after memory for it was refused.
const SHRINK: u64 = 8;

/// Bytes of unused dedicated allocations that are kept for reuse.
const WARM_BYTES: u64 = 256 << 20;

/// All memory that one provider has allocated for buffers that the same devices share. No other device imports it, except
/// for a buffer that could not move when the device attached it.
#[derive(Debug)]
pub(crate) struct Pool {
    origin: Origin,
    // Each protected by its own mutex. Taken before that of the blocks, after a reservation.
    classes: [Mutex<SlabClass>; CLASSES],
    // Protected by this mutex, which is taken before an allocation's lock.
    blocks: Mutex<Blocks>,
    /// Held while a block is allocated, with no other lock of the pool: the driver may take long, and slots are given
    /// out and taken back meanwhile. Of several threads that need a block, one allocates.
    growth: Mutex<()>,
    /// Unused allocations of single buffers, kept for reuse.
    warm: Mutex<Vec<Warm>>,
    /// Taken before the locks above, to free unused memory or to zero it.
    pub(super) unlisted: Unlisted,
    /// Slots that threads keep for their next buffers.
    kept: KeptSlots,
    /// How many compactions empty blocks; meanwhile threads keep none. Relaxed: see [`KeptSlots::take_all`].
    pub(super) emptying: AtomicUsize,
}

/// An unused allocation of a single buffer.
#[derive(Debug)]
pub(super) struct Warm {
    pub(super) slab: Arc<Slab>,
    /// Whether an owner's bytes may be in it.
    pub(super) stale: bool,
}

/// What [`Pool::allocate`] allocates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackingKind {
    /// Whether it is an allocation of its own, whatever its size.
    pub(crate) dedicated: bool,
    /// Whether a new block for it is to be small: it is for what compaction finds no room for.
    pub(crate) sparing: bool,
    pub(crate) priority: MemoryPriority,
}

impl Pool {
    pub(crate) fn new(origin: Origin) -> Arc<Self> {
        let pool = Arc::new(Self {
            origin,
            classes: [const { Mutex::new(SlabClass::new()) }; CLASSES],
            blocks: Mutex::default(),
            growth: Mutex::default(),
            warm: Mutex::default(),
            unlisted: Unlisted::default(),
            kept: KeptSlots::default(),
            emptying: AtomicUsize::new(0),
        });
        let keeper: Weak<Self> = Arc::downgrade(&pool);
        pool.origin.domain.register(keeper);
        pool
    }

    pub(crate) fn provider(&self) -> Provider {
        self.origin.provider
    }

    pub(crate) fn sharers(&self) -> DeviceSet {
        self.origin.sharers
    }

    /// Allocates a backing for `size` bytes: a slot of a slab, or an allocation of its own if it is large or
    /// must be `dedicated`. Only the latter has the buffer's `priority`. No allocation
    /// exceeds `limit` bytes, and none of several buffers `largest_slab`, unless the buffer itself does. The caller has charged
    /// the domain for it ([`super::footprint`] with the same limit); dropping the backing uncharges it.
    ///
    /// Locks: the size class'; none while the driver allocates, but that for growth.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        size: u64,
        BackingKind { dedicated, sparing, priority }: BackingKind,
        (limit, largest_slab): (u64, u64),
    ) -> Result<Backing> {
        match fit(size, dedicated, limit).ok_or_else(|| Error::too_large(size))? {
            Fit::Slot(class) => self.allocate_slot(class, limit.min(largest_slab), sparing),
            Fit::Own(bytes) => self.allocate_dedicated(bytes, priority),
        }
    }

    /// Takes up to `count` slots for `size` bytes each of the blocks that are there, under one lock. The limits are those of
    /// [`Pool::allocate`], and the caller has charged the domain likewise.
    pub(crate) fn take_more(
        self: &Arc<Self>,
        size: u64,
        (limit, largest_slab): (u64, u64),
        count: usize,
    ) -> Vec<Backing> {
        let Some(Fit::Slot(index)) = fit(size, false, limit) else { return vec![] };
        let (mut taken, mut class) = (Vec::with_capacity(count), self.class(index));
        while taken.len() < count {
            if let Some((slab, Taken { slot, stale })) = class.take() {
                taken.push(Backing::slot(slab, slot, stale));
                continue;
            }
            let span = self.blocks().take(wanted(&class, index, limit.min(largest_slab)));
            let Some(span) = span else { break };
            self.add_slab(&mut class, index, span);
        }
        taken
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
            return Ok(Backing::dedicated(warm.slab, warm.stale));
        }
        let allocation = self.create(&self.origin.with_priority(priority), size)?;
        let stale = !allocation.is_zeroed();
        Ok(Backing::dedicated(Slab::whole(allocation, Some(self.weak())), stale))
    }

    fn allocate_slot(self: &Arc<Self>, index: usize, limit: u64, sparing: bool) -> Result<Backing> {
        let mut has_all = false;
        loop {
            let wanted = match self.take_slot(index, limit) {
                Ok(backing) => return Ok(backing),
                Err(wanted) => wanted,
            };
            // What threads keep comes before a new block.
            if !has_all && self.give_back_kept() {
                has_all = true;
                continue;
            }
            // If another thread takes the slots of the new block first, it has made progress.
            if let Some(span) = self.grow(wanted, limit, sparing)? {
                self.add_slab(&mut self.class(index), index, span);
            }
        }
    }

    /// Takes a slot of a slab, or of a new slab in a block that is there. If no block has room, returns what it needs.
    fn take_slot(
        self: &Arc<Self>,
        index: usize,
        limit: u64,
    ) -> std::result::Result<Backing, Wanted> {
        let backing = |(slab, taken): (_, Taken)| Backing::slot(slab, taken.slot, taken.stale);
        let mut class = self.class(index);
        if let Some(taken) = class.take() {
            return Ok(backing(taken));
        }
        let wanted = wanted(&class, index, limit);
        let span = self.blocks().take(wanted).ok_or(wanted)?;
        self.add_slab(&mut class, index, span);
        class.take().map(backing).ok_or(wanted)
    }

    /// Adds a slab to a class.
    fn add_slab(self: &Arc<Self>, class: &mut SlabClass, index: usize, span: Span) {
        let Span { allocation, at, stale } = span;
        let (slot_size, pool) = (slot_size(index), self.weak());
        class.add(|position| {
            // CAST: there are CLASSES of them.
            let cut = Cut { class: index as u16, index: position, span: at };
            SlabSlots::new(Slab::cut(allocation, slot_size, pool, cut), at.len, stale)
        });
    }

    /// Allocates memory for buffers, within the driver's budget.
    fn create(&self, origin: &Origin, size: u64) -> Result<Arc<Allocation>> {
        origin.check_driver_budget(size)?;
        Allocation::create(origin, size)
    }

    /// Adds a block of an eleventh of those that all classes share, or as large a one as there is memory for, and takes a span
    /// of it. If it is to be `sparing`, the block is as small as the first one. `None` if another thread has added one meanwhile.
    #[cold]
    fn grow(&self, wanted: Wanted, limit: u64, sparing: bool) -> Result<Option<Span>> {
        let _growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        let held = {
            let mut blocks = self.blocks();
            if let Some(span) = blocks.take(wanted) {
                return Ok(Some(span));
            }
            blocks.held()
        };
        let most = LARGEST_BLOCK.min(limit).min(self.origin.domain.physical() / HEAP_PARTS);
        // As much as there is at first.
        let by_all = match sparing {
            true => FIRST_BLOCK,
            false => (held / BLOCK_GROWTH).max(held.clamp(FIRST_BLOCK, STEADY_BLOCK)),
        };
        // Little else would fit into what large slots leave of a block, so they get blocks without a rest.
        let large = wanted.slot_size * LARGE_PART > by_all;
        let unit = if large { wanted.slot_size } else { PAGE };
        // System memory is allocated in granules, and counted as it was asked for.
        let granule = if self.origin.exporter.is_none() { HOST_GRANULE } else { 1 };
        let at_least_a_slot =
            |bytes: u64| (bytes / unit * unit).max(wanted.slot_size).next_multiple_of(granule);
        let by_class = wanted.slots * wanted.slot_size;
        let mut size = at_least_a_slot(if large { by_class } else { by_all }.min(most));
        let allocation = loop {
            let smaller = at_least_a_slot(size / SHRINK);
            match self.create(&self.origin, size) {
                Err(error) if smaller < size && error.is_out_of_bytes() => size = smaller,
                made => break made?,
            }
        };
        let (provider, sharers) = (self.origin.provider, self.origin.sharers);
        tracing::debug!(%provider, ?sharers, size, "block allocated");
        let mut blocks = self.blocks();
        blocks.add(allocation, large);
        Ok(blocks.take(wanted))
    }

    /// Frees unused memory; returns how many bytes.
    pub(crate) fn trim(&self) -> u64 {
        let unlisted = self.unlisted.exclude();
        let warm = std::mem::take(&mut *self.warm());
        drop(unlisted);
        let freed: u64 = warm.iter().map(|warm| warm.slab.allocation.size()).sum();
        freed + self.free_blocks()
    }

    /// Frees the blocks without buffers; returns how many bytes.
    pub(crate) fn free_blocks(&self) -> u64 {
        let unlisted = self.unlisted.exclude();
        self.give_back_kept();
        for index in 0..CLASSES {
            let unused = self.class(index).take_unused();
            self.give_back_spans(&unused);
        }
        let unused = self.blocks().take_unused();
        drop(unlisted);
        unused.iter().map(|block| block.size()).sum()
    }

    fn give_back_spans<'a>(&self, slabs: impl IntoIterator<Item = &'a SlabSlots>) {
        let mut blocks = self.blocks();
        for slots in slabs {
            if let Some(cut) = slots.slab.cut {
                blocks.give_back(cut.span, slots.is_stale());
            }
        }
    }

    fn take_warm(&self, size: u64, priority: MemoryPriority) -> Option<Warm> {
        let mut warm = self.warm();
        let suits = |Warm { slab, .. }: &Warm| {
            slab.allocation.size() == size && slab.allocation.priority() == priority
        };
        let index = warm.iter().rposition(suits)?;
        Some(warm.remove(index))
    }

    /// Keeps an unused allocation for reuse, unless another device has imported it than those of this pool. Beyond
    /// [`WARM_BYTES`] those are freed that were kept first: the sizes that the application uses now stay.
    pub(super) fn keep(&self, unused: Warm) {
        let bytes = |warm: &Warm| warm.slab.allocation.size();
        if unused.slab.allocation.is_viewed_by_others() || bytes(&unused) > WARM_BYTES {
            return;
        }
        let mut warm = self.warm();
        warm.push(unused);
        let mut kept: u64 = warm.iter().map(bytes).sum();
        let mut surplus = 0;
        while kept > WARM_BYTES {
            kept -= bytes(&warm[surplus]);
            surplus += 1;
        }
        let freed: Vec<_> = warm.drain(..surplus).collect();
        // They are freed without the lock.
        drop(warm);
        drop(freed);
    }

    pub(super) fn class(&self, index: usize) -> MutexGuard<'_, SlabClass> {
        note_shared_write();
        self.classes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blocks(&self) -> MutexGuard<'_, Blocks> {
        note_shared_write();
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn warm(&self) -> MutexGuard<'_, Vec<Warm>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reference that its slabs keep.
    fn weak(self: &Arc<Self>) -> Weak<dyn Recycle> {
        let weak: Weak<Self> = Arc::downgrade(self);
        weak
    }
}

/// How many slots the next slab of a class should have: a sixteenth of what the class has.
fn wanted(class: &SlabClass, index: usize, limit: u64) -> Wanted {
    let slot_size = slot_size(index);
    let bytes = (class.held() / GROWTH).clamp(SMALLEST_SLAB, LARGEST_BLOCK).min(limit);
    Wanted { slot_size, slots: (bytes / slot_size).max(1) }
}

impl Recycle for Pool {
    fn release_slot(&self, cut: Cut, slot: u32, stale: bool) {
        let mut class = self.class(usize::from(cut.class));
        if let Some(unused) = class.give_back(cut.index, slot, stale) {
            self.give_back_spans([&unused]);
        }
    }

    fn recycle(&self, whole: Arc<Slab>) {
        self.keep(Warm { slab: whole, stale: true });
    }
}

mod kept;

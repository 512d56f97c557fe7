//! Blocks: the allocations of a pool that slabs are cut from.
//!
//! A block is what drivers see: it is exported once, and imported once by each device. Slabs are ranges of blocks, so a
//! further size class costs neither an fd nor an import, and only the last blocks of a pool are partly unused.
//!
//! Kernel counterpart: `drm_buddy` below TTM's ranges. Here ranges are kept in order of their offset, since a block
//! has few.

use std::sync::{Arc, Weak};

use super::allocation::Allocation;

/// Slabs begin at multiples of this many bytes, so that slots of whole pages are whole pages of the host.
pub(super) const PAGE: u64 = 4096;

/// The blocks of a pool.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// By number; trimming leaves holes.
    list: Vec<Option<Block>>,
}

/// An allocation, and which of its bytes belong to slabs.
#[derive(Debug)]
struct Block {
    allocation: Arc<Allocation>,
    /// End of what slabs have had so far. Bytes from here on were never used.
    touched: u64,
    /// Free ranges below `touched`, in order of their offset; no two touch.
    free: Vec<Range>,
    /// Bytes that slabs have.
    cut: u64,
    /// Whether new slabs are cut from it. None are while compaction empties it.
    open: bool,
    /// Whether it was sized for the large slots of one class.
    of_one_class: bool,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    len: u64,
    /// Whether an owner's bytes may be in it.
    stale: bool,
}

/// A range of a block, for a slab.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) allocation: Arc<Allocation>,
    pub(super) at: SpanAt,
    /// Whether an owner's bytes may be in it.
    pub(super) stale: bool,
}

/// The position of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanAt {
    /// Number of the block.
    pub(super) block: u32,
    pub(super) start: u64,
    /// A multiple of the page size.
    pub(super) len: u64,
}

/// How many bytes a slab takes: as many as wanted, or fewer if only they are free, but room for one slot at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) slot_size: u64,
    pub(super) slots: u64,
}

impl Wanted {
    /// Bytes to take of `len` free ones.
    fn of(self, len: u64) -> Option<u64> {
        let slots = self.slots.min(len / self.slot_size);
        // The end of a block need not be the end of a page.
        (slots > 0).then(|| (slots * self.slot_size).next_multiple_of(PAGE).min(len))
    }
}

impl Blocks {
    /// Bytes of the open blocks that are for slots of all classes.
    pub(super) fn held(&self) -> u64 {
        let such = self.list.iter().flatten().filter(|block| block.open && !block.of_one_class);
        such.map(|block| block.allocation.size()).sum()
    }

    /// Adds a block, for slots of all classes or sized for one.
    pub(super) fn add(&mut self, allocation: Arc<Allocation>, of_one_class: bool) {
        let block =
            Block { allocation, touched: 0, free: Vec::new(), cut: 0, open: true, of_one_class };
        match self.list.iter().position(Option::is_none) {
            Some(hole) => self.list[hole] = Some(block),
            None => self.list.push(Some(block)),
        }
    }

    /// Takes a range for a slab from the fullest block that has room for one slot.
    pub(super) fn take(&mut self, wanted: Wanted) -> Option<Span> {
        let all = self.list.iter_mut().enumerate();
        let (number, block) = all
            .filter_map(|(number, block)| Some((number, block.as_mut()?)))
            .filter(|(_, block)| block.open && block.has_room(wanted.slot_size))
            .min_by_key(|(_, block)| block.allocation.size() - block.cut)?;
        let Range { start, len, stale } = block.take(wanted)?;
        // CAST: as many blocks as allocations, of which drivers allow a few thousand.
        let at = SpanAt { block: number as u32, start, len };
        Some(Span { allocation: Arc::clone(&block.allocation), at, stale })
    }

    /// Takes all of a free range that holds earlier owners' bytes, of an open block. Ranges that no slab had are not among
    /// them.
    pub(super) fn take_stale(&mut self) -> Option<Span> {
        let open = (0..).zip(&mut self.list);
        let mut open = open.filter_map(|(number, block)| Some((number, block.as_mut()?)));
        let (block, Range { start, len, stale }, allocation) =
            open.find_map(|(number, block)| {
                let at = block.free.iter().position(|range| range.stale).filter(|_| block.open)?;
                let range = block.free.remove(at);
                block.cut += range.len;
                Some((number, range, Arc::clone(&block.allocation)))
            })?;
        Some(Span { allocation, at: SpanAt { block, start, len }, stale })
    }

    /// Takes a span back. `stale` says whether an owner's bytes may be in it.
    pub(super) fn give_back(&mut self, at: SpanAt, stale: bool) {
        let Some(Some(block)) = self.list.get_mut(at.block as usize) else {
            unreachable!("a block with a slab is in the list")
        };
        block.give_back(Range { start: at.start, len: at.len, stale });
    }

    /// Removes the blocks that have no slab. The memory is freed when they are dropped.
    pub(super) fn take_unused(&mut self) -> Vec<Arc<Allocation>> {
        let unused = |block: &mut Block| block.cut == 0;
        let taken: Vec<_> =
            self.list.iter_mut().filter_map(|block| block.take_if(unused)).collect();
        taken.into_iter().map(|block| block.allocation).collect()
    }

    /// The open blocks: number, allocation, and bytes that no slab has.
    pub(super) fn open(&self) -> impl Iterator<Item = (u32, &Arc<Allocation>, u64)> {
        let all = (0..).zip(&self.list);
        let blocks = all.filter_map(|(number, block)| Some((number, block.as_ref()?)));
        blocks
            .filter(|(_, block)| block.open)
            .map(|(number, block)| (number, &block.allocation, block.allocation.size() - block.cut))
    }

    /// Says whether slabs are cut from a block, if it is still there.
    pub(super) fn set_open(&mut self, number: u32, allocation: &Weak<Allocation>, open: bool) {
        let block = self.list.get_mut(number as usize).and_then(Option::as_mut);
        if let Some(block) =
            block.filter(|block| Arc::as_ptr(&block.allocation) == allocation.as_ptr())
        {
            block.open = open;
        }
    }
}

impl Block {
    fn has_room(&self, bytes: u64) -> bool {
        self.allocation.size() - self.touched >= bytes
            || self.free.iter().any(|range| range.len >= bytes)
    }

    /// Takes a range.
    fn take(&mut self, wanted: Wanted) -> Option<Range> {
        for at in 0..self.free.len() {
            let range = self.free[at];
            if let Some(len) = wanted.of(range.len) {
                if len == range.len {
                    self.free.remove(at);
                } else {
                    let start = range.start + len;
                    self.free[at] = Range { start, len: range.len - len, ..range };
                }
                self.cut += len;
                return Some(Range { len, ..range });
            }
        }
        let start = self.touched;
        let len = wanted.of(self.allocation.size() - start)?;
        self.touched += len;
        self.cut += len;
        Some(Range { start, len, stale: !self.allocation.is_zeroed() })
    }

    fn give_back(&mut self, range: Range) {
        self.cut -= range.len;
        let at = self.free.partition_point(|free| free.start < range.start);
        self.free.insert(at, range);
        self.join(at);
        if let Some(before) = at.checked_sub(1) {
            self.join(before);
        }
    }

    /// Joins a free range with the next one, if they touch. It is stale if one of them was: slabs need long ranges more
    /// than zeros.
    fn join(&mut self, at: usize) {
        if let [first, second, ..] = self.free[at..]
            && first.start + first.len == second.start
        {
            self.free[at].len += second.len;
            self.free[at].stale |= second.stale;
            self.free.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HOST_GRANULE;
    use super::super::domain::Domain;
    use super::super::domain_id::DomainId;
    use super::super::origin::Origin;
    use super::*;

    const BLOCK: u64 = 64 * HOST_GRANULE;

    fn allocation() -> Arc<Allocation> {
        let domain = Arc::new(Domain::new(DomainId::System, u64::MAX));
        Allocation::create(&Origin::of_memfds(&domain), BLOCK).expect("memfds can be made")
    }

    #[test]
    fn spans_do_not_overlap_and_used_ones_are_stale() {
        let mut blocks = Blocks::default();
        (0..3).for_each(|_| blocks.add(allocation(), false));
        let mut seed = 1_u64;
        let mut random = move |end: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % end
        };
        let mut live: Vec<SpanAt> = Vec::new();
        let mut touched = [0; 3];
        for _ in 0..20_000 {
            if random(5) < 2 && !live.is_empty() {
                // CAST: an index below the length.
                let at = live.swap_remove(random(live.len() as u64) as usize);
                blocks.give_back(at, true);
                continue;
            }
            let slot_size = 256 * (1 + random(100));
            let wanted = Wanted { slot_size, slots: 1 + random(40) };
            let Some(Span { at, stale, .. }) = blocks.take(wanted) else {
                // Nothing that is free has room for one slot.
                let free = blocks.list.iter().flatten().flat_map(|block| &block.free);
                assert!(free.map(|range| range.len).all(|len| len < slot_size));
                continue;
            };
            assert!(at.start.is_multiple_of(PAGE) && at.start + at.len <= BLOCK, "{at:?}");
            assert!(at.len >= slot_size && at.len < wanted.slots * slot_size + PAGE, "{at:?}");
            let overlaps = |other: &&SpanAt| {
                other.block == at.block
                    && other.start < at.start + at.len
                    && at.start < other.start + other.len
            };
            assert_eq!(live.iter().find(overlaps), None, "{at:?}");
            let touched = &mut touched[at.block as usize];
            assert_eq!(stale, at.start < *touched, "{at:?}");
            *touched = (*touched).max(at.start + at.len);
            live.push(at);
        }
        live.into_iter().for_each(|at| blocks.give_back(at, true));
        for block in blocks.list.iter().flatten() {
            let free: u64 = block.free.iter().map(|range| range.len).sum();
            assert_eq!((block.cut, free, block.free.len()), (0, block.touched, 1), "joined");
        }
        assert_eq!(blocks.take_unused().len(), 3);
        assert_eq!(blocks.held(), 0);
    }

    #[test]
    fn a_free_range_is_stale_until_it_is_zeroed_and_again_once_joined_with_a_stale_one() {
        let mut blocks = Blocks::default();
        blocks.add(allocation(), false);
        let wanted = Wanted { slot_size: PAGE, slots: 2 };
        let spans = [(); 4].map(|()| blocks.take(wanted).expect("there is room").at);
        assert!(blocks.take_stale().is_none(), "nothing is free that was used");
        blocks.give_back(spans[0], true);
        blocks.give_back(spans[2], false);
        let stale = blocks.take_stale().expect("the first one");
        assert_eq!((stale.at, stale.stale), (spans[0], true));
        assert!(blocks.take_stale().is_none(), "the third one holds zeros");
        assert!(blocks.take_unused().is_empty(), "what is taken keeps its block");
        blocks.give_back(stale.at, false);
        let again = blocks.take(wanted).expect("it is free");
        assert_eq!((again.at, again.stale), (spans[0], false));
        blocks.give_back(again.at, false);
        blocks.give_back(spans[1], true);
        let joined = blocks.take_stale().expect("the first three");
        assert_eq!((joined.at.start, joined.at.len), (spans[0].start, 6 * PAGE));
        blocks.give_back(joined.at, false);
        blocks.give_back(spans[3], true);
        assert_eq!(blocks.take_unused().len(), 1);
    }

    #[test]
    fn a_closed_block_gives_nothing_out_and_a_fuller_one_comes_first() {
        let mut blocks = Blocks::default();
        let [one, other] = [(); 2].map(|()| allocation());
        blocks.add(Arc::clone(&one), false);
        blocks.add(Arc::clone(&other), false);
        let wanted = Wanted { slot_size: PAGE, slots: 1 };
        let take = |blocks: &mut Blocks| blocks.take(wanted).map(|span| span.allocation);
        blocks.set_open(0, &Arc::downgrade(&one), false);
        assert!(take(&mut blocks).is_some_and(|of| Arc::ptr_eq(&of, &other)));
        blocks.set_open(0, &Arc::downgrade(&one), true);
        assert!(take(&mut blocks).is_some_and(|of| Arc::ptr_eq(&of, &other)), "the fuller one");
        blocks.set_open(1, &Arc::downgrade(&other), false);
        blocks.set_open(0, &Arc::downgrade(&other), false);
        assert!(
            take(&mut blocks).is_some_and(|of| Arc::ptr_eq(&of, &one)),
            "it has another number"
        );
    }
}

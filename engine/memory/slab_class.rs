//! Slabs of one slot size, in groups by how full they are.

use std::sync::Arc;

use super::allocation::Allocation;
use super::slab::{Slab, SlabSlots, Taken};

/// Groups of slabs that are open, by the top bits of how many slots are in use: group `n` has slabs that are fuller than
/// those of group `n - 1`, if they have as many slots.
///
/// Slots are taken from the fullest group, so that the others become empty. The kernel's slab allocator prefers partial
/// slabs for the same reason; the groups are those of Hoard (Berger et al., ASPLOS 2000).
const GROUPS: usize = 16;

/// The slabs of one slot size.
#[derive(Debug, Default)]
pub(super) struct SlabClass {
    /// By position; slabs that were returned leave holes.
    slabs: Vec<Option<Entry>>,
    /// Positions of the open slabs: they have a free slot, and their block is not being emptied.
    open: [Vec<u32>; GROUPS],
    /// Bytes of all slots.
    held: u64,
    /// Position at which [`SlabClass::take_stale`] goes on.
    next_stale: u32,
}

#[derive(Debug)]
struct Entry {
    slots: SlabSlots,
    /// Group and index in its list. `None` if it has no free slot, or is closed.
    listed: Option<(u8, u32)>,
    /// Its block is being emptied.
    closed: bool,
}

impl Entry {
    fn group(&self) -> Option<u8> {
        let (used, total) = (self.slots.used(), self.slots.total());
        (!self.closed && used < total).then(|| group_of(used, total))
    }
}

/// The group of a slab with a free slot. There are 8 to 16 of them for 8 slots or more, and one for each slot below.
fn group_of(used: u32, total: u32) -> u8 {
    // CAST: below GROUPS, as `used` is below `total`. A shift, since each buffer that is made or dropped comes here.
    (used >> (total.max(1).ilog2().saturating_sub(GROUPS.ilog2() - 1))) as u8
}

impl SlabClass {
    pub(super) const fn new() -> Self {
        let open = [const { Vec::new() }; GROUPS];
        Self { slabs: Vec::new(), open, held: 0, next_stale: 0 }
    }

    /// Bytes of all slots.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Takes a slot of one of the fullest slabs.
    pub(super) fn take(&mut self) -> Option<(Arc<Slab>, Taken)> {
        let at = *self.open.iter().rev().find_map(|group| group.last())?;
        let entry = self.entry(at);
        let Some(taken) = entry.slots.take() else { unreachable!("an open slab has a free slot") };
        let slab = Arc::clone(&entry.slots.slab);
        self.list(at);
        Some((slab, taken))
    }

    /// Takes a free slot of an open slab that holds an owner's bytes. The search begins at the slab of the slot before, so
    /// that to take all of them looks at each slab once.
    pub(super) fn take_stale(&mut self) -> Option<(Arc<Slab>, u32)> {
        // CAST: see `add`.
        let end = self.slabs.len() as u32;
        let first = self.next_stale.min(end);
        for at in (first..end).chain(0..first) {
            let entry = self.slabs[at as usize].as_mut().filter(|entry| !entry.closed);
            if let Some(entry) = entry
                && let Some(slot) = entry.slots.take_stale()
            {
                let slab = Arc::clone(&entry.slots.slab);
                self.next_stale = at;
                self.list(at);
                return Some((slab, slot));
            }
        }
        None
    }

    /// Adds the slab that `make` makes for its position.
    pub(super) fn add(&mut self, make: impl FnOnce(u32) -> SlabSlots) {
        let hole = self.slabs.iter().position(Option::is_none);
        let at = hole.unwrap_or(self.slabs.len());
        if hole.is_none() {
            self.slabs.push(None);
        }
        // CAST: a slab has a slot, and there are fewer buffers than 2^32.
        let slots = make(at as u32);
        self.held += slots.bytes();
        self.slabs[at] = Some(Entry { slots, listed: None, closed: false });
        // CAST: as above.
        self.list(at as u32);
    }

    /// Takes a slot back. Returns the slab if it is unused now, and another unused one is there.
    pub(super) fn give_back(&mut self, at: u32, slot: u32, stale: bool) -> Option<SlabSlots> {
        let entry = self.entry(at);
        entry.slots.give_back(slot, stale);
        let is_unused = entry.slots.is_unused();
        self.list(at);
        // Unused slabs are in the first group. One is kept, so that a buffer which is made and dropped in turn does not
        // cut a slab each time.
        let another = |other: &u32| *other != at && self.is_unused(*other);
        if is_unused && self.open[0].iter().any(another) { self.remove(at) } else { None }
    }

    /// Removes all unused slabs.
    pub(super) fn take_unused(&mut self) -> Vec<SlabSlots> {
        // CAST: see `add`.
        let all = 0..self.slabs.len() as u32;
        all.filter_map(|at| if self.is_unused(at) { self.remove(at) } else { None }).collect()
    }

    /// The block of each slab, and its bytes in use and free.
    pub(super) fn fill(&self) -> impl Iterator<Item = (&Arc<Allocation>, u64, u64)> {
        self.slabs.iter().flatten().map(|Entry { slots, .. }| {
            let used = u64::from(slots.used()) * slots.slab.slot_size;
            (&slots.slab.allocation, used, slots.bytes() - used)
        })
    }

    /// Closes the slabs of some blocks, or opens them again.
    pub(super) fn set_closed(&mut self, of: impl Fn(&Arc<Allocation>) -> bool, closed: bool) {
        for at in 0..self.slabs.len() {
            let entry = self.slabs[at].as_mut();
            if let Some(entry) = entry.filter(|entry| of(&entry.slots.slab.allocation)) {
                entry.closed = closed;
                // CAST: see `add`.
                self.list(at as u32);
            }
        }
    }

    fn entry(&mut self, at: u32) -> &mut Entry {
        let Some(Some(entry)) = self.slabs.get_mut(at as usize) else {
            unreachable!("a slab with a slot in use is in the list")
        };
        entry
    }

    fn is_unused(&self, at: u32) -> bool {
        self.slabs[at as usize].as_ref().is_some_and(|entry| entry.slots.is_unused())
    }

    fn remove(&mut self, at: u32) -> Option<SlabSlots> {
        self.unlist(at);
        let entry = self.slabs[at as usize].take()?;
        self.held -= entry.slots.bytes();
        Some(entry.slots)
    }

    /// Moves a slab to the group that it belongs to.
    fn list(&mut self, at: u32) {
        let entry = self.entry(at);
        let group = entry.group();
        if entry.listed.map(|(group, _)| group) == group {
            return;
        }
        self.unlist(at);
        if let Some(group) = group {
            let list = &mut self.open[usize::from(group)];
            // CAST: no more entries than slabs.
            let index = list.len() as u32;
            list.push(at);
            self.entry(at).listed = Some((group, index));
        }
    }

    fn unlist(&mut self, at: u32) {
        let Some((group, index)) = self.entry(at).listed.take() else { return };
        let list = &mut self.open[usize::from(group)];
        list.swap_remove(index as usize);
        if let Some(&moved) = list.get(index as usize) {
            self.entry(moved).listed = Some((group, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Weak;

    use super::super::HOST_GRANULE;
    use super::super::block::SpanAt;
    use super::super::domain::Domain;
    use super::super::domain_id::DomainId;
    use super::super::origin::Origin;
    use super::super::slab::{Cut, Recycle};
    use super::*;

    const SLOT: u64 = 256;

    /// In place of a pool.
    struct Nowhere;

    impl Recycle for Nowhere {
        fn release_slot(&self, _: Cut, _: u32, _: bool) {}

        fn recycle(&self, _: Arc<Slab>) {}
    }

    fn allocation() -> Arc<Allocation> {
        let domain = Arc::new(Domain::new(DomainId::System, u64::MAX));
        Allocation::create(&Origin::of_memfds(&domain), HOST_GRANULE).expect("memfds can be made")
    }

    fn add(class: &mut SlabClass, slots: u64) {
        let of = allocation();
        class.add(|index| {
            let span = SpanAt { block: 0, start: 0, len: slots * SLOT };
            let cut = Cut { class: 0, index, span };
            SlabSlots::new(Slab::cut(of, SLOT, Weak::<Nowhere>::new(), cut), slots * SLOT, false)
        });
    }

    /// Every slab that can give out a slot is in the list of its group, once.
    fn check(class: &SlabClass) {
        for (at, entry) in (0..).zip(&class.slabs) {
            let lists = (0..).zip(&class.open).filter(|(_, list)| list.contains(&at));
            let lists: Vec<u8> = lists.map(|(group, _)| group).collect();
            let expected: Vec<u8> = entry.as_ref().and_then(Entry::group).into_iter().collect();
            assert_eq!(lists, expected, "slab {at}");
            let listed = entry.as_ref().and_then(|entry| entry.listed);
            let is_there = |(group, index): (u8, u32)| {
                class.open[usize::from(group)].get(index as usize) == Some(&at)
            };
            assert!(listed.is_none_or(is_there), "slab {at}: {listed:?}");
        }
    }

    #[test]
    fn slots_come_from_the_fullest_slab_and_none_is_given_out_twice() {
        let mut class = SlabClass::new();
        let mut seed = 7_u64;
        let mut random = move |end: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // CAST: below `end`.
            (seed >> 33) as usize % end
        };
        let (mut live, mut taken) = (Vec::new(), HashSet::new());
        let mut returned = 0;
        for round in 0..30_000 {
            // More is taken for a while, then more is given back.
            let takes = if round / 5_000 % 2 == 0 { 6 } else { 4 };
            if random(10) < takes {
                let fullest = class.slabs.iter().flatten().filter_map(Entry::group).max();
                let Some((slab, Taken { slot, .. })) = class.take() else {
                    assert_eq!(fullest, None);
                    add(&mut class, 1 + random(20) as u64);
                    continue;
                };
                let index = slab.cut.expect("it is cut").index;
                assert!(taken.insert((index, slot)), "slot {slot} of slab {index} is in use");
                live.push((index, slot));
                // One more of its slots is in use now.
                let entry = class.slabs[index as usize].as_ref().expect("it is there");
                let before = group_of(entry.slots.used() - 1, entry.slots.total());
                assert_eq!(Some(before), fullest);
            } else if !live.is_empty() {
                let (index, slot) = live.swap_remove(random(live.len()));
                taken.remove(&(index, slot));
                returned += usize::from(class.give_back(index, slot, true).is_some());
            }
            check(&class);
        }
        assert!(returned > 0, "unused slabs are returned");
        let used: u64 = class.fill().map(|(_, bytes, _)| bytes).sum();
        assert_eq!(used, live.len() as u64 * SLOT);
        live.into_iter().for_each(|(index, slot)| drop(class.give_back(index, slot, false)));
        assert!(class.take_unused().len() <= 1, "all but one were returned before");
        assert_eq!(class.held(), 0);
    }

    #[test]
    fn stale_slots_are_taken_once_each_and_are_given_out_as_zeros_once_zeroed() {
        let mut class = SlabClass::new();
        (0..3).for_each(|_| add(&mut class, 5));
        let taken: Vec<_> = (0..15).map(|_| class.take().expect("there are fifteen")).collect();
        // One of each slab stays in use.
        let mut kept = HashSet::new();
        for (slab, Taken { slot, .. }) in taken {
            let index = slab.cut.expect("it is cut").index;
            if !kept.insert(index) {
                assert!(class.give_back(index, slot, true).is_none());
            }
        }
        check(&class);
        let mut zeroed = HashSet::new();
        while let Some((slab, slot)) = class.take_stale() {
            check(&class);
            let index = slab.cut.expect("it is cut").index;
            assert!(zeroed.insert((index, slot)), "slot {slot} of slab {index} was zeroed");
            assert!(class.give_back(index, slot, false).is_none());
            check(&class);
        }
        assert_eq!(zeroed.len(), 12);
        let again: Vec<_> = std::iter::from_fn(|| class.take()).collect();
        assert_eq!(again.len(), 12);
        assert!(again.iter().all(|(_, taken)| !taken.stale), "zeros");
    }

    #[test]
    fn a_closed_slab_takes_slots_back_and_gives_none_out() {
        let mut class = SlabClass::new();
        add(&mut class, 4);
        let (slab, first) = class.take().expect("it has four");
        let index = slab.cut.expect("it is cut").index;
        class.take().expect("it has three");
        let is_it = |of: &Arc<Allocation>| Arc::ptr_eq(of, &slab.allocation);
        class.set_closed(is_it, true);
        class.give_back(index, first.slot, true);
        assert!(class.take().is_none());
        class.set_closed(is_it, false);
        let again = class.take().expect("it is open");
        assert_eq!((again.1.slot, again.1.stale), (first.slot, true));
        check(&class);
    }
}

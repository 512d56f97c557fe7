//! A linked list over an array: twelve bytes per buffer.

use super::interface::Slot;
use super::size::{Size, grow};

/// The link of a slot that is not in the list. All slots are below this number.
const NOWHERE: u32 = u32::MAX;

/// Slots, oldest first. Each operation takes constant time, except that [`List::push`] may grow the array.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// Link 0 is a sentinel, before the oldest and after the newest. A slot's link has the slot's number plus 1.
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
    bytes: Size,
}

impl Default for Link {
    fn default() -> Self {
        Self { older: NOWHERE, newer: NOWHERE, bytes: Size::ZERO }
    }
}

impl List {
    pub(super) fn new() -> Self {
        Self { links: vec![Link { older: 0, newer: 0, bytes: Size::ZERO }] }
    }

    fn link(&mut self, number: u32) -> &mut Link {
        &mut self.links[Slot(number).index()]
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.links.get(slot.index() + 1).is_some_and(|link| link.newer != NOWHERE)
    }

    /// Makes `slot`, which is not in the list, the newest.
    pub(super) fn push(&mut self, slot: Slot, bytes: Size) {
        grow(&mut self.links, slot.index() + 1);
        self.put(slot.0 + 1, bytes);
    }

    fn put(&mut self, number: u32, bytes: Size) {
        let older = self.links[0].older;
        *self.link(number) = Link { older, newer: 0, bytes };
        self.link(older).newer = number;
        self.links[0].older = number;
    }

    /// Takes `slot`, which is in the list, out of it.
    pub(super) fn remove(&mut self, slot: Slot) {
        let link = self.link(slot.0 + 1);
        let Link { older, newer, .. } = *link;
        link.newer = NOWHERE;
        self.link(older).newer = newer;
        self.link(newer).older = older;
    }

    /// Makes `slot`, which is in the list, the newest.
    pub(super) fn touch(&mut self, slot: Slot) {
        let bytes = self.link(slot.0 + 1).bytes;
        self.remove(slot);
        self.put(slot.0 + 1, bytes);
    }

    pub(super) fn oldest(&self) -> Option<Slot> {
        self.links[0].newer.checked_sub(1).map(Slot)
    }

    /// The slot after `slot`, which is in the list.
    pub(super) fn newer(&self, slot: Slot) -> Option<Slot> {
        self.links[slot.index() + 1].newer.checked_sub(1).map(Slot)
    }

    pub(super) fn bytes(&self, slot: Slot) -> u64 {
        self.links[slot.index() + 1].bytes.bytes()
    }

    pub(super) fn footprint(&self) -> usize {
        size_of::<Self>() + self.links.capacity() * size_of::<Link>()
    }
}

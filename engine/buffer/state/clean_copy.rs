//! The clean copy of a buffer: the backing in system memory it came from, and what was written since.

use std::ops::Range;

use super::dirty_ranges::DirtyRanges;
use crate::memory::{Backing, DomainId};
use crate::sync::{Fence, Fences};

/// The place in system memory that a buffer came from, and what it holds.
#[derive(Debug)]
pub(in crate::buffer) struct CleanCopy {
    /// The generation whose place it was. A mapping of that keeps the place until it is dropped.
    generation: u32,
    /// The bytes, and what still reads them. `None` while such a mapping lives, and when somebody who moves
    /// the buffer there has taken it.
    backing: Option<(Fences, Backing)>,
    dirty: DirtyRanges,
    /// What was still to write the place when the buffer left it.
    writers: Vec<Fence>,
}

impl CleanCopy {
    pub(in crate::buffer) fn new(
        generation: u32,
        backing: Option<(Fences, Backing)>,
        writers: Vec<Fence>,
    ) -> Self {
        Self { generation, backing, dirty: DirtyRanges::default(), writers }
    }

    /// Takes the place in that the last mapping of a generation has left, or that was lent and is not needed;
    /// gives it back if it is another one.
    pub(in crate::buffer) fn take_in(
        &mut self,
        generation: u32,
        left: (Fences, Backing),
    ) -> Option<(Fences, Backing)> {
        if generation != self.generation || self.backing.is_some() {
            return Some(left);
        }
        self.backing = Some(left);
        None
    }

    /// The place, for somebody who moves the buffer there, unless it is still being read. What is written
    /// meanwhile is noted here. With the generation that [`CleanCopy::take_in`] takes it back by.
    pub(in crate::buffer) fn lend(&mut self) -> Option<(u32, Backing)> {
        let backing = self.backing.take_if(|(fences, _)| fences.is_idle());
        backing.map(|(_, backing)| (self.generation, backing))
    }

    /// Whether its room is there as soon as it is given up: nobody reads it.
    pub(in crate::buffer) fn is_idle(&mut self) -> bool {
        self.backing.as_mut().is_some_and(|(fences, _)| fences.is_idle())
    }

    /// Whether the place, for whoever takes it now, holds what the buffer is to hold, whatever becomes of the
    /// buffer's own: nothing was written since, and all that wrote it has ended well.
    pub(in crate::buffer) fn is_sound(&self) -> bool {
        let ended_well = |fence: &Fence| matches!(fence.is_signalled(), Ok(true));
        self.backing.is_some() && self.dirty.is_clean() && self.writers.iter().all(ended_well)
    }

    pub(in crate::buffer) fn into_backing(self) -> Option<(Fences, Backing)> {
        self.backing
    }

    pub(in crate::buffer) fn wrote(&mut self, range: Range<u64>, size: u64) {
        self.dirty.mark(range, size);
    }

    /// Where it is, and how many bytes it has in use, if it is not a ghost.
    pub(in crate::buffer) fn footprint(&self) -> Option<(DomainId, u64)> {
        self.backing.as_ref().map(|(_, backing)| (backing.domain(), backing.footprint()))
    }

    pub(in crate::buffer) fn dirty(&self) -> &DirtyRanges {
        &self.dirty
    }
}

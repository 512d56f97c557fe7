//! The clean copy of a buffer: the backing in system memory that it came from, and which bytes were written
//! since.

use std::ops::Range;

use super::dirty_ranges::DirtyRanges;
use crate::memory::{Backing, DomainId};
use crate::sync::{Fence, Fences, Usage};

/// The backing in system memory that a buffer came from. It holds the buffer's bytes, except the dirty ones.
#[derive(Debug)]
pub(in crate::buffer) struct CleanCopy {
    /// The generation that the backing belonged to. A mapping of that generation keeps the backing until it
    /// is dropped.
    generation: u32,
    /// The backing, with the fences of its readers. `None` while a mapping of its generation lives, and while
    /// it is lent to a move.
    backing: Option<(Fences, Backing)>,
    dirty: DirtyRanges,
    /// Writers that were unfinished when the buffer left the backing.
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

    /// Returns the backing to the clean copy: its last mapping was dropped, or the move that borrowed it does
    /// not need it. A backing of another generation is passed back to the caller.
    pub(in crate::buffer) fn put_back(
        &mut self,
        generation: u32,
        released: (Fences, Backing),
    ) -> Option<(Fences, Backing)> {
        if generation != self.generation || self.backing.is_some() {
            return Some(released);
        }
        self.backing = Some(released);
        None
    }

    /// Lends the backing to a move of the buffer to it, unless it is still being read. Bytes written
    /// meanwhile are marked dirty here. Returns the generation as well, for [`CleanCopy::put_back`].
    pub(in crate::buffer) fn lend(&mut self) -> Option<(u32, Backing)> {
        let backing = self.backing.take_if(|(fences, _)| fences.is_idle());
        backing.map(|(_, backing)| (self.generation, backing))
    }

    /// Unfinished work that reads it, if there is some.
    pub(in crate::buffer) fn reader(&mut self) -> Option<Fence> {
        let (fences, _) = self.backing.as_mut()?;
        fences.pending(Usage::Bookkeep).into_iter().next()
    }

    /// The generation that its backing belonged to.
    pub(in crate::buffer) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether dropping it releases its memory at once: no fence reads it.
    pub(in crate::buffer) fn is_idle(&mut self) -> bool {
        self.backing.as_mut().is_some_and(|(fences, _)| fences.is_idle())
    }

    /// Whether the clean copy can replace a lost buffer: nothing was written since, and all its writers have
    /// succeeded.
    pub(in crate::buffer) fn is_current(&self) -> bool {
        let succeeded = |fence: &Fence| matches!(fence.is_signalled(), Ok(true));
        self.backing.is_some() && self.dirty.is_clean() && self.writers.iter().all(succeeded)
    }

    pub(in crate::buffer) fn into_backing(self) -> Option<(Fences, Backing)> {
        self.backing
    }

    pub(in crate::buffer) fn mark_dirty(&mut self, range: Range<u64>, size: u64) {
        self.dirty.mark(range, size);
    }

    /// Its domain and the bytes it has in use, unless a mapping or a move has the backing.
    pub(in crate::buffer) fn footprint(&self) -> Option<(DomainId, u64)> {
        self.backing.as_ref().map(|(_, backing)| (backing.domain(), backing.footprint()))
    }

    pub(in crate::buffer) fn dirty(&self) -> &DirtyRanges {
        &self.dirty
    }
}

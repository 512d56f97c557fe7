//! What a submission declares: the buffers that it uses, and how.

use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::buffer::attach::Mapping;
use crate::buffer::object::BufferInner;
use crate::buffer::state::DirtyRanges;
use crate::memory::View;
use crate::sync::Usage;
use crate::transfer::{Scope, Span};

/// What a submission declares; of up to eight buffers without the heap.
pub(super) type Uses<'a> = SmallVec<[Use<'a>; 8]>;

/// One buffer that a submission uses, as seen through a mapping when the use was declared.
pub(super) struct Use<'a> {
    pub(super) buffer: Held<'a>,
    /// The position in the submission's [`Views`].
    pub(super) view: usize,
    pub(super) offset: u64,
    pub(super) generation: u32,
    pub(super) usage: Usage,
    /// The bytes that the commands may write.
    pub(super) written: DirtyRanges,
    pub(super) scope: Scope,
}

/// What keeps a declared buffer alive until the submission was made.
pub(super) enum Held<'a> {
    /// A reference of the submission's: the mapping may be dropped before.
    Counted(Arc<BufferInner>),
    /// That of the mapping, which outlives the submission.
    Borrowed(&'a Arc<BufferInner>),
}

impl Deref for Held<'_> {
    type Target = Arc<BufferInner>;

    #[inline]
    fn deref(&self) -> &Arc<BufferInner> {
        match self {
            Self::Counted(buffer) => buffer,
            Self::Borrowed(buffer) => buffer,
        }
    }
}

impl Use<'_> {
    /// Whether the commands wait for work of this usage: for work that conflicts, and unordered uses for moves alone.
    pub(super) fn waits_for(&self, usage: Usage) -> bool {
        usage
            <= match self.usage {
                Usage::Bookkeep => Usage::Move,
                usage => usage.waits_for(),
            }
    }

    /// Whether a failure of work of this usage leaves the bytes that the commands see undefined. Unordered uses rely on
    /// no writer, only on moves.
    pub(super) fn relies_on(&self, usage: Usage) -> bool {
        usage <= if self.usage == Usage::Bookkeep { Usage::Move } else { Usage::Write }
    }
}

/// The device's views of the declared buffers. Many buffers are in one allocation, whose view is counted once for them.
#[derive(Default)]
pub(super) struct Views(SmallVec<[Arc<View>; 8]>);

impl Views {
    /// The position of a mapping's view. Only the last few are looked at: a view may be in the list twice.
    #[inline]
    pub(super) fn of(&mut self, mapping: &Mapping) -> usize {
        // Neighbours are mostly in one allocation.
        match self.0.last() {
            Some(view) if mapping.is_of_view(view) => self.0.len() - 1,
            _ => self.find_or_add(mapping),
        }
    }

    fn find_or_add(&mut self, mapping: &Mapping) -> usize {
        const LAST: usize = 8;
        let from = self.0.len().saturating_sub(LAST);
        let known = self.0[from..].iter().rposition(|view| mapping.is_of_view(view));
        if let Some(at) = known {
            return from + at;
        }
        self.0.push(mapping.shared_view());
        self.0.len() - 1
    }

    /// The bytes of a use.
    pub(super) fn span(&self, used: &Use<'_>) -> Span<'_> {
        Span { view: &self.0[used.view], offset: used.offset, len: used.buffer.size }
    }
}

/// Finds the use of a buffer: by the list while that is short, then by a hash table of positions plus 1, with linear
/// probing. At most half of it is used.
#[derive(Default)]
pub(super) struct UseTable(Vec<u32>);

impl UseTable {
    /// Longer lists have a table.
    const SHORT: usize = 16;

    /// The position of the use of `buffer`. If there is none, the caller adds one to `uses`.
    pub(super) fn find_or_add(
        &mut self,
        uses: &[Use<'_>],
        buffer: &Arc<BufferInner>,
    ) -> Option<usize> {
        if uses.len() < Self::SHORT {
            return uses.iter().position(|known| Arc::ptr_eq(&known.buffer, buffer));
        }
        if self.0.len() < 2 * (uses.len() + 1) {
            self.0 = vec![0; (8 * uses.len()).next_power_of_two()];
            for (at, used) in uses.iter().enumerate() {
                let slot = self.slot(uses, &used.buffer);
                self.set(slot, at);
            }
        }
        let slot = self.slot(uses, buffer);
        let known = (self.0[slot] as usize).checked_sub(1);
        if known.is_none() {
            self.set(slot, uses.len());
        }
        known
    }

    fn set(&mut self, slot: usize, at: usize) {
        // CAST: a list of so many uses does not fit into memory.
        self.0[slot] = at as u32 + 1;
    }

    /// Where the buffer is in the table, or the free place where it belongs.
    fn slot(&self, uses: &[Use<'_>], buffer: &Arc<BufferInner>) -> usize {
        let mask = self.0.len() - 1;
        // Fibonacci hashing of the address. CAST: the table is no longer than the address space.
        let hash = (Arc::as_ptr(buffer).addr() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut slot = hash as usize & mask;
        while let Some(at) = (self.0[slot] as usize).checked_sub(1)
            && !Arc::ptr_eq(&uses[at].buffer, buffer)
        {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

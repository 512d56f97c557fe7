//! Blocks of a pool that compaction empties.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::allocation::Allocation;
use super::backing::Backing;
use super::pool::Pool;
use super::size_class::CLASSES;
use super::survey::Survey;

impl Pool {
    /// Closes blocks that are not nearly full, if the others have room for their buffers. The emptiest come first.
    pub(crate) fn close_sparse(self: &Arc<Self>) -> SparseBlocks {
        self.emptying.fetch_add(1, Ordering::Relaxed);
        // Its drop ends that.
        let mut sparse = SparseBlocks { pool: Arc::clone(self), closed: vec![] };
        self.give_back_kept();
        let mut survey = Survey::new(self.blocks().open());
        for index in 0..CLASSES {
            for (block, used, free) in self.class(index).fill() {
                survey.add(block, index, used, free);
            }
        }
        sparse.closed = survey.sparse();
        self.set_closed(&sparse.closed, true);
        sparse
    }

    /// Closes blocks, or opens them again.
    pub(super) fn set_closed(&self, blocks: &[(u32, Weak<Allocation>)], closed: bool) {
        if blocks.is_empty() {
            return;
        }
        {
            let mut all = self.blocks();
            blocks.iter().for_each(|(number, block)| all.set_open(*number, block, !closed));
        }
        let is_one = |of: &Arc<Allocation>| {
            blocks.iter().any(|(_, block)| block.as_ptr() == Arc::as_ptr(of))
        };
        for index in 0..CLASSES {
            self.class(index).set_closed(is_one, closed);
        }
    }
}

/// Blocks that give out no slots while their buffers move away. They do again once this is dropped.
///
/// It keeps none of them alive: a removal of a device counts what does.
#[derive(Debug)]
pub(crate) struct SparseBlocks {
    pool: Arc<Pool>,
    /// With their numbers.
    closed: Vec<(u32, Weak<Allocation>)>,
}

impl SparseBlocks {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.closed.is_empty()
    }

    /// Whether a backing is in one of them.
    pub(crate) fn contain(&self, backing: &Backing) -> bool {
        self.closed.iter().any(|(_, block)| block.as_ptr() == Arc::as_ptr(backing.allocation()))
    }
}

impl Drop for SparseBlocks {
    fn drop(&mut self) {
        self.pool.set_closed(&self.closed, false);
        self.pool.emptying.fetch_sub(1, Ordering::Relaxed);
    }
}

//! How full the blocks of a pool are, and which of them can be emptied into the others.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::allocation::Allocation;
use super::size_class::CLASSES;

/// A block is left alone if more than so many eighths of it are in use.
const FULLEST: u64 = 7;

/// What each block has, from looks at one size class after the other: other threads may have changed some meanwhile.
pub(super) struct Survey {
    blocks: Vec<Block>,
    /// Index in `blocks` by the address of the allocation.
    by_address: HashMap<*const Allocation, usize>,
}

struct Block {
    number: u32,
    allocation: Weak<Allocation>,
    size: u64,
    /// Bytes that no slab has.
    uncut: u64,
    used: u64,
    /// Bytes in use and free in slabs, by size class.
    classes: Vec<(usize, u64, u64)>,
}

impl Survey {
    /// Begins with the open blocks: number, allocation, and bytes that no slab has.
    pub(super) fn new<'a>(open: impl Iterator<Item = (u32, &'a Arc<Allocation>, u64)>) -> Self {
        let (mut blocks, mut by_address) = (Vec::new(), HashMap::new());
        for (number, allocation, uncut) in open {
            by_address.insert(Arc::as_ptr(allocation), blocks.len());
            let (size, allocation) = (allocation.size(), Arc::downgrade(allocation));
            blocks.push(Block { number, allocation, size, uncut, used: 0, classes: Vec::new() });
        }
        Self { blocks, by_address }
    }

    /// Adds a slab of a size class.
    pub(super) fn add(&mut self, block: &Arc<Allocation>, class: usize, used: u64, free: u64) {
        if let Some(&at) = self.by_address.get(&Arc::as_ptr(block)) {
            let block = &mut self.blocks[at];
            block.used += used;
            block.classes.push((class, used, free));
        }
    }

    /// The blocks to empty, with their numbers: as many as the others have room for. A buffer needs a free slot of its
    /// class, or a part of a block that no slab has.
    pub(super) fn sparse(mut self) -> Vec<(u32, Weak<Allocation>)> {
        // By how many eighths of each are in use; of those with as many, the largest comes first: small ones are left,
        // which hold little beyond what is in use.
        self.blocks.sort_by_key(|block| (block.used * 8 / block.size.max(1), Reverse(block.size)));
        let mut uncut: u64 = self.blocks.iter().map(|block| block.uncut).sum();
        // Bytes free in the blocks that stay open, less those that are to move there.
        let mut room = [0_i64; CLASSES];
        for (class, _, free) in self.blocks.iter().flat_map(|block| &block.classes) {
            // CAST: less than the address space.
            room[*class] += *free as i64;
        }
        let mut closed = Vec::new();
        for block in self.blocks {
            if block.used == 0 || block.used * 8 > block.size * FULLEST {
                continue;
            }
            let mut left = room;
            for (class, used, free) in &block.classes {
                // CAST: as above.
                left[*class] -= (used + free) as i64;
            }
            let missing: i64 = left.iter().filter(|room| **room < 0).sum();
            // CAST: less than the address space.
            if uncut - block.uncut >= missing.unsigned_abs() {
                (room, uncut) = (left, uncut - block.uncut);
                closed.push((block.number, block.allocation));
            }
        }
        closed
    }
}

//! Zeroes unused memory of a pool ahead of its next use.

use std::sync::Arc;

use super::allocation::Allocation;
use super::allocation_host::HostWait;
use super::block::Span;
use super::host_copy::zero_by_host;
use super::pool::{Pool, Warm};
use super::size_class::CLASSES;
use super::slab::{Recycle, Slab};

/// Bytes that are zeroed between two looks at whether the memory is wanted back.
const AT_ONCE: u64 = 1 << 20;

/// The lists of a pool's unused memory: the size classes', then these.
const SPANS: usize = CLASSES;
const WHOLE: usize = CLASSES + 1;

impl Pool {
    /// Zeroes unused memory that the host has in its caches and that holds earlier buffers' bytes, until `bytes` bytes
    /// are zeroed: slots, what no slab has of the blocks, and whole allocations; of a slab's slots the last used ones come
    /// first. Ends early if another thread frees unused memory. Returns how many bytes.
    ///
    /// Locks: a size class', that of the blocks, and the list of unused allocations, but not while zeroing. While zeroing,
    /// that of [`super::unlisted::Unlisted`].
    pub(crate) fn zero_unused(&self, bytes: u64) -> u64 {
        let (mut zeroed, mut list) = (0, 0);
        while zeroed < bytes && list <= WHOLE {
            // Dropped after the piece.
            let _turn = self.unlisted.turn();
            let Some(mut piece) = self.take_piece(list) else {
                list += 1;
                continue;
            };
            match piece.zero() {
                Outcome::Zeroed => zeroed += piece.len(),
                Outcome::NotByHost => list += 1,
                Outcome::WantedBack => break,
            }
        }
        zeroed
    }

    /// Takes unused memory with an owner's bytes from a list. The list is locked no longer than that.
    fn take_piece(&self, list: usize) -> Option<Piece<'_>> {
        let memory = match list {
            SPANS => Memory::Span(self.blocks().take_stale()?),
            WHOLE => {
                let mut warm = self.warm();
                let at = warm.iter().rposition(|warm| warm.stale)?;
                Memory::Whole(warm.remove(at).slab)
            }
            class => {
                let (slab, slot) = self.class(class).take_stale()?;
                Memory::Slot(slab, slot)
            }
        };
        Some(Piece { pool: self, memory, zeroed: false })
    }
}

/// Unused memory that is in no list of its pool. Dropping it returns it, after a panic too.
struct Piece<'a> {
    pool: &'a Pool,
    memory: Memory,
    zeroed: bool,
}

enum Memory {
    /// A slot of a slab.
    Slot(Arc<Slab>, u32),
    /// A range of a block.
    Span(Span),
    /// An allocation of its own.
    Whole(Arc<Slab>),
}

enum Outcome {
    Zeroed,
    /// The host has it in no cache, or would have to wait.
    NotByHost,
    /// A thread waits to free it.
    WantedBack,
}

impl Piece<'_> {
    fn at(&self) -> (&Allocation, u64, u64) {
        match &self.memory {
            Memory::Slot(slab, slot) => (&slab.allocation, slab.offset(*slot), slab.slot_size),
            Memory::Span(Span { allocation, at, .. }) => (allocation, at.start, at.len),
            Memory::Whole(slab) => (&slab.allocation, 0, slab.allocation.size()),
        }
    }

    fn len(&self) -> u64 {
        self.at().2
    }

    #[expect(unsafe_code, reason = "writing to memory that has no user")]
    fn zero(&mut self) -> Outcome {
        let (allocation, start, len) = self.at();
        if !allocation.is_fast_for_host() {
            return Outcome::NotByHost;
        }
        let mut done = 0;
        while done < len {
            if self.pool.unlisted.is_wanted() {
                return Outcome::WantedBack;
            }
            let (at, part) = ((allocation, start + done), AT_ONCE.min(len - done));
            // SAFETY: a part of a slot, of a range of a block, or of an allocation, that is in no list of the pool. It was
            // returned when the work of its last owner had ended, and no buffer gets it before it is listed again.
            if !unsafe { zero_by_host(at, part, HostWait::Never) }.unwrap_or(false) {
                return Outcome::NotByHost;
            }
            done += part;
        }
        self.zeroed = true;
        Outcome::Zeroed
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        let (pool, stale) = (self.pool, !self.zeroed);
        match &self.memory {
            Memory::Slot(slab, slot) => {
                // As every slab of a size class.
                if let Some(cut) = slab.cut {
                    pool.release_slot(cut, *slot, stale);
                }
            }
            Memory::Span(Span { at, .. }) => pool.blocks().give_back(*at, stale),
            // Others may have been returned meanwhile, so that it is one too many.
            Memory::Whole(slab) => pool.keep(Warm { slab: Arc::clone(slab), stale }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::super::domain::Domain;
    use super::super::domain_id::DomainId;
    use super::super::memory_type::MemoryPriority;
    use super::super::origin::Origin;
    use super::super::pool::BackingKind;
    use super::super::size_class::footprint;
    use super::*;

    const SIZE: u64 = 256 << 10;

    /// A pool with unused memory that holds an owner's bytes, in each list.
    fn used_pool() -> Arc<Pool> {
        let domain = Arc::new(Domain::new(DomainId::System, u64::MAX));
        let pool = Pool::new(Origin::of_memfds(&domain));
        let allocate = |dedicated| {
            let bytes = footprint(SIZE, dedicated, u64::MAX).expect("it is not too large");
            domain.charge(bytes).expect("there is room").spend();
            let kind = BackingKind { dedicated, sparing: false, priority: MemoryPriority::DEFAULT };
            let backing = pool.allocate(SIZE, kind, (u64::MAX, u64::MAX));
            let mut backing = backing.expect("there is memory");
            backing.make_valid();
            backing
        };
        // One slab of a class stays when it is unused, and the others return to their blocks.
        let used = [false, false, false, true].map(allocate);
        drop(used);
        pool
    }

    fn lists(pool: &Pool) -> Vec<usize> {
        (0..=WHOLE).filter(|&list| pool.take_piece(list).is_some()).collect()
    }

    #[test]
    fn memory_whose_zeroing_panics_is_listed_again_and_still_stale() {
        let pool = used_pool();
        let before = lists(&pool);
        assert!(before.len() >= 2 && before.ends_with(&[WHOLE]), "{before:?}");
        for &list in &before {
            let zeroing = AssertUnwindSafe(|| {
                let _piece = pool.take_piece(list).expect("it is listed");
                panic!("as a subscriber of `tracing` may");
            });
            catch_unwind(zeroing).expect_err("it panics");
        }
        assert_eq!(lists(&pool), before);
        let zeroed = pool.zero_unused(u64::MAX);
        assert!(zeroed >= 2 * SIZE, "{zeroed}");
        assert_eq!((lists(&pool), pool.zero_unused(u64::MAX)), (vec![], 0));
    }

    #[test]
    fn a_trim_gets_what_is_being_zeroed_before_it_is_zeroed_whole() {
        let held = used_pool().trim();
        assert!(held >= 2 * SIZE, "{held}");
        for list in lists(&used_pool()) {
            let pool = used_pool();
            thread::scope(|scope| {
                let turn = pool.unlisted.turn();
                let mut piece = pool.take_piece(list).expect("it is listed");
                let trimming = scope.spawn(|| pool.trim());
                while !pool.unlisted.is_wanted() {
                    assert!(!trimming.is_finished(), "it waits for the piece");
                    thread::yield_now();
                }
                assert!(matches!(piece.zero(), Outcome::WantedBack));
                drop(piece);
                drop(turn);
                let freed = trimming.join().expect("no panic");
                assert!(freed >= held, "{freed} of {held} bytes of list {list}");
            });
            assert_eq!(pool.trim(), 0, "nothing was left");
        }
    }
}

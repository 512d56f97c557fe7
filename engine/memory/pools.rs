//! The pools of an engine: one per provider and set of devices that share its buffers.

use std::sync::{Arc, OnceLock};

use super::device_set::DeviceSet;
use super::pool::Pool;
use super::provider::Provider;

/// How many sets of devices have slabs of their own, per provider. Buffers of further sets share those of all devices. It
/// bounds what half-empty slabs hold, and the length of the list.
const MOST_SETS: usize = 16;

/// A list that only grows, so that a look-up needs neither a lock nor a reference count: every new buffer looks
/// up its pool.
#[derive(Debug, Default)]
pub(crate) struct Pools(OnceLock<Box<Node>>);

#[derive(Debug)]
struct Node {
    pool: Arc<Pool>,
    next: Pools,
}

impl Pools {
    /// The pool of `provider` for buffers that `sharers` share, made by `make` if there is none yet.
    pub(crate) fn get(
        &self,
        provider: Provider,
        sharers: DeviceSet,
        make: impl Fn(DeviceSet) -> Arc<Pool>,
    ) -> &Arc<Pool> {
        // Of two threads that reach the end, one appends; the other one checks the appended node.
        loop {
            match self.look_up(provider, sharers) {
                Ok(pool) => return pool,
                Err((end, sharers)) => {
                    let node = || Box::new(Node { pool: make(sharers), next: Self::default() });
                    end.0.get_or_init(node);
                }
            }
        }
    }

    /// The pool of `provider` for buffers that `sharers` share, if there is one.
    pub(crate) fn find(&self, provider: Provider, sharers: DeviceSet) -> Option<&Arc<Pool>> {
        self.look_up(provider, sharers).ok()
    }

    /// The pool, or the end of the list and the set of devices that a pool appended there is for.
    fn look_up(
        &self,
        provider: Provider,
        mut sharers: DeviceSet,
    ) -> Result<&Arc<Pool>, (&Self, DeviceSet)> {
        let (mut rest, mut sets) = (self, 0);
        loop {
            let node = rest.0.get().ok_or((rest, sharers))?;
            if node.pool.provider() == provider {
                if node.pool.sharers() == sharers {
                    return Ok(&node.pool);
                }
                sets += 1;
                if sets == MOST_SETS {
                    (rest, sharers) = (self, DeviceSet::ALL);
                    continue;
                }
            }
            rest = &node.next;
        }
    }

    /// All pools.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let first = self.0.get();
        std::iter::successors(first, |node| node.next.0.get()).map(|node| &node.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::super::backing::Backing;
    use super::super::domain::Domain;
    use super::super::domain_id::DomainId;
    use super::super::memory_type::MemoryPriority;
    use super::super::origin::Origin;
    use super::super::pool::BackingKind;
    use super::super::size_class::footprint;
    use super::*;
    use crate::device::DeviceId;

    #[test]
    fn no_slab_exceeds_its_limit_and_larger_buffers_have_one_of_their_own() {
        const LIMIT: u64 = 1 << 20;
        let domain = Arc::new(Domain::new(DomainId::System, u64::MAX));
        let pool = Pool::new(Origin::of_memfds(&domain));
        let largest = |size: u64, number: usize| {
            let allocate = |_| {
                domain.charge(size).expect("there is room").spend();
                let wanted = BackingKind {
                    dedicated: false,
                    sparing: false,
                    priority: MemoryPriority::DEFAULT,
                };
                pool.allocate(size, wanted, (u64::MAX, LIMIT)).expect("there is memory")
            };
            let backings: Vec<_> = (0..number).map(allocate).collect();
            backings.iter().map(|backing| backing.allocation().size()).max()
        };
        assert_eq!(largest(64 << 10, 400), Some(LIMIT));
        assert_eq!(largest(2 << 20, 2), Some(2 << 20));
    }

    /// A pool of system memory, and slots of it that are charged.
    fn charged(domain: &Arc<Domain>) -> (Arc<Pool>, impl Fn(u64) -> Backing) {
        let pool = Pool::new(Origin::of_memfds(domain));
        let (of, domain) = (Arc::clone(&pool), Arc::clone(domain));
        let slot = move |size| {
            let bytes = footprint(size, false, u64::MAX).expect("it is small");
            domain.charge(bytes).expect("there is room").spend();
            let priority = MemoryPriority::DEFAULT;
            let wanted = BackingKind { dedicated: false, sparing: false, priority };
            of.allocate(size, wanted, (u64::MAX, u64::MAX)).expect("there is memory")
        };
        (pool, slot)
    }

    #[test]
    fn what_a_thread_keeps_is_charged_but_not_used_and_is_given_back_before_a_refusal() {
        const ALL: u64 = 1 << 20;
        let domain = Arc::new(Domain::new(DomainId::System, ALL));
        let (pool, slot) = charged(&domain);
        let (one, other) = (slot(4096), slot(4096));
        pool.keep_slot(one);
        assert_eq!((domain.used(), domain.charged()), (4096, 8192));
        let again = pool.take_kept(4000, u64::MAX).expect("it was kept");
        assert_eq!((domain.used(), domain.charged()), (8192, 8192));
        pool.keep_slot(again);
        let rest = domain.charge(ALL - 4096).expect("what is kept is given back");
        assert_eq!((domain.used(), domain.charged()), (ALL, ALL));
        pool.keep_slot(other);
        assert_eq!(domain.charged(), ALL - 4096, "nothing is kept in a full domain");
        drop(rest);
        // Less than a quarter is in use.
        drop(domain.charge(1).expect("room"));
        pool.keep_slot(slot(4096));
        assert_eq!((domain.used(), domain.charged()), (0, 4096));
        let late = slot(8192);
        let claim = domain.claim(ALL);
        assert_eq!(domain.charged(), 8192, "what is kept is given back before a claim");
        pool.keep_slot(late);
        assert_eq!(domain.charged(), 0, "nothing is kept while bytes are claimed");
        claim.take().expect("all is free").spend();
        drop(claim);
        domain.credit(ALL);
    }

    #[test]
    fn a_thread_keeps_few_bytes_and_no_large_slots() {
        let domain = Arc::new(Domain::new(DomainId::System, 1 << 30));
        let (pool, slot) = charged(&domain);
        for (size, most) in [(256, 8), (4096, 8), (40 << 10, 6), (64 << 10, 4), (128 << 10, 0)] {
            let all: Vec<_> = (0..20).map(|_| slot(size)).collect();
            all.into_iter().for_each(|slot| pool.keep_slot(slot));
            let kept = domain.charged() / size;
            assert!(kept <= most && (kept > 0 || most == 0), "{kept} of {size} bytes");
            assert_eq!(domain.used(), 0);
            assert_eq!(pool.give_back_kept(), most > 0);
            assert_eq!(domain.charged(), 0);
        }
        // Of all size classes together: the less, the smaller the domain.
        let limits =
            [(1 << 30, 250, 4 << 20), (64 << 20, 250, 1 << 20), (16 << 20, 150, 256 << 10)];
        for (capacity, slots, most) in limits {
            let domain = Arc::new(Domain::new(DomainId::System, capacity));
            let (pool, slot) = charged(&domain);
            let all: Vec<_> = (1..=slots).map(|size| slot(size * 256)).collect();
            all.into_iter().for_each(|slot| pool.keep_slot(slot));
            assert!(domain.charged() <= most, "{} bytes of {capacity}", domain.charged());
            pool.trim();
            assert_eq!(domain.charged(), 0);
        }
    }

    #[test]
    fn a_pool_that_ends_gives_back_what_threads_keep() {
        let domain = Arc::new(Domain::new(DomainId::System, 1 << 30));
        let (pool, slot) = charged(&domain);
        pool.keep_slot(slot(4096));
        drop((pool, slot));
        let usage = domain.usage();
        assert_eq!((domain.charged(), usage.used, usage.held), (0, 0, 0));
    }

    #[test]
    fn sets_beyond_the_limit_share_the_pool_of_all_devices() {
        let domain = Arc::new(Domain::new(DomainId::System, u64::MAX));
        let pools = Pools::default();
        let get = |provider, sharers| {
            pools.get(provider, sharers, |sharers| {
                Pool::new(Origin { provider, sharers, ..Origin::of_memfds(&domain) })
            })
        };
        let set = |number| DeviceSet::of(DeviceId(number));
        for number in 0..60 {
            let sharers = get(Provider::Memfd, set(number)).sharers();
            let own = usize::from(number) < MOST_SETS;
            assert_eq!(sharers, if own { set(number) } else { DeviceSet::ALL }, "{number}");
            assert_eq!(get(Provider::Anonymous, set(0)).sharers(), set(0));
        }
        assert_eq!(get(Provider::Memfd, set(3)).sharers(), set(3), "as before");
        assert_eq!(pools.iter().count(), MOST_SETS + 2);
    }
}

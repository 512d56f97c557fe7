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
        mut sharers: DeviceSet,
        make: impl Fn(DeviceSet) -> Arc<Pool>,
    ) -> &Arc<Pool> {
        let (mut rest, mut sets) = (self, 0);
        loop {
            // Of two threads that reach the end, one appends; the other one checks the appended node.
            let node = rest
                .0
                .get_or_init(|| Box::new(Node { pool: make(sharers), next: Self::default() }));
            if node.pool.provider() == provider {
                if node.pool.sharers() == sharers {
                    return &node.pool;
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
    use super::super::domain::Domain;
    use super::super::domain_id::DomainId;
    use super::super::memory_type::MemoryPriority;
    use super::super::origin::Origin;
    use super::super::pool::BackingKind;
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

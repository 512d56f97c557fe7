//! Bulk groups: a use of one member counts as a use of all. The public handle is [`crate::AgeGroup`].
//!
//! Kernel counterpart: `ttm_lru_bulk_move`, which has a range of the list for each domain and priority.
//! Here the members of a group that have the same rank in a domain form a *bulk*, which the policy sees as
//! one buffer. A use costs the same however many members there are. The members are evicted one after the
//! other, least recently used first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::policy::Slot;
use crate::memory::{DomainId, GroupId};

/// A bulk group, and the domains where it may have members.
#[derive(Debug)]
pub(crate) struct BulkGroup {
    id: u64,
    /// A bit for each domain whose eviction list ever had a member: bit 0 for system memory, the others in
    /// turn for devices. Relaxed: a thread that reads an old value notifies the domain of the next use.
    domains: AtomicU64,
}

impl BulkGroup {
    /// `id` is unique.
    pub(crate) fn new(id: u64) -> Self {
        Self { id, domains: AtomicU64::new(0) }
    }

    /// Notes that the group may have members in the eviction list of that domain.
    pub(crate) fn may_be_in(&self, domain: DomainId) {
        self.domains.fetch_or(bit(domain), Ordering::Relaxed);
    }

    /// Whether it may have members in the eviction list of that domain.
    pub(crate) fn is_in(&self, domain: DomainId) -> bool {
        self.domains.load(Ordering::Relaxed) & bit(domain) != 0
    }

    /// Whether it may have members in several domains.
    pub(super) fn spans_domains(&self) -> bool {
        self.domains.load(Ordering::Relaxed).count_ones() > 1
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

fn bit(domain: DomainId) -> u64 {
    match domain {
        DomainId::System => 1,
        DomainId::Vram(device) => 1 << (1 + device.index() % 63),
    }
}

/// The bulk group of each buffer that is in one, by the buffer's key. Buffers without one cost nothing.
#[derive(Debug)]
pub(crate) struct BulkGroupTable<K> {
    members: Mutex<HashMap<K, Arc<BulkGroup>>>,
    /// The number of members; at 0 the table is not searched. Relaxed: a buffer's own entry is written under
    /// its reservation, and a thread that looks for it holds that.
    count: AtomicUsize,
    made: AtomicU64,
}

impl<K> Default for BulkGroupTable<K> {
    fn default() -> Self {
        Self { members: Mutex::default(), count: AtomicUsize::new(0), made: AtomicU64::new(0) }
    }
}

impl<K: Copy + Eq + Hash> BulkGroupTable<K> {
    /// Makes a bulk group without members.
    pub(crate) fn make(&self) -> BulkGroup {
        BulkGroup::new(self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// Sets the bulk group of a buffer.
    pub(crate) fn set(&self, buffer: K, group: Option<&Arc<BulkGroup>>) {
        let mut members = self.lock();
        match group {
            Some(group) => _ = members.insert(buffer, Arc::clone(group)),
            None => _ = members.remove(&buffer),
        }
        self.count.store(members.len(), Ordering::Relaxed);
    }

    /// Whether no buffer is in one.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The bulk group of a buffer.
    pub(crate) fn of(&self, buffer: K) -> Option<Arc<BulkGroup>> {
        if self.is_empty() { None } else { self.lock().get(&buffer).cloned() }
    }

    /// Removes a buffer that was destroyed.
    pub(crate) fn forget(&self, buffer: K) {
        if !self.is_empty() {
            self.set(buffer, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<BulkGroup>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bulks of one domain.
#[derive(Debug, Default)]
pub(super) struct Bulks {
    /// Members of bulks, resident or not.
    members: HashMap<Slot, Member>,
    /// Bulks, by the slot that represents them in a policy's order.
    bulks: HashMap<Slot, Bulk>,
    /// The bulks of each group, by its number.
    groups: HashMap<u64, SmallVec<[Slot; 1]>>,
    /// The last position that was given to a member.
    given: u64,
}

#[derive(Debug)]
struct Member {
    bulk: Slot,
    /// Its position in the bulk while it may be chosen.
    order: u64,
}

/// The members of one bulk group that have the same rank and client group.
#[derive(Debug)]
pub(super) struct Bulk {
    of: Arc<BulkGroup>,
    pub(super) rank: usize,
    pub(super) group: GroupId,
    /// The members that may be chosen, in the order of their last uses, with their bytes.
    resident: BTreeMap<u64, (Slot, u64)>,
    /// The number of members, resident or not.
    members: u32,
    /// Bytes of the resident members.
    pub(super) bytes: u64,
    /// The size that the policy knows. If it is wrong, a choice takes longer; nothing else depends on it.
    pub(super) told: u64,
}

/// A member was admitted to a bulk, or withdrawn from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) bulk: Slot,
    pub(super) rank: usize,
    pub(super) bytes: u64,
    /// Whether it was the first resident member, or the last.
    pub(super) alone: bool,
}

impl Bulks {
    /// Whether no buffer is in a bulk.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The bulk group of a member.
    pub(super) fn group_of(&self, slot: Slot) -> Option<&Arc<BulkGroup>> {
        Some(&self.bulks[&self.members.get(&slot)?.bulk].of)
    }

    /// The bulks of a bulk group.
    pub(super) fn of_group(&self, group: u64) -> SmallVec<[Slot; 1]> {
        self.groups.get(&group).cloned().unwrap_or_default()
    }

    pub(super) fn get(&mut self, bulk: Slot) -> &mut Bulk {
        let Some(bulk) = self.bulks.get_mut(&bulk) else {
            unreachable!("a bulk is removed after its members")
        };
        bulk
    }

    /// Makes `slot` a member that is not resident yet. `make` makes a slot for a new bulk.
    pub(super) fn join(
        &mut self,
        slot: Slot,
        of: &Arc<BulkGroup>,
        (rank, group): (usize, GroupId),
        make: impl FnOnce() -> Slot,
    ) {
        let bulks = self.groups.entry(of.id).or_default();
        let fits = |bulk: &&Slot| {
            let bulk = &self.bulks[*bulk];
            (bulk.rank, bulk.group) == (rank, group)
        };
        let known = bulks.iter().find(fits).copied();
        let bulk = known.unwrap_or_else(|| {
            let (made, resident) = (make(), BTreeMap::new());
            let of = Arc::clone(of);
            let bulk = Bulk { of, rank, group, resident, members: 0, bytes: 0, told: 0 };
            self.bulks.insert(made, bulk);
            bulks.push(made);
            made
        });
        self.get(bulk).members += 1;
        self.members.insert(slot, Member { bulk, order: 0 });
    }

    /// Removes a member that is not resident. Returns its bulk group, and its bulk if that has no other member.
    pub(super) fn leave(&mut self, slot: Slot) -> Option<(Arc<BulkGroup>, Option<Slot>)> {
        let bulk = self.members.remove(&slot)?.bulk;
        let left = self.get(bulk);
        left.members -= 1;
        let of = Arc::clone(&left.of);
        if left.members > 0 {
            return Some((of, None));
        }
        self.bulks.remove(&bulk);
        if let Some(bulks) = self.groups.get_mut(&of.id) {
            bulks.retain(|other| *other != bulk);
            if bulks.is_empty() {
                self.groups.remove(&of.id);
            }
        }
        Some((of, Some(bulk)))
    }

    /// Makes a member the most recently used resident one of its bulk.
    pub(super) fn admit(&mut self, slot: Slot, bytes: u64) -> Changed {
        self.given += 1;
        let order = self.given;
        let Some(member) = self.members.get_mut(&slot) else {
            unreachable!("only members are admitted")
        };
        member.order = order;
        let at = member.bulk;
        let bulk = self.get(at);
        bulk.resident.insert(order, (slot, bytes));
        bulk.bytes += bytes;
        Changed { bulk: at, rank: bulk.rank, bytes: bulk.bytes, alone: bulk.resident.len() == 1 }
    }

    /// Makes a member unavailable for eviction. `None` if it was not available.
    pub(super) fn withdraw(&mut self, slot: Slot) -> Option<Changed> {
        let &Member { bulk: at, order } = self.members.get(&slot)?;
        let bulk = self.get(at);
        let (_, bytes) = bulk.resident.remove(&order)?;
        bulk.bytes -= bytes;
        let alone = bulk.resident.is_empty();
        Some(Changed { bulk: at, rank: bulk.rank, bytes: bulk.bytes, alone })
    }

    /// The resident members of a bulk in eviction order.
    pub(super) fn in_order(&self, bulk: Slot) -> impl Iterator<Item = Slot> {
        let members = self.bulks.get(&bulk).into_iter().flat_map(|bulk| bulk.resident.values());
        members.map(|(slot, _)| *slot)
    }
}

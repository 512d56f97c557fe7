//! Age groups: buffers of which a use of one is a use of all.
//!
//! Kernel counterpart: `ttm_lru_bulk_move`, which has a range of the list for each place and each priority.
//! Here those of a group that have the same rank in a place are a *bulk*: in the policy's eyes they are one
//! buffer. So a use costs the same however many they are, and they go one after the other, whoever was used
//! the longest time ago first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::policy::Slot;
use crate::memory::{DomainId, GroupId};

/// An age group, and where it may have members.
#[derive(Debug)]
pub(crate) struct Ageing {
    id: u64,
    /// A bit for each place in whose order somebody of it ever stood: bit 0 for system memory, the others in
    /// turn for devices. Relaxed: who sees it late tells that place of the next use.
    places: AtomicU64,
}

impl Ageing {
    /// `id` is no other one's.
    pub(crate) fn new(id: u64) -> Self {
        Self { id, places: AtomicU64::new(0) }
    }

    /// From now on it may have members in the order of that place.
    pub(crate) fn may_be_in(&self, place: DomainId) {
        self.places.fetch_or(bit(place), Ordering::Relaxed);
    }

    pub(crate) fn is_in(&self, place: DomainId) -> bool {
        self.places.load(Ordering::Relaxed) & bit(place) != 0
    }

    /// Whether it may have members in several places.
    pub(super) fn spans(&self) -> bool {
        self.places.load(Ordering::Relaxed).count_ones() > 1
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

fn bit(place: DomainId) -> u64 {
    match place {
        DomainId::System => 1,
        DomainId::Vram(device) => 1 << (1 + device.index() % 63),
    }
}

/// The age groups of one place.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Who is in a bulk, wherever it is now.
    members: HashMap<Slot, Member>,
    /// By the slot that stands for them in a policy's order.
    bulks: HashMap<Slot, Bulk>,
    /// By the group's number: its bulks.
    groups: HashMap<u64, SmallVec<[Slot; 1]>>,
    /// How many places in bulks were given.
    given: u64,
}

#[derive(Debug)]
struct Member {
    bulk: Slot,
    /// Its place among those of the bulk, while it may be asked to leave.
    order: u64,
}

/// Those of one age group, rank and client group.
#[derive(Debug)]
pub(super) struct Bulk {
    of: Arc<Ageing>,
    pub(super) rank: usize,
    pub(super) group: GroupId,
    /// Those who may be asked to leave, in the order of their last uses, with their bytes.
    here: BTreeMap<u64, (Slot, u64)>,
    /// How many it has, here or not.
    members: u32,
    /// What those who are here have.
    pub(super) bytes: u64,
    /// What the policy was told that they have. It costs a longer look to be wrong about it, and nothing
    /// else.
    pub(super) told: u64,
}

/// Somebody has come to a bulk, or left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) bulk: Slot,
    pub(super) rank: usize,
    pub(super) bytes: u64,
    /// Whether it was the first one, or the last one.
    pub(super) alone: bool,
}

impl Ages {
    /// Whether nobody is in any.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The age group of a member.
    pub(super) fn of(&self, slot: Slot) -> Option<&Arc<Ageing>> {
        Some(&self.bulks[&self.members.get(&slot)?.bulk].of)
    }

    /// The bulks of an age group.
    pub(super) fn bulks(&self, of: u64) -> SmallVec<[Slot; 1]> {
        self.groups.get(&of).cloned().unwrap_or_default()
    }

    pub(super) fn bulk(&mut self, bulk: Slot) -> &mut Bulk {
        let Some(bulk) = self.bulks.get_mut(&bulk) else {
            unreachable!("bulks go after their members")
        };
        bulk
    }

    /// Makes `slot` a member, which is not here yet; `make` makes a slot for a new bulk.
    pub(super) fn join(
        &mut self,
        slot: Slot,
        of: &Arc<Ageing>,
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
            let (made, here) = (make(), BTreeMap::new());
            let of = Arc::clone(of);
            let bulk = Bulk { of, rank, group, here, members: 0, bytes: 0, told: 0 };
            self.bulks.insert(made, bulk);
            bulks.push(made);
            made
        });
        self.bulk(bulk).members += 1;
        self.members.insert(slot, Member { bulk, order: 0 });
    }

    /// It is no member any more, and not here. Returns its age group, and its bulk if it was the last one of
    /// that.
    pub(super) fn leave(&mut self, slot: Slot) -> Option<(Arc<Ageing>, Option<Slot>)> {
        let bulk = self.members.remove(&slot)?.bulk;
        let left = self.bulk(bulk);
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

    /// A member is here from now on, and was used last of its bulk.
    pub(super) fn arrive(&mut self, slot: Slot, bytes: u64) -> Changed {
        self.given += 1;
        let order = self.given;
        let Some(member) = self.members.get_mut(&slot) else { unreachable!("only members arrive") };
        member.order = order;
        let at = member.bulk;
        let bulk = self.bulk(at);
        bulk.here.insert(order, (slot, bytes));
        bulk.bytes += bytes;
        Changed { bulk: at, rank: bulk.rank, bytes: bulk.bytes, alone: bulk.here.len() == 1 }
    }

    /// A member may not be asked to leave any more. `None` if it could not before.
    pub(super) fn depart(&mut self, slot: Slot) -> Option<Changed> {
        let &Member { bulk: at, order } = self.members.get(&slot)?;
        let bulk = self.bulk(at);
        let (_, bytes) = bulk.here.remove(&order)?;
        bulk.bytes -= bytes;
        Some(Changed { bulk: at, rank: bulk.rank, bytes: bulk.bytes, alone: bulk.here.is_empty() })
    }

    /// Those of a bulk who may be asked to leave, in the order in which to ask.
    pub(super) fn in_order(&self, bulk: Slot) -> impl Iterator<Item = Slot> {
        self.bulks.get(&bulk).into_iter().flat_map(|bulk| bulk.here.values()).map(|(slot, _)| *slot)
    }
}

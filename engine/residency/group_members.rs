//! Index of a domain's entries by client group, so that a group's own are found among a million others.

use super::policy::Slot;
use crate::memory::GroupId;

/// The slots of each client group: eight bytes per entry of a group. Entries without a group are not in it
/// and cost nothing.
#[derive(Debug, Default)]
pub(super) struct GroupMembers {
    /// Slots by group, in no order.
    groups: Vec<Vec<Slot>>,
    /// The position of each slot in its group's list, by slot.
    positions: Vec<u32>,
}

impl GroupMembers {
    pub(super) fn insert(&mut self, group: GroupId, slot: Slot) {
        if group == GroupId::NONE {
            return;
        }
        let (group, at) = (usize::from(group.0), slot.0 as usize);
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, Vec::new);
        }
        if self.positions.len() <= at {
            self.positions.resize(at + 1, 0);
        }
        // CAST: a domain has fewer than 2^32 buffers.
        self.positions[at] = self.groups[group].len() as u32;
        self.groups[group].push(slot);
    }

    /// Removes `slot`, which is in the list of `group`.
    pub(super) fn remove(&mut self, group: GroupId, slot: Slot) {
        if group == GroupId::NONE {
            return;
        }
        let members = &mut self.groups[usize::from(group.0)];
        let at = self.positions[slot.0 as usize];
        let removed = members.swap_remove(at as usize);
        debug_assert_eq!(removed, slot, "every member's position is known");
        if let Some(moved) = members.get(at as usize) {
            self.positions[moved.0 as usize] = at;
        }
    }

    /// The slots of a group's entries, resident or not.
    pub(super) fn of(&self, group: GroupId) -> &[Slot] {
        self.groups.get(usize::from(group.0)).map_or(&[], Vec::as_slice)
    }

    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        let members: usize =
            self.groups.iter().map(|members| members.capacity() * size_of::<Slot>()).sum();
        let positions = self.positions.capacity() * size_of::<u32>();
        members + positions + self.groups.capacity() * size_of::<Vec<Slot>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_member_keeps_the_others() {
        let mut members = GroupMembers::default();
        let groups = [GroupId(2), GroupId(1), GroupId::NONE];
        for slot in 0..30 {
            members.insert(groups[slot as usize % 3], Slot(slot));
        }
        for slot in [0, 27, 1, 13, 2, 5] {
            members.remove(groups[slot as usize % 3], Slot(slot));
        }
        let of = |group| {
            let mut of: Vec<_> = members.of(GroupId(group)).iter().map(|slot| slot.0).collect();
            of.sort_unstable();
            of
        };
        assert_eq!(of(2), [3, 6, 9, 12, 15, 18, 21, 24]);
        assert_eq!(of(1), [4, 7, 10, 16, 19, 22, 25, 28]);
        assert!(members.of(GroupId::NONE).is_empty() && members.of(GroupId(9)).is_empty());
    }
}

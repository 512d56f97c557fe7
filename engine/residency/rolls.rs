//! Who of a place belongs to which client group, so that a group's own are found among a million others.

use super::policy::Slot;
use crate::memory::GroupId;

/// Nobody without a group is in it, or costs anything: eight bytes for each who has one.
#[derive(Debug, Default)]
pub(super) struct Rolls {
    /// By group, in no order.
    rolls: Vec<Vec<Slot>>,
    /// Where each is in its roll, by slot.
    places: Vec<u32>,
}

impl Rolls {
    pub(super) fn enter(&mut self, group: GroupId, slot: Slot) {
        if group == GroupId::NONE {
            return;
        }
        let (group, at) = (usize::from(group.0), slot.0 as usize);
        if self.rolls.len() <= group {
            self.rolls.resize_with(group + 1, Vec::new);
        }
        if self.places.len() <= at {
            self.places.resize(at + 1, 0);
        }
        // CAST: nobody has 2^32 buffers.
        self.places[at] = self.rolls[group].len() as u32;
        self.rolls[group].push(slot);
    }

    /// `slot` is in that roll.
    pub(super) fn leave(&mut self, group: GroupId, slot: Slot) {
        if group == GroupId::NONE {
            return;
        }
        let roll = &mut self.rolls[usize::from(group.0)];
        let at = self.places[slot.0 as usize];
        let left = roll.swap_remove(at as usize);
        debug_assert_eq!(left, slot, "everybody's place is known");
        if let Some(moved) = roll.get(at as usize) {
            self.places[moved.0 as usize] = at;
        }
    }

    /// Everybody of a group who stands in the place's order, here or not.
    pub(super) fn of(&self, group: GroupId) -> &[Slot] {
        self.rolls.get(usize::from(group.0)).map_or(&[], Vec::as_slice)
    }

    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        let rolls: usize = self.rolls.iter().map(|roll| roll.capacity() * size_of::<Slot>()).sum();
        let places = self.places.capacity() * size_of::<u32>();
        rolls + places + self.rolls.capacity() * size_of::<Vec<Slot>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_leaves_the_others() {
        let mut rolls = Rolls::default();
        let groups = [GroupId(2), GroupId(1), GroupId::NONE];
        for slot in 0..30 {
            rolls.enter(groups[slot as usize % 3], Slot(slot));
        }
        for slot in [0, 27, 1, 13, 2, 5] {
            rolls.leave(groups[slot as usize % 3], Slot(slot));
        }
        let of = |group| {
            let mut of: Vec<_> = rolls.of(GroupId(group)).iter().map(|slot| slot.0).collect();
            of.sort_unstable();
            of
        };
        assert_eq!(of(2), [3, 6, 9, 12, 15, 18, 21, 24]);
        assert_eq!(of(1), [4, 7, 10, 16, 19, 22, 25, 28]);
        assert!(rolls.of(GroupId::NONE).is_empty() && rolls.of(GroupId(9)).is_empty());
    }
}

//! [`Policy`] for [`Adaptive`].

use super::choice::{Adaptive, Entry, NOWHERE};
use super::outlook::Habit;
use crate::residency::policy::interface::{Policy, Slot};
use crate::residency::policy::size::{Size, grow};

/// A boxed [`Adaptive`]: the default policy.
pub(crate) fn adaptive() -> Box<dyn Policy> {
    Box::new(Adaptive::new())
}

impl Policy for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, bytes: u64, _: bool) {
        grow(&mut self.entries, slot.index());
        self.now = self.now.wrapping_add(1);
        let (now, memory) = (self.now, self.memory());
        let entry = &mut self.entries[slot.index()];
        let habit = match entry.habit {
            None => Habit::new(bytes),
            Some(habit) => {
                let age = now.wrapping_sub(entry.last);
                self.outlook.returned(habit, age, now, memory);
                entry.used_again(habit, age, bytes)
            }
        };
        entry.habit = Some(habit);
        entry.last = now;
        self.outlook.start_waiting(habit, now, memory);
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        grow(&mut self.entries, slot.index());
        // The size of a resident may have changed.
        self.leave(slot);
        let bytes = Size::new(bytes);
        let position = self.residents.push(slot.0, bytes);
        let entry = &mut self.entries[slot.index()];
        (entry.bytes, entry.position) = (bytes, position);
        if entry.habit.is_none() {
            // It was never used: its age counts from its arrival.
            entry.last = self.now;
        }
    }

    fn leave(&mut self, slot: Slot) {
        let here = self.entries.get(slot.index()).filter(|entry| entry.position != NOWHERE);
        if let Some(bytes) = here.map(|entry| entry.bytes) {
            self.move_to(slot.0, self.residents.last(bytes));
            self.residents.pop(bytes);
            self.entries[slot.index()].position = NOWHERE;
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
        if let Some(habit) =
            self.entries.get_mut(slot.index()).and_then(|entry| std::mem::take(entry).habit)
        {
            self.outlook.stop_waiting(habit);
        }
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut eligible = self.residents.eligible();
        let mut rounds = self.begin(&eligible, wanted);
        while missing > 0 && eligible.len() > 0 {
            let Some(slot) = self.choose(&eligible, missing, &mut rounds) else {
                return;
            };
            let bytes = self.entry(slot).bytes;
            if skip(Slot(slot)) {
                self.skipped();
            } else {
                into.push(Slot(slot));
                missing = missing.saturating_sub(bytes.bytes());
            }
            if missing > 0 {
                // Behind the eligible residents this walk does not find it again.
                self.move_to(slot, eligible.shrink(bytes));
            }
        }
    }

    fn victims_among(
        &mut self,
        members: &[Slot],
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        into: &mut Vec<Slot>,
    ) {
        self.choose_among(members, wanted, skip, into);
    }

    /// A return costs as much as a use from elsewhere, and its victim's move. So it has to be worth half as much again. The
    /// use that asks is not counted: it reads the bytes across the bus either way. Where nothing is known of one of the two,
    /// nothing is compared.
    fn is_worth_more(&self, slot: Slot, victim: Slot) -> bool {
        const TIMES: f32 = 1.5;
        // The most that a buffer is worth of which nothing is known.
        const UNKNOWN: f32 = 1e-6;
        let entry = |slot: Slot| self.entries.get(slot.index()).copied().unwrap_or_default();
        let worth = |Entry { habit, bytes, .. }, age| {
            self.outlook.worth(habit.unwrap_or_else(|| Habit::new(bytes.bytes())), age)
        };
        let (slot, victim) = (entry(slot), entry(victim));
        let (ours, theirs) = (worth(slot, 0), worth(victim, self.now.wrapping_sub(victim.last)));
        ours.min(theirs) <= UNKNOWN || ours > TIMES * theirs
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.residents.footprint()
            + self.outlook.footprint()
    }
}

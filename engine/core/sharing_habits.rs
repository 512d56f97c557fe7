//! Which devices buffers of a size are usually shared with: a prediction for new ones.
//!
//! A buffer that begins in a slab of the devices that will attach it need not move when they do. The prediction is
//! per home device and power of two of the size. It samples one buffer in eight, and one in 64 once it is sure, so that the
//! usual creation and attach write nothing that other threads read.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::device::DeviceId;
use crate::memory::DeviceSet;
use crate::observe::note_shared_write;

/// The prediction is used from this score on.
const USUAL: u8 = 2;
const MOST: u8 = 8;
/// One buffer in so many changes the score, and one in so many if it is [`MOST`].
const SAMPLE: u64 = 8;
const SURE_SAMPLE: u64 = 64;
const HOMES: usize = 4;
const SIZES: usize = 64;

/// The habits of one engine. Relaxed: a prediction that is wrong costs a move at attach, and nothing else.
#[derive(Debug)]
pub(super) struct SharingHabits(Box<[Habit]>);

#[derive(Debug, Default)]
struct Habit {
    sharers: AtomicU64,
    /// A sampled new buffer takes 1 away, and its first attach by another device adds 2. So it grows while at least
    /// half of the buffers are shared.
    score: AtomicU8,
}

impl Default for SharingHabits {
    fn default() -> Self {
        Self((0..HOMES * SIZES).map(|_| Habit::default()).collect())
    }
}

impl SharingHabits {
    fn habit(&self, home: DeviceId, size: u64) -> &Habit {
        // CAST: 63 at most.
        let doubling = size.max(1).ilog2() as usize;
        &self.0[home.index() % HOMES * SIZES + doubling]
    }

    /// The devices that will share buffer number `id`, as far as can be told.
    pub(super) fn predict(&self, home: DeviceId, size: u64, id: u64) -> DeviceSet {
        let habit = self.habit(home, size);
        let score = habit.score.load(Ordering::Relaxed);
        if score == 0 {
            return DeviceSet::of(home);
        }
        if id.is_multiple_of(if score == MOST { SURE_SAMPLE } else { SAMPLE }) {
            habit.set_score(score - 1);
        }
        let sharers = DeviceSet::from_bits(habit.sharers.load(Ordering::Relaxed));
        // The set may be that of another home device.
        if score >= USUAL && sharers.contains(home) { sharers } else { DeviceSet::of(home) }
    }

    /// Notes that another device than the home device has attached buffer number `id`, whose slab it shares.
    pub(super) fn confirm(&self, home: DeviceId, size: u64, id: u64) {
        if id.is_multiple_of(SAMPLE) {
            let habit = self.habit(home, size);
            let score = habit.score.load(Ordering::Relaxed);
            if score < MOST {
                habit.set_score((score + 2).min(MOST));
            }
        }
    }

    /// Notes that a buffer is shared by `sharers`, and was in a slab of others.
    ///
    /// Sets are united: buffers that one device shares with different ones have slabs together, apart from those that
    /// it shares with none.
    pub(super) fn learn(&self, home: DeviceId, size: u64, sharers: DeviceSet) {
        let habit = self.habit(home, size);
        let score = habit.score.load(Ordering::Relaxed);
        let known = DeviceSet::from_bits(habit.sharers.load(Ordering::Relaxed));
        let sharers = if score == 0 { sharers } else { sharers.union(known) };
        habit.sharers.store(sharers.bits(), Ordering::Relaxed);
        habit.set_score((score + 1).min(MOST));
    }
}

impl Habit {
    fn set_score(&self, score: u8) {
        note_shared_write();
        self.score.store(score, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: DeviceId = DeviceId(0);
    const SIZE: u64 = 4096;

    fn alone() -> DeviceSet {
        DeviceSet::of(HOME)
    }

    fn pair() -> DeviceSet {
        alone().with(DeviceId(1))
    }

    /// Creates a buffer and shares it if `shared`. Returns whether it has to move for that.
    fn create(habits: &SharingHabits, id: u64, shared: bool) -> bool {
        let predicted = habits.predict(HOME, SIZE, id);
        match (shared, predicted.covers(pair())) {
            (true, true) => habits.confirm(HOME, SIZE, id),
            (true, false) => habits.learn(HOME, SIZE, pair()),
            _ => {}
        }
        shared != predicted.covers(pair())
    }

    #[test]
    fn of_buffers_that_are_all_shared_the_first_two_move() {
        let habits = SharingHabits::default();
        let wrong: Vec<_> = (1..1000).filter(|&id| create(&habits, id, true)).collect();
        assert_eq!(wrong, [1, 2]);
        assert_eq!(habits.predict(HOME, SIZE * 4, 1), alone(), "another size");
        assert_eq!(habits.predict(DeviceId(4), SIZE, 1), DeviceSet::of(DeviceId(4)));
    }

    #[test]
    fn buffers_that_are_rarely_shared_begin_alone() {
        let habits = SharingHabits::default();
        let wrong = (1..=6000).filter(|&id| create(&habits, id, id % 60 == 0)).count();
        assert_eq!(wrong, 100, "those that are shared, and no others");
    }

    #[test]
    fn a_habit_that_has_ended_is_forgotten() {
        let habits = SharingHabits::default();
        let moved = (1..1000).filter(|&id| create(&habits, id, true)).count();
        assert_eq!(moved, 2);
        let last = (1000..2000).filter(|&id| create(&habits, id, false)).max();
        assert!(last.is_some_and(|id| id < 1000 + SURE_SAMPLE + 8 * SAMPLE), "{last:?}");
    }

    #[test]
    fn buffers_of_different_sharers_have_one_set() {
        let habits = SharingHabits::default();
        habits.learn(HOME, SIZE, pair());
        habits.learn(HOME, SIZE, alone().with(DeviceId(2)));
        assert_eq!(habits.predict(HOME, SIZE, 1), pair().with(DeviceId(2)));
    }
}

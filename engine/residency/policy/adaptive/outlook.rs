//! What is learned about how soon buffers are used again, and what that makes a resident buffer worth.

use super::hull::Hull;
use super::scale::{AGES, Ages};

/// The number of doublings by which intervals are classified.
const OCTAVES: u32 = 26;
const HABITS: usize = 1 + 3 * OCTAVES as usize;

/// A class of buffers by their history. Buffers of one habit are expected to behave alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habit(u8);

impl Habit {
    /// The habit of a buffer that was used once.
    pub(super) const NEW: Self = Self(0);

    /// The habit of a buffer that is used every `usual` uses of any buffer, the last time after `last`.
    ///
    /// Beside the usual interval, it matters whether the last one was much shorter, about the same, or much
    /// longer. That recognises buffers that are used back and forth, or again after a long time.
    pub(super) fn of(usual: u32, last: u32) -> Self {
        let (doubled, halved) = (usual.saturating_mul(5) / 3, usual / 5 * 3);
        let kind = u32::from(last > halved) + u32::from(last > doubled);
        // CAST: below `HABITS`, which is below 256.
        Self((1 + usual.max(1).ilog2().min(OCTAVES - 1) * 3 + kind) as u8)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What is known about one habit. Old knowledge fades.
#[derive(Clone, Debug)]
struct Experience {
    /// The number of buffers that were used again, by their age at that use.
    returned: [f32; AGES],
    /// The number of buffers that started to wait for a next use.
    started: f32,
    /// The number of returns since the worths were computed, and the number at which they are computed again.
    news: u32,
    due: u32,
    /// The time of that computation.
    found: u32,
}

/// The worth of each age.
type Worths = [f32; AGES];

/// For each habit: after how long buffers are used again, and from that, what keeping one is worth.
///
/// The worth is the best rate that a buffer can reach: the largest expected number of uses per time kept, over
/// all times for which it could be kept (J. C. Gittins, "Bandit processes and dynamic allocation indices", 1979).
/// In a frame loop the least recently used buffers are worth most, because they are used next. Among popular
/// buffers the most recently used are. A buffer that is older than any that was used again is worth nothing.
/// Loops, popularity and scans are therefore cases of one rule and need not be recognised.
#[derive(Clone, Debug)]
pub(super) struct Outlook {
    experience: Box<[Experience]>,
    /// A separate array, because a choice reads only this.
    worths: Box<[Worths]>,
}

/// The worths of a habit are computed again after this many returns, or this part of those that are known.
const NEWS_AT_LEAST: f32 = 8.0;
const NEWS_PART: f32 = 0.3;

/// How many more of the waiting buffers than known are assumed never to be used again: nothing is certain.
const DOUBT: f32 = 0.5;

impl Outlook {
    pub(super) fn new() -> Self {
        let unknown = Experience { returned: [0.0; AGES], started: 0.0, news: 0, due: 1, found: 0 };
        let mut worths = [0.0; AGES];
        unknown.find(&mut worths);
        Self {
            experience: vec![unknown; HABITS].into_boxed_slice(),
            worths: vec![worths; HABITS].into_boxed_slice(),
        }
    }

    /// A buffer of this habit was used and waits for its next use from now on.
    pub(super) fn start_waiting(&mut self, habit: Habit) {
        self.experience[habit.index()].started += 1.0;
    }

    /// A waiting buffer of this habit was destroyed.
    pub(super) fn stop_waiting(&mut self, habit: Habit) {
        let started = &mut self.experience[habit.index()].started;
        *started = (*started - 1.0).max(0.0);
    }

    /// A buffer of this habit was used again at `age`, at the time `now`. Half of the knowledge fades within
    /// `memory` uses.
    pub(super) fn returned(&mut self, habit: Habit, age: u32, now: u32, memory: f32) {
        let experience = &mut self.experience[habit.index()];
        experience.returned[age_step(age)] += 1.0;
        experience.news += 1;
        if experience.news >= experience.due {
            experience.find(&mut self.worths[habit.index()]);
            experience.fade(now, memory);
        }
    }

    /// The worth of a buffer of this habit and age: the expected uses per time.
    pub(super) fn worth(&self, habit: Habit, age: u32) -> f32 {
        self.worths[habit.index()][age_step(age)]
    }

    pub(super) fn footprint(&self) -> usize {
        size_of_val(&*self.experience) + size_of_val(&*self.worths)
    }
}

fn age_step(age: u32) -> usize {
    // CAST: the steps of 32 bits are below 2⁷.
    (Ages::step(age) as usize).min(AGES - 1)
}

impl Experience {
    fn fade(&mut self, now: u32, memory: f32) {
        // CAST: the last bits of a time do not matter.
        let kept = (-(now.wrapping_sub(self.found) as f32) / memory).exp2();
        for count in &mut self.returned {
            *count *= kept;
            if *count < 1e-3 {
                *count = 0.0;
            }
        }
        self.started *= kept;
        let known: f32 = self.returned.iter().sum();
        self.news = 0;
        // CAST: rounded down; what is known is far below 2³².
        self.due = (known * NEWS_PART).max(NEWS_AT_LEAST) as u32;
        self.found = now;
    }

    /// Computes the worth of each age, from the oldest to the youngest.
    ///
    /// For each age there is a point: the time that buffers kept until then have spent, and their uses. The
    /// best rate is the slope of the steepest line to the point of a later age.
    fn find(&self, worths: &mut Worths) {
        let known: f32 = self.returned.iter().sum();
        let mut waiting = f64::from((self.started - known).max(0.0) + DOUBT);
        let mut hull = Hull::new();
        let (mut time, mut uses) = (0.0, 0.0);
        let mut any_returned = false;
        // CAST: `AGES` is small.
        let mut longest = Ages::shortest(AGES as u32) as f64;
        let by_age = worths.iter_mut().zip(&self.returned).enumerate().rev();
        for (step, (worth, &count)) in by_age {
            // CAST: `AGES` is small, and ages are below 2⁵³.
            let shortest = Ages::shortest(step as u32) as f64;
            // A small worth for ages without knowledge: the older, the less.
            let mut rate = 1e-6 / (shortest + 1.0);
            any_returned |= count > 0.0;
            if any_returned {
                let count = f64::from(count);
                time -= (longest - shortest) * (waiting + count / 2.0);
                uses -= count;
                waiting += count;
                rate += hull.push(time, uses);
            }
            // CAST: the last bits of a rate do not matter.
            *worth = rate as f32;
            longest = shortest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: f32 = 4000.0;

    /// The worths that are learned from buffers of one habit that are used again at these ages, in turn.
    fn learned(ages: &[u32]) -> impl Fn(u32) -> f32 {
        let mut outlook = Outlook::new();
        for (now, &age) in (0..2000).zip(ages.iter().cycle()) {
            outlook.start_waiting(Habit::NEW);
            outlook.returned(Habit::NEW, age, now, MEMORY);
        }
        move |age| outlook.worth(Habit::NEW, age)
    }

    #[test]
    fn in_a_loop_the_oldest_buffers_are_worth_most() {
        let worth = learned(&[1100]);
        assert!(worth(0) < worth(200) && worth(200) < worth(500) && worth(500) < worth(1000));
        // A buffer that was not used at its usual age is not expected any more.
        assert!(worth(3000) < worth(0));
    }

    #[test]
    fn where_most_are_used_again_soon_the_youngest_buffers_are_worth_most() {
        let worth = learned(&[3, 3, 5, 3, 9, 3, 5, 20, 3, 1000]);
        assert!(worth(2) > worth(30) && worth(30) > worth(2000));
    }

    #[test]
    fn without_knowledge_the_oldest_buffer_is_worth_least() {
        let outlook = Outlook::new();
        let worths: Vec<_> = (0..20).map(|bit| outlook.worth(Habit::NEW, 1 << bit)).collect();
        assert!(worths.is_sorted_by(|young, old| young > old));
    }

    #[test]
    fn destroyed_buffers_are_not_expected_to_be_used_again() {
        let mut outlook = Outlook::new();
        for now in 0..1000 {
            // Two start to wait: one is used again, one is destroyed.
            outlook.start_waiting(Habit::NEW);
            outlook.start_waiting(Habit::NEW);
            outlook.stop_waiting(Habit::NEW);
            outlook.returned(Habit::NEW, 100, now, MEMORY);
        }
        let worth = learned(&[100]);
        let ratio = outlook.worth(Habit::NEW, 0) / worth(0);
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn habits_differ_by_their_intervals() {
        let steady = Habit::of(1000, 1000);
        assert_eq!(steady, Habit::of(800, 900));
        assert!(
            [Habit::NEW, Habit::of(1000, 100), Habit::of(1000, 5000), Habit::of(3000, 3000)]
                .iter()
                .all(|&other| other != steady)
        );
        // The ends of the scale are valid too.
        for length in [0, 1, u32::MAX] {
            assert!(Habit::of(length, length).index() < HABITS);
        }
    }
}

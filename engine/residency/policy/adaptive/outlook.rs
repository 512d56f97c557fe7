//! How soon buffers are used again: what is learned, and what it makes a buffer's place worth.

use super::hull::Hull;
use super::scale::Scale;

/// Ages have four steps per doubling.
type Ages = Scale<2>;
/// Enough for 2²⁴ uses of others; who is older than that counts as this old.
pub(super) const AGES: usize = 96;

/// Intervals are told apart by doublings, of which there are so many.
const OCTAVES: u32 = 26;
const HABITS: usize = 1 + 3 * OCTAVES as usize;

/// How a buffer was used until now; buffers of one habit are expected to behave alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habit(u8);

impl Habit {
    /// Used once.
    pub(super) const NEW: Self = Self(0);

    /// Used every `usual` uses of anybody, the last time after `last`.
    ///
    /// Beside the usual interval counts whether the last one was much shorter, about the same, or much
    /// longer: what is used back and forth, or has come back after a long time, is known by that.
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

/// What is known about one habit. Old experience fades.
#[derive(Clone, Debug)]
struct Experience {
    /// How many buffers were used again, by their age then.
    came_back: [f32; AGES],
    /// How many started to wait for that.
    started: f32,
    /// How many came back since the worth was found, and how many must until it is found again.
    news: u32,
    due: u32,
    /// When that was.
    found: u32,
}

/// What each age is worth.
type Worths = [f32; AGES];

/// For each habit: after how long buffers come back, and from that, what keeping one is worth.
///
/// That is the best rate it can pay: for how long would one have to keep it, to have the largest chance of a
/// use per time kept? (J. C. Gittins, "Bandit processes and dynamic allocation indices", 1979.) In a frame
/// loop those used longest ago are worth most, for they are next; of popular ones those used just now; one
/// that is past every age at which its like came back is worth nothing. So loops, popularity and scans are
/// cases of one rule, and need not be recognised.
#[derive(Clone, Debug)]
pub(super) struct Outlook {
    experience: Box<[Experience]>,
    /// Apart, because it is what a choice reads.
    worths: Box<[Worths]>,
}

/// A habit's worth is found again after so much news, or this part of what is known.
const NEWS_AT_LEAST: f32 = 8.0;
const NEWS_PART: f32 = 0.3;

/// How many more of those who started are taken to stay away than are known to: nothing is certain.
const DOUBT: f32 = 0.5;

impl Outlook {
    pub(super) fn new() -> Self {
        let unknown =
            Experience { came_back: [0.0; AGES], started: 0.0, news: 0, due: 1, found: 0 };
        let mut worths = [0.0; AGES];
        unknown.find(&mut worths);
        Self {
            experience: vec![unknown; HABITS].into_boxed_slice(),
            worths: vec![worths; HABITS].into_boxed_slice(),
        }
    }

    /// A buffer of this habit was used: it is waiting for its next use from now on.
    pub(super) fn starts(&mut self, habit: Habit) {
        self.experience[habit.index()].started += 1.0;
    }

    /// One that was waiting is no more.
    pub(super) fn ends(&mut self, habit: Habit) {
        let started = &mut self.experience[habit.index()].started;
        *started = (*started - 1.0).max(0.0);
    }

    /// One was used again at `age`, at the time `now`. Half of what was known fades within `memory`.
    pub(super) fn came_back(&mut self, habit: Habit, age: u32, now: u32, memory: f32) {
        let experience = &mut self.experience[habit.index()];
        experience.came_back[age_step(age)] += 1.0;
        experience.news += 1;
        if experience.news >= experience.due {
            experience.find(&mut self.worths[habit.index()]);
            experience.fade(now, memory);
        }
    }

    /// What keeping a buffer of this habit and age is worth: expected uses per time.
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
        for count in &mut self.came_back {
            *count *= kept;
            if *count < 1e-3 {
                *count = 0.0;
            }
        }
        self.started *= kept;
        let known: f32 = self.came_back.iter().sum();
        self.news = 0;
        // CAST: rounded down; what is known is far below 2³².
        self.due = (known * NEWS_PART).max(NEWS_AT_LEAST) as u32;
        self.found = now;
    }

    /// Finds what each age is worth.
    ///
    /// Goes from the oldest to the youngest. For each age there is a point: the time spent by, and the uses
    /// of, those who would be kept until then. The best rate is that of the steepest line to a later point.
    fn find(&self, worths: &mut Worths) {
        let known: f32 = self.came_back.iter().sum();
        let mut waiting = f64::from((self.started - known).max(0.0) + DOUBT);
        let mut hull = Hull::new();
        let (mut time, mut uses) = (0.0, 0.0);
        let mut anybody = false;
        // CAST: `AGES` is small.
        let mut longest = Ages::shortest(AGES as u32) as f64;
        let by_age = worths.iter_mut().zip(&self.came_back).enumerate().rev();
        for (step, (worth, &count)) in by_age {
            // CAST: `AGES` is small, and ages are below 2⁵³.
            let shortest = Ages::shortest(step as u32) as f64;
            // Something for those of whom nothing is known: the longer away, the less.
            let mut rate = 1e-6 / (shortest + 1.0);
            anybody |= count > 0.0;
            if anybody {
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

    /// What is learned from buffers of one habit that come back at these ages, in turn.
    fn learned(ages: &[u32]) -> impl Fn(u32) -> f32 {
        let mut outlook = Outlook::new();
        for (now, &age) in (0..2000).zip(ages.iter().cycle()) {
            outlook.starts(Habit::NEW);
            outlook.came_back(Habit::NEW, age, now, MEMORY);
        }
        move |age| outlook.worth(Habit::NEW, age)
    }

    #[test]
    fn in_a_loop_the_oldest_are_worth_most() {
        let worth = learned(&[1100]);
        assert!(worth(0) < worth(200) && worth(200) < worth(500) && worth(500) < worth(1000));
        // Who has missed its turn is not coming.
        assert!(worth(3000) < worth(0));
    }

    #[test]
    fn where_most_come_back_soon_the_youngest_are_worth_most() {
        let worth = learned(&[3, 3, 5, 3, 9, 3, 5, 20, 3, 1000]);
        assert!(worth(2) > worth(30) && worth(30) > worth(2000));
    }

    #[test]
    fn of_whom_nothing_is_known_the_oldest_goes_first() {
        let outlook = Outlook::new();
        let worths: Vec<_> = (0..20).map(|bit| outlook.worth(Habit::NEW, 1 << bit)).collect();
        assert!(worths.is_sorted_by(|young, old| young > old));
    }

    #[test]
    fn those_that_are_no_more_are_not_expected_back() {
        let mut outlook = Outlook::new();
        for now in 0..1000 {
            // Two start; one comes back and one goes for good.
            outlook.starts(Habit::NEW);
            outlook.starts(Habit::NEW);
            outlook.ends(Habit::NEW);
            outlook.came_back(Habit::NEW, 100, now, MEMORY);
        }
        let worth = learned(&[100]);
        let ratio = outlook.worth(Habit::NEW, 0) / worth(0);
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn habits_are_told_apart() {
        let steady = Habit::of(1000, 1000);
        assert_eq!(steady, Habit::of(800, 900));
        assert!(
            [Habit::NEW, Habit::of(1000, 100), Habit::of(1000, 5000), Habit::of(3000, 3000)]
                .iter()
                .all(|&other| other != steady)
        );
        // The ends of the scale have their place too.
        for length in [0, 1, u32::MAX] {
            assert!(Habit::of(length, length).index() < HABITS);
        }
    }
}

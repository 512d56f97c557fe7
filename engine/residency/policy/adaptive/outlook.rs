//! What is learned about how soon buffers are used again, and what that makes a resident buffer worth.

use std::num::NonZeroU16;

use super::hull::Hull;
use super::residents::{CLASSES, class};
use super::scale::{AGES, Ages, Scale};

/// Two steps per doubling.
type Intervals = Scale<1>;

/// The number of steps by which intervals are classified, two per doubling.
const STEPS: usize = 52;
/// The number of kinds of last intervals, three for each of three sizes.
const KINDS: usize = 9;
/// Buffers of these sizes and more have kinds of their own: meshes and textures, or weights and activations, of one
/// interval behave differently. Finer steps leave too few uses to learn from.
const SIZES: [u64; 2] = [256 << 10, 4 << 20];
/// The first habits are those of buffers used once, one for each size class.
const HABITS: usize = CLASSES + KINDS * STEPS;

/// A class of buffers by their history and size. Buffers of one habit are expected to behave alike.
///
/// It is the habit's number and one: an absent one takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Habit(NonZeroU16);

impl Habit {
    /// The habit of a buffer that was used once. Buffers of one size are often of one kind.
    pub(super) fn new(bytes: u64) -> Self {
        Self::numbered(class(bytes))
    }

    /// `number` is below [`HABITS`].
    fn numbered(number: usize) -> Self {
        const { assert!(HABITS < u16::MAX as usize, "a number fits") };
        // CAST: just asserted.
        Self(NonZeroU16::MIN.saturating_add(number as u16))
    }

    /// The habit of a buffer of this size that was used `last` uses of any buffer after the use before, and every `usual`
    /// ones before that.
    ///
    /// The last interval says most of the next one. Beside it, it matters whether it was much shorter than usual, about the
    /// same, or much longer. That recognises buffers that are used back and forth, or again after a long time.
    pub(super) fn of(usual: u32, last: u32, bytes: u64) -> Self {
        let (more, less) = (last.saturating_mul(5) / 3, last / 5 * 3);
        let kind = usize::from(usual > less) + usize::from(usual > more);
        let size = SIZES.iter().filter(|&&least| bytes >= least).count();
        // CAST: below 2⁷, since steps of `Scale<1>` are two per doubling.
        let step = (Intervals::step(last.max(1)) as usize - 1).min(STEPS - 1);
        Self::numbered(CLASSES + step * KINDS + size * 3 + kind)
    }

    /// Whether a buffer of this habit was used only once.
    pub(super) fn is_new(self) -> bool {
        self.index() < CLASSES
    }

    fn index(self) -> usize {
        usize::from(self.0.get()) - 1
    }

    /// The group of similar habits, and an age step near which this habit's last interval begins. From four uses on it is
    /// two steps above.
    fn group(self) -> (usize, usize) {
        match self.index().checked_sub(CLASSES) {
            None => (USED_ONCE, OWN_STEP),
            Some(number) => (number % KINDS, number / KINDS * AGES_PER_STEP),
        }
    }
}

/// Habits of all last intervals of one kind are a group, and so are all of buffers used once.
const GROUPS: usize = KINDS + 1;
const USED_ONCE: usize = KINDS;
const AGES_PER_STEP: usize = 2;
/// The step of a group's scale that stands for about the habit's last interval: other ages are relative to it.
const OWN_STEP: usize = 40;

/// The step of an age on the scale of a group, whose ages begin at `begin`. `None` if it is outside.
fn relative(step: usize, begin: usize) -> Option<usize> {
    (step + OWN_STEP).checked_sub(begin).filter(|&step| step < AGES)
}

/// What is known about one habit, or one group of habits. Old knowledge fades.
#[derive(Clone, Debug)]
struct Experience {
    /// The number of buffers that were used again, by their age at that use.
    returned: [f32; AGES],
    /// The number of buffers that started to wait for a next use.
    started: f32,
    /// The number of returns since the worths were computed, and the number at which they are computed again. For
    /// buffers used once, also those that started to wait: their worth falls while none of them returns.
    news: u32,
    due: u32,
    /// The number of starts at which the worths are computed again, also if none returns.
    limit: f32,
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
///
/// A habit with little experience borrows that of its group: buffers with longer intervals behave as those with
/// shorter ones, but slower (a prior of an empirical Bayes method).
#[derive(Clone, Debug)]
pub(super) struct Outlook {
    /// For each habit the number of its experience and worths; 0 until it occurs. Most habits never do.
    rows: [u16; HABITS],
    experience: Vec<Experience>,
    /// A separate list, because a choice reads only this. The first ones are those of all habits that never occurred.
    worths: Vec<Worths>,
    /// For each group, by relative age.
    groups: [Experience; GROUPS],
}

/// With how many buffers of its group a habit begins. Nothing else is known of one that occurs for the first time.
const PRIOR: f32 = 16.0;

/// What is known of a group fades in steps of this part of the memory.
const FADE_PART: f32 = 0.125;

/// The worths of a habit are computed again after this part of the returns that are known, and after at least one.
const NEWS_PART: f32 = 0.05;

/// They are also computed again once the number of buffers that started to wait has doubled, and grown by this many.
/// With fewer, those that are used again later would count as never used.
const STARTS_AT_LEAST: f32 = 64.0;

/// How many more of the waiting buffers than known are assumed never to be used again: nothing is certain.
const DOUBT: f32 = 0.5;

impl Outlook {
    pub(super) fn new() -> Self {
        let mut worths = [0.0; AGES];
        Experience::NONE.find(&Experience::NONE, 0, &mut worths);
        Self {
            rows: [0; HABITS],
            experience: vec![Experience::NONE],
            worths: vec![worths],
            groups: [Experience::NONE; GROUPS],
        }
    }

    /// The number of a habit's experience, which begins now if it never occurred.
    fn row(&mut self, habit: Habit) -> usize {
        let row = &mut self.rows[habit.index()];
        if *row == 0 {
            // CAST: at most `HABITS`.
            *row = self.experience.len() as u16;
            self.experience.push(Experience::NONE);
            self.worths.push(self.worths[0]);
        }
        usize::from(*row)
    }

    /// A buffer of this habit was used at the time `now` and waits for its next use from now on. Half of the
    /// knowledge fades within `memory` uses.
    pub(super) fn start_waiting(&mut self, habit: Habit, now: u32, memory: f32) {
        self.groups[habit.group().0].started += 1.0;
        let row = self.row(habit);
        let experience = &mut self.experience[row];
        experience.started += 1.0;
        experience.news += u32::from(habit.is_new());
        if experience.news >= experience.due || experience.started >= experience.limit {
            self.find(habit, now, memory);
        }
    }

    /// A waiting buffer of this habit was destroyed.
    pub(super) fn stop_waiting(&mut self, habit: Habit) {
        let ((group, _), row) = (habit.group(), self.row(habit));
        for experience in [&mut self.groups[group], &mut self.experience[row]] {
            experience.started = (experience.started - 1.0).max(0.0);
        }
    }

    /// A buffer of this habit was used again at `age`, at the time `now`.
    pub(super) fn returned(&mut self, habit: Habit, age: u32, now: u32, memory: f32) {
        let (step, (group, begin)) = (age_step(age), habit.group());
        if let Some(step) = relative(step, begin) {
            self.groups[group].returned[step] += 1.0;
        }
        let row = self.row(habit);
        let experience = &mut self.experience[row];
        experience.returned[step] += 1.0;
        experience.news += 1;
        if experience.news >= experience.due {
            self.find(habit, now, memory);
        }
    }

    /// Computes the worths of a habit again.
    #[inline(never)]
    fn find(&mut self, habit: Habit, now: u32, memory: f32) {
        let ((group, begin), row) = (habit.group(), self.row(habit));
        let group = &mut self.groups[group];
        // CAST: the last bits of a time do not matter.
        if now.wrapping_sub(group.found) as f32 >= memory * FADE_PART {
            group.fade(now, memory);
        }
        let experience = &mut self.experience[row];
        experience.find(group, begin, &mut self.worths[row]);
        experience.fade(now, memory);
    }

    /// The worth of a buffer of this habit and age: the expected uses per time.
    pub(super) fn worth(&self, habit: Habit, age: u32) -> f32 {
        self.worths[usize::from(self.rows[habit.index()])][age_step(age)]
    }

    pub(super) fn footprint(&self) -> usize {
        self.experience.capacity() * size_of::<Experience>()
            + self.worths.capacity() * size_of::<Worths>()
    }
}

fn age_step(age: u32) -> usize {
    // CAST: the steps of 32 bits are below 2⁷.
    (Ages::step(age) as usize).min(AGES - 1)
}

impl Experience {
    const NONE: Self =
        Self { returned: [0.0; AGES], started: 0.0, news: 0, due: 0, limit: 0.0, found: 0 };

    fn known(&self) -> f32 {
        self.returned.iter().sum()
    }

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
        self.news = 0;
        // CAST: rounded down; what is known is far below 2³².
        self.due = (self.known().max(self.started) * NEWS_PART).max(1.0) as u32;
        self.limit = self.started * 2.0 + STARTS_AT_LEAST;
        self.found = now;
    }

    /// Computes the worth of each age, from the oldest to the youngest.
    ///
    /// For each age there is a point: the time that buffers kept until then have spent, and their uses. The
    /// best rate is the slope of the steepest line to the point of a later age.
    fn find(&self, group: &Self, begin: usize, worths: &mut Worths) {
        let others = group.known().max(group.started) + 1.0;
        let borrowed = PRIOR / others;
        let mut never = (group.started - group.known()).max(0.0) * borrowed;
        never += (self.started - self.known()).max(0.0) + DOUBT;
        let mut waiting = f64::from(never);
        let mut hull = Hull::new();
        let (mut time, mut uses) = (0.0, 0.0);
        let mut any_returned = false;
        // CAST: `AGES` is small.
        let mut longest = Ages::shortest(AGES as u32) as f64;
        let by_age = worths.iter_mut().zip(&self.returned).enumerate().rev();
        for (step, (worth, &own)) in by_age {
            let count =
                own + relative(step, begin).map_or(0.0, |step| group.returned[step] * borrowed);
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
            outlook.start_waiting(Habit::new(0), now, MEMORY);
            outlook.returned(Habit::new(0), age, now, MEMORY);
        }
        move |age| outlook.worth(Habit::new(0), age)
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
        let worths: Vec<_> = (0..20).map(|bit| outlook.worth(Habit::new(0), 1 << bit)).collect();
        assert!(worths.is_sorted_by(|young, old| young > old));
    }

    #[test]
    fn destroyed_buffers_are_not_expected_to_be_used_again() {
        let mut outlook = Outlook::new();
        for now in 0..1000 {
            // Two start to wait: one is used again, one is destroyed.
            outlook.start_waiting(Habit::new(0), now, MEMORY);
            outlook.start_waiting(Habit::new(0), now, MEMORY);
            outlook.stop_waiting(Habit::new(0));
            outlook.returned(Habit::new(0), 100, now, MEMORY);
        }
        let worth = learned(&[100]);
        let ratio = outlook.worth(Habit::new(0), 0) / worth(0);
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_borrowed_worth_falls_while_no_buffer_returns() {
        let (known, other) = (Habit::of(100, 100, 0), Habit::of(1000, 1000, 0));
        let mut outlook = Outlook::new();
        for now in 0..2000 {
            outlook.start_waiting(known, now, MEMORY);
            outlook.returned(known, 100, now, MEMORY);
        }
        outlook.start_waiting(other, 2000, MEMORY);
        let borrowed = outlook.worth(other, 0);
        (2001..3000).for_each(|now| outlook.start_waiting(other, now, MEMORY));
        let worth = outlook.worth(other, 0);
        assert!(worth * 4.0 < borrowed, "{worth}, at first {borrowed}");
    }

    #[test]
    fn habits_differ_by_their_intervals() {
        let steady = Habit::of(1000, 1000, 0);
        assert_eq!(steady, Habit::of(800, 900, 100_000));
        let others = [(1000, 100, 0), (1000, 5000, 0), (3000, 3000, 0), (1000, 1000, 1 << 20)];
        let others = others.map(|(usual, last, bytes)| Habit::of(usual, last, bytes));
        assert!(others.iter().all(|&other| other != steady && other != Habit::new(0)));
        // The ends of the scales are valid too, and told apart.
        let ends = [0, u32::MAX].map(|length| Habit::of(length, length, u64::MAX).index());
        assert!(ends[0] < ends[1] && ends[1] < HABITS);
        assert_eq!(Habit::of(u32::MAX / 5, u32::MAX, u64::MAX).index(), HABITS - 3);
        assert_eq!(size_of::<Option<Habit>>(), 2);
    }
}

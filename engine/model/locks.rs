//! The reservation and sets of them: hand-over, back-off, giving up.

use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::{exhaust, sample, together};
use crate::sync::{Reservation, WaitQueues, lock_many};

/// A bound that is never over.
const EVER: Duration = Duration::from_secs(3600);

/// What the threads of a model share: locks, and what they protect.
struct Locks<const N: usize> {
    queues: WaitQueues,
    all: [Reservation<Protected>; N],
}

/// Notices when two are at it at once.
#[derive(Default)]
struct Protected {
    /// A step of its own, in which others may come between.
    uses: AtomicU32,
    busy: std::sync::atomic::AtomicBool,
}

impl Protected {
    fn touch(&self) {
        assert!(!self.busy.swap(true, Ordering::Relaxed), "two owners at once");
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.busy.store(false, Ordering::Relaxed);
    }
}

impl<const N: usize> Locks<N> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            queues: WaitQueues::new(),
            all: std::array::from_fn(|_| Reservation::new(Protected::default())),
        })
    }

    fn touch(&self, at: usize) {
        self.all[at].lock(&self.queues).touch();
    }

    /// Gives up rather than wait; tells whether it had the lock.
    fn touch_or_give_up(&self, at: usize) -> bool {
        let locked = self.all[at].lock_timeout(&self.queues, Duration::ZERO);
        locked.map(|guard| guard.touch()).is_some()
    }

    fn try_touch(&self, at: usize) -> bool {
        self.all[at].try_lock(&self.queues).map(|guard| guard.touch()).is_some()
    }

    /// Locks these together, in this order; returns its age, and how often it had to begin.
    fn touch_together(&self, order: &[usize]) -> (u64, u32) {
        let (mut age, mut turns) = (None, 0);
        let locked = lock_many(&self.queues, EVER, |set| {
            age.get_or_insert(set.age());
            turns += 1;
            order.iter().map(|&at| set.lock(&self.all[at])).collect::<Result<Vec<_>, _>>()
        });
        let (mut set, indices) = locked.expect("the bound is never over");
        indices.into_iter().for_each(|index| set.get_mut(index).touch());
        (age.expect("it began"), turns)
    }

    /// Gives up rather than wait; tells whether it had all.
    fn touch_together_or_give_up(&self, order: &[usize]) -> bool {
        let locked = lock_many(&self.queues, Duration::ZERO, |set| {
            order.iter().map(|&at| set.lock(&self.all[at])).collect::<Result<Vec<_>, _>>()
        });
        let Ok((mut set, indices)) = locked else { return false };
        indices.into_iter().for_each(|index| set.get_mut(index).touch());
        true
    }

    /// Every lock was had this often, is free, and nobody is still in line.
    fn finish(self: Arc<Self>, uses: [u32; N]) {
        let mut this = Arc::into_inner(self).expect("the threads are gone");
        assert!(this.all.iter().all(Reservation::is_untouched), "a lock is free, and nobody waits");
        assert_eq!(this.queues.sleepers(), 0, "nobody is in line");
        assert_eq!(this.all.each_mut().map(|one| *one.get_mut().uses.get_mut()), uses);
    }
}

/// A lock that is given up goes to whoever waits: no wake-up is lost, and there is one owner at a time.
#[test]
fn a_lock_is_handed_over() {
    sample(20_000, || {
        let locks = Locks::<1>::new();
        together(&locks, [|locks| (0..2).for_each(|_| locks.touch(0)); 3]);
        locks.finish([6]);
    });
}

#[test]
fn a_lock_is_handed_over_in_every_interleaving() {
    exhaust(|| {
        let locks = Locks::<1>::new();
        together(&locks, [|locks| locks.touch(0); 2]);
        locks.finish([2]);
    });
}

/// Sets that cross back off, and all get through: the oldest never begins again, and nobody more often than
/// somebody older gives up a lock.
#[test]
fn crossed_sets_get_through_and_nobody_starves() {
    sample(20_000, || {
        let locks = Locks::<3>::new();
        let mut turns = together(
            &locks,
            [
                |locks| locks.touch_together(&[0, 1, 2]),
                |locks| locks.touch_together(&[1, 2, 0]),
                |locks| locks.touch_together(&[2, 0, 1]),
            ],
        );
        turns.sort_unstable();
        // The oldest gives up 3 locks in the end; the next one 3 times 2 while it backs off, and then 3.
        let most = [1, 1 + 3, 1 + 3 + 9];
        assert!(turns.iter().zip(most).all(|((_, turns), most)| *turns <= most), "{turns:?}");
        locks.finish([3, 3, 3]);
    });
}

/// A lock goes to the oldest in line, so that nobody is overtaken for ever.
#[test]
fn the_oldest_in_line_is_next() {
    sample(10_000, || {
        let locks = Arc::new(Line { locks: Locks::new(), ages: Mutex::default() });
        let in_line = {
            let guard = locks.locks.all[0].lock(&locks.locks.queues);
            let threads = [(); 3].map(|()| {
                let line = Arc::clone(&locks);
                thread::spawn(move || line.pass())
            });
            thread::yield_now();
            let in_line = locks.locks.queues.sleepers();
            drop(guard);
            threads.into_iter().for_each(|thread| thread.join().expect("nobody panics"));
            in_line
        };
        let Line { locks, ages } = Arc::into_inner(locks).expect("the threads are gone");
        let ages = ages.into_inner().expect("nobody panicked");
        // When all were in line, nobody can have come between.
        assert!(in_line < 3 || ages.is_sorted(), "{ages:?}");
        locks.finish([3]);
    });
}

/// Who passed a lock, in their order.
struct Line {
    locks: Arc<Locks<1>>,
    ages: Mutex<Vec<u64>>,
}

impl Line {
    fn pass(&self) {
        let one = &self.locks.all[0];
        let locked = lock_many(&self.locks.queues, EVER, |set| Ok((set.age(), set.lock(one)?)));
        let (mut set, (age, index)) = locked.expect("the bound is never over");
        set.get_mut(index).touch();
        self.ages.lock().expect("nobody panicked").push(age);
    }
}

/// upstream: kernel commit 95ccb0f3bdc4. A lock goes to somebody older than one who waits for it and holds
/// what that one wants next: the waiter must learn that it has to let go.
#[test]
fn those_who_must_die_are_woken_when_the_owner_changes() {
    sample(20_000, || {
        let locks = Locks::<2>::new();
        together(
            &locks,
            [
                |locks| locks.touch(0),
                |locks| _ = locks.touch_together(&[0, 1]),
                |locks| _ = locks.touch_together(&[1, 0]),
            ],
        );
        locks.finish([3, 2]);
    });
}

/// Whoever gives up leaves no trace, whenever the lock was about to become its own.
#[test]
fn a_wait_that_is_given_up_leaves_no_trace() {
    sample(20_000, || {
        let locks = Locks::<2>::new();
        let had = together(
            &locks,
            [
                |locks| {
                    locks.touch(0);
                    true
                },
                |locks| locks.touch_or_give_up(0),
                |locks| locks.touch_together_or_give_up(&[1, 0]),
                |locks| locks.touch_together(&[0, 1]).1 > 0,
            ],
        );
        let [one, set] = [had[1], had[2]].map(u32::from);
        locks.finish([2 + one + set, 1 + set]);
    });
}

#[test]
fn a_wait_is_given_up_in_every_interleaving() {
    exhaust(|| {
        let locks = Locks::<1>::new();
        let work: [fn(&Locks<1>) -> bool; 2] =
            [|locks| locks.touch_together(&[0]).1 > 0, |locks| locks.touch_or_give_up(0)];
        let [one, other] = together(&locks, work).map(u32::from);
        locks.finish([one + other]);
    });
}

/// upstream: `ttm_bo_reserve_locked_no_sleep`
#[test]
fn trying_a_lock_takes_it_or_does_not() {
    sample(20_000, || {
        let locks = Locks::<1>::new();
        let had = together(
            &locks,
            [
                |locks| locks.try_touch(0),
                |locks| {
                    locks.touch(0);
                    true
                },
                |locks| locks.touch_together(&[0]).1 > 0,
            ],
        );
        locks.finish([had.map(u32::from).iter().sum()]);
    });
}

/// upstream: `stress` (`STRESS_ALL`)
#[test]
fn any_mix_of_locking_gets_through() {
    sample(10_000, || {
        let locks = Locks::<3>::new();
        let done = together(
            &locks,
            [|locks: &Locks<3>| {
                let mut uses = [0; 3];
                for _ in 0..2 {
                    let order = [[0, 1, 2], [2, 1, 0], [1, 0, 2]][thread_rng().gen_range(0..3)];
                    let count = thread_rng().gen_range(1..=3);
                    let picks = &order[..count];
                    let had = match thread_rng().gen_range(0..5) {
                        0 => locks.try_touch(picks[0]).then_some(&picks[..1]),
                        1 => locks.touch_or_give_up(picks[0]).then_some(&picks[..1]),
                        2 => locks.touch_together_or_give_up(picks).then_some(picks),
                        3 => Some(&picks[..1]).inspect(|_| locks.touch(picks[0])),
                        _ => Some(picks).inspect(|_| _ = locks.touch_together(picks)),
                    };
                    had.into_iter().flatten().for_each(|&at| uses[at] += 1);
                }
                uses
            }; 4],
        );
        locks.finish(std::array::from_fn(|at| done.iter().map(|uses| uses[at]).sum()));
    });
}

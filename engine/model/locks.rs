//! The reservation and sets of reservations: hand-over, back-off, waits that give up.

use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::{exhaust, sample, together};
use crate::sync::{Reservation, WaitQueues, lock_many};

/// A timeout that never expires.
const EVER: Duration = Duration::from_secs(3600);

/// State that the threads of a model share: locks, and the values that they protect.
struct Locks<const N: usize> {
    queues: WaitQueues,
    all: [Reservation<Protected>; N],
}

/// Detects two owners at once.
#[derive(Default)]
struct Protected {
    /// Incremented between the two stores to `busy`, as a separate step: other threads may run there.
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

    /// Does not wait; returns whether the lock was acquired.
    fn touch_or_give_up(&self, at: usize) -> bool {
        let locked = self.all[at].lock_timeout(&self.queues, Duration::ZERO);
        locked.map(|guard| guard.touch()).is_some()
    }

    fn try_touch(&self, at: usize) -> bool {
        self.all[at].try_lock(&self.queues).map(|guard| guard.touch()).is_some()
    }

    /// Locks these together, in this order. Returns the age of the set, and how many attempts it took.
    fn touch_together(&self, order: &[usize]) -> (u64, u32) {
        let (mut age, mut turns) = (None, 0);
        let locked = lock_many(&self.queues, EVER, |set| {
            age.get_or_insert(set.age());
            turns += 1;
            order.iter().map(|&at| set.lock(&self.all[at])).collect::<Result<Vec<_>, _>>()
        });
        let (mut set, indices) = locked.expect("the timeout never expires");
        indices.into_iter().for_each(|index| set.get_mut(index).touch());
        (age.expect("there was an attempt"), turns)
    }

    /// Does not wait; returns whether all locks were acquired.
    fn touch_together_or_give_up(&self, order: &[usize]) -> bool {
        let locked = lock_many(&self.queues, Duration::ZERO, |set| {
            order.iter().map(|&at| set.lock(&self.all[at])).collect::<Result<Vec<_>, _>>()
        });
        let Ok((mut set, indices)) = locked else { return false };
        indices.into_iter().for_each(|index| set.get_mut(index).touch());
        true
    }

    /// Checks that each lock was acquired `uses` times and is free, and that no thread is queued.
    fn finish(self: Arc<Self>, uses: [u32; N]) {
        let mut this = Arc::into_inner(self).expect("the threads have ended");
        assert!(
            this.all.iter().all(Reservation::is_untouched),
            "every lock is free and has no waiter"
        );
        assert_eq!(this.queues.sleepers(), 0, "no thread is queued");
        assert_eq!(this.all.each_mut().map(|one| *one.get_mut().uses.get_mut()), uses);
    }
}

/// A released lock goes to a waiter: no wake-up is lost, and there is one owner at a time.
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

/// Sets whose orders cross back off, and all of them complete. The oldest set never restarts. A younger set
/// restarts at most as often as older sets release a lock.
#[test]
fn crossed_sets_complete_and_none_starves() {
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
        // The oldest releases 3 locks at its end; the next one releases 2 in each of 3 back-offs, and then 3.
        let most = [1, 1 + 3, 1 + 3 + 9];
        assert!(turns.iter().zip(most).all(|((_, turns), most)| *turns <= most), "{turns:?}");
        locks.finish([3, 3, 3]);
    });
}

/// A lock goes to the oldest waiter, so that no waiter is overtaken without limit.
#[test]
fn the_oldest_waiter_is_next() {
    sample(10_000, || {
        let locks = Arc::new(Line { locks: Locks::new(), ages: Mutex::default() });
        let queued = {
            let guard = locks.locks.all[0].lock(&locks.locks.queues);
            let threads = [(); 3].map(|()| {
                let line = Arc::clone(&locks);
                thread::spawn(move || line.pass())
            });
            thread::yield_now();
            let queued = locks.locks.queues.sleepers();
            drop(guard);
            threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
            queued
        };
        let Line { locks, ages } = Arc::into_inner(locks).expect("the threads have ended");
        let ages = ages.into_inner().expect("no thread panicked");
        // If all threads were queued at the release, none can have passed another.
        assert!(queued < 3 || ages.is_sorted(), "{ages:?}");
        locks.finish([3]);
    });
}

/// A lock, and the ages of the sets that acquired it, in order.
struct Line {
    locks: Arc<Locks<1>>,
    ages: Mutex<Vec<u64>>,
}

impl Line {
    fn pass(&self) {
        let one = &self.locks.all[0];
        let locked = lock_many(&self.locks.queues, EVER, |set| Ok((set.age(), set.lock(one)?)));
        let (mut set, (age, index)) = locked.expect("the timeout never expires");
        set.get_mut(index).touch();
        self.ages.lock().expect("no thread panicked").push(age);
    }
}

/// upstream: kernel commit 95ccb0f3bdc4. A lock goes to a set that is older than another waiter, which holds
/// the lock that the new owner needs next. The waiter must be woken, so that it backs off.
#[test]
fn waiters_that_must_back_off_are_woken_when_the_owner_changes() {
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

/// A wait that times out leaves no trace, even if the lock was about to be handed to it.
#[test]
fn a_wait_that_times_out_leaves_no_trace() {
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
fn a_wait_times_out_in_every_interleaving() {
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
fn try_lock_acquires_the_lock_or_does_not() {
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
fn any_mix_of_locking_completes() {
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

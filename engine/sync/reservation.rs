//! The reservation: one lock per buffer, with which many buffers can be locked without deadlock.
//!
//! Kernel counterpart: `dma_resv_lock` on a `ww_mutex` of the wait-die class
//! (`Documentation/locking/ww-mutex-design.rst`). Whoever locks several reservations draws a *ticket*,
//! and keeps it until all are locked. Meeting a lock whose owner has an older ticket, it must let go of
//! everything and start again with the contended one (*die*); an older one waits. Waiting therefore goes
//! from older to younger only, so no cycle can close, and who has died often enough is the oldest.
//!
//! Whoever locks a single reservation needs no ticket: it holds nothing that others could wait for, so
//! it always waits.
//!
//! A lock that is given up while somebody waits is handed to the oldest waiter at once, so that nobody
//! can be overtaken for ever; those that must now die are woken to learn it (the theoretical deadlock of
//! kernel commit 95ccb0f3bdc4).
#![expect(unsafe_code, reason = "a lock hands out references to what it protects")]

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::primitive::atomic::{AtomicU64, Ordering};
use super::primitive::{Arc, Condvar, Mutex, YIELDS, lock, thread_local, wait_until, yield_now};

/// What a reservation protects, and who has it.
///
/// # Invariants
///
/// `state` is 0 when the lock is free and nobody waits; else the owner's age, whether it is alone, and
/// whether somebody waits. `value` is touched only by the owner.
pub(crate) struct Reservation<T> {
    state: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one thread at a time reach the value, so it is sent, never shared.
unsafe impl<T: Send> Sync for Reservation<T> {}

const WAITERS: u64 = 1 << 0;
const ALONE: u64 = 1 << 1;
const AGE_SHIFT: u32 = 2;

/// Who asks for a lock: how old it is, and whether it can be told to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) age: u64,
    alone: bool,
    /// Whether it holds other locks of its set: only then can waiting close a cycle.
    pub(super) holding: bool,
}

impl Claim {
    /// Somebody who locks this one alone, before its age matters: who does not wait needs none.
    const ALONE: Self = Self { age: 1, alone: true, holding: false };

    fn word(self) -> u64 {
        self.age << AGE_SHIFT | if self.alone { ALONE } else { 0 }
    }

    /// Whether it may not wait for an owner with this state.
    fn must_die(self, owner: u64) -> bool {
        !self.alone && self.holding && owner & ALONE == 0 && owner >> AGE_SHIFT < self.age
    }
}

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody older has it: let go of everything (kernel: `-EDEADLK`).
    Die,
    /// The bound of the wait is over.
    TimedOut,
}

/// Where tickets are drawn and waiters sleep: one for all reservations of an engine.
#[derive(Debug)]
pub(crate) struct WaitQueues {
    next_age: AtomicU64,
    buckets: [Mutex<Vec<Arc<Waiter>>>; BUCKETS],
}

const BUCKETS: usize = 64;

#[derive(Debug)]
struct Waiter {
    /// Address of the reservation.
    lock: usize,
    claim: Claim,
    verdict: Mutex<Option<Verdict>>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Granted,
    Die,
}

impl WaitQueues {
    pub(crate) fn new() -> Self {
        Self {
            // 0 would look like a free lock, 1 is the age of those that do not wait.
            next_age: AtomicU64::new(2),
            buckets: std::array::from_fn(|_| Mutex::new(Vec::new())),
        }
    }

    /// A ticket for a set of locks; younger than all before.
    pub(super) fn ticket(&self) -> Claim {
        Claim { age: self.draw(), alone: false, holding: false }
    }

    fn draw(&self) -> u64 {
        // Relaxed: only uniqueness and growth matter.
        self.next_age.fetch_add(1, Ordering::Relaxed)
    }

    fn bucket(&self, lock: usize) -> &Mutex<Vec<Arc<Waiter>>> {
        // Reservations are at least 16 bytes apart; Fibonacci hashing spreads the rest.
        let hash = (lock as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> 58) as usize]
    }
}

impl<T> Reservation<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { state: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Takes the lock for itself alone.
    ///
    /// Not bounded: nobody waits for a GPU under a reservation, so it is free again as soon as its
    /// owner's few steps are done. An owner that does not come to an end is an error that is told of.
    pub(crate) fn lock<'a>(&'a self, queues: &'a WaitQueues) -> Guard<'a, T> {
        const SUSPICIOUS: Duration = Duration::from_secs(10);
        assert_nothing_held();
        if !self.try_acquire(Claim::ALONE) {
            let claim = Claim { age: queues.draw(), ..Claim::ALONE };
            while self.acquire_slow(queues, claim, Instant::now() + SUSPICIOUS).is_err() {
                tracing::error!("a reservation is held for more than {SUSPICIOUS:?}");
            }
        }
        self.guard(queues)
    }

    /// Takes the lock for itself alone, waiting at most `timeout`.
    pub(crate) fn lock_timeout<'a>(
        &'a self,
        queues: &'a WaitQueues,
        timeout: Duration,
    ) -> Option<Guard<'a, T>> {
        assert_nothing_held();
        let claim = Claim { age: queues.draw(), ..Claim::ALONE };
        self.acquire(queues, claim, Instant::now() + timeout).ok()?;
        Some(self.guard(queues))
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_lock<'a>(&'a self, queues: &'a WaitQueues) -> Option<Guard<'a, T>> {
        self.try_acquire(Claim::ALONE).then(|| self.guard(queues))
    }

    /// What it protects, where nobody else can have it.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    pub(super) fn value(&self) -> *mut T {
        self.value.get()
    }

    fn guard<'a>(&'a self, queues: &'a WaitQueues) -> Guard<'a, T> {
        note_held();
        Guard { lock: self, queues, _stays: PhantomData }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(super) fn try_acquire(&self, claim: Claim) -> bool {
        // Acquire: what the last owner did is seen by this one.
        self.state.compare_exchange(0, claim.word(), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    pub(super) fn acquire(
        &self,
        queues: &WaitQueues,
        claim: Claim,
        end: Instant,
    ) -> Result<(), Refused> {
        if self.try_acquire(claim) { Ok(()) } else { self.acquire_slow(queues, claim, end) }
    }

    #[cold]
    fn acquire_slow(&self, queues: &WaitQueues, claim: Claim, end: Instant) -> Result<(), Refused> {
        // Reservations are held for microseconds: often it is free again before sleeping pays.
        for () in std::iter::repeat_n((), YIELDS) {
            yield_now();
            if self.try_acquire(claim) {
                return Ok(());
            }
        }
        let Some(waiter) = self.enqueue(queues, claim)? else { return Ok(()) };
        match waiter.wait(end) {
            Some(verdict) => verdict.into_result(),
            None => self.give_up(queues, &waiter),
        }
    }

    /// Gets in line; `Ok(None)` if the lock was taken instead.
    fn enqueue(&self, queues: &WaitQueues, claim: Claim) -> Result<Option<Arc<Waiter>>, Refused> {
        let mut line = lock(queues.bucket(self.address()));
        loop {
            if self.try_acquire(claim) {
                return Ok(None);
            }
            let owner = self.state.load(Ordering::Relaxed);
            if owner == 0 {
                continue;
            }
            if claim.must_die(owner) {
                return Err(Refused::Die);
            }
            // From here on the owner's release takes the slow path, and needs the line that is locked
            // here; so it cannot miss the waiter.
            let marked = owner | WAITERS;
            let order = Ordering::Relaxed;
            if self.state.compare_exchange(owner, marked, order, order).is_ok() {
                break;
            }
        }
        let waiter = Arc::new(Waiter {
            lock: self.address(),
            claim,
            verdict: Mutex::new(None),
            changed: Condvar::new(),
        });
        line.push(Arc::clone(&waiter));
        Ok(Some(waiter))
    }

    /// Leaves the line after a time-out, unless a verdict came just now.
    fn give_up(&self, queues: &WaitQueues, waiter: &Arc<Waiter>) -> Result<(), Refused> {
        let mut line = lock(queues.bucket(self.address()));
        if let Some(verdict) = *lock(&waiter.verdict) {
            return verdict.into_result();
        }
        line.retain(|other| !Arc::ptr_eq(other, waiter));
        if !line.iter().any(|other| other.lock == self.address()) {
            self.state.fetch_and(!WAITERS, Ordering::Relaxed);
        }
        Err(Refused::TimedOut)
    }

    pub(super) fn release(&self, queues: &WaitQueues) {
        let owner = self.state.load(Ordering::Relaxed);
        // Release: what this owner did is seen by the next one.
        let alone = owner & WAITERS == 0
            && self.state.compare_exchange(owner, 0, Ordering::Release, Ordering::Relaxed).is_ok();
        if !alone {
            self.release_slow(queues);
        }
    }

    /// Hands the lock to the oldest waiter, and tells those that may not wait for it to die.
    #[cold]
    fn release_slow(&self, queues: &WaitQueues) {
        let mut line = lock(queues.bucket(self.address()));
        let ours = |waiter: &Arc<Waiter>| waiter.lock == self.address();
        let oldest =
            (0..line.len()).filter(|&at| ours(&line[at])).min_by_key(|&at| line[at].claim.age);
        let Some(oldest) = oldest else {
            self.state.store(0, Ordering::Release);
            return;
        };
        let next = line.swap_remove(oldest);
        let word = next.claim.word();
        let dying: Vec<_> =
            line.extract_if(.., |waiter| ours(waiter) && waiter.claim.must_die(word)).collect();
        let waiting = if line.iter().any(ours) { WAITERS } else { 0 };
        self.state.store(word | waiting, Ordering::Release);
        next.decide(Verdict::Granted);
        dying.iter().for_each(|waiter| waiter.decide(Verdict::Die));
    }
}

/// What models look at in the end.
#[cfg(all(test, peerbuf_shuttle))]
impl WaitQueues {
    /// How many are in line.
    pub(crate) fn sleepers(&self) -> usize {
        self.buckets.iter().map(|line| lock(line).len()).sum()
    }
}

#[cfg(all(test, peerbuf_shuttle))]
impl<T> Reservation<T> {
    /// Whether it is free and nobody waits for it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.state.load(Ordering::Relaxed) == 0
    }
}

impl Waiter {
    /// `None` when the bound of the wait is over.
    fn wait(&self, end: Instant) -> Option<Verdict> {
        wait_until(&self.changed, lock(&self.verdict), end, |verdict| *verdict)
    }

    /// Called with the line locked.
    fn decide(&self, verdict: Verdict) {
        *lock(&self.verdict) = Some(verdict);
        self.changed.notify_one();
    }
}

impl Verdict {
    fn into_result(self) -> Result<(), Refused> {
        match self {
            Self::Granted => Ok(()),
            Self::Die => Err(Refused::Die),
        }
    }
}

/// The lock of a single reservation.
pub(crate) struct Guard<'a, T> {
    lock: &'a Reservation<T>,
    queues: &'a WaitQueues,
    /// The rank check counts per thread, so a guard stays on its own.
    _stays: PhantomData<*const ()>,
}

impl<T> Guard<'_, T> {
    /// Lets go of the lock for as long as `work` runs, whatever its end. What the lock protects may be
    /// different afterwards.
    pub(crate) fn unlocked<R>(&mut self, work: impl FnOnce() -> R) -> R {
        struct Again<'g, 'a, T>(&'g mut Guard<'a, T>);
        impl<T> Drop for Again<'_, '_, T> {
            fn drop(&mut self) {
                std::mem::forget(self.0.lock.lock(self.0.queues));
            }
        }
        note_released(1);
        self.lock.release(self.queues);
        let _again = Again(self);
        work()
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard has the lock, so nobody else touches the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        note_released(1);
        self.lock.release(self.queues);
    }
}

impl<T> fmt::Debug for Reservation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.state.load(Ordering::Relaxed) != 0;
        f.debug_struct("Reservation").field("held", &held).finish_non_exhaustive()
    }
}

// ---- the rank check of debug builds ----

thread_local! {
    /// How many reservations this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Waiting for a single reservation while holding another one is the deadlock that sets are for; debug
/// builds check it on the uncontended path too (kernel: `might_lock`, lockdep).
pub(super) fn assert_nothing_held() {
    debug_assert_eq!(
        HELD.with(Cell::get),
        0,
        "a reservation is taken while another one is held; lock them together in a LockSet"
    );
}

pub(super) fn note_held() {
    if cfg!(debug_assertions) {
        HELD.with(|held| held.set(held.get() + 1));
    }
}

pub(super) fn note_released(count: u32) {
    if cfg!(debug_assertions) {
        HELD.with(|held| held.set(held.get() - count));
    }
}

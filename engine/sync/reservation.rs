//! The reservation: one lock per buffer. Many of them can be locked together without deadlock.
//!
//! Kernel counterpart: `dma_resv_lock` on a `ww_mutex` of the wait-die class
//! (`Documentation/locking/ww-mutex-design.rst`). A thread that locks several reservations draws a *ticket*
//! and keeps it until all are locked. If a lock's owner has an older ticket, the thread must release all its
//! locks and start again with the contended one (*die*). If the owner's ticket is younger, the thread waits.
//! So a thread that holds locks of its set waits only for younger owners, and no cycle can close. A thread
//! that dies often enough becomes the oldest.
//!
//! A thread that locks a single reservation needs no ticket of a set. It holds nothing that others could wait
//! for, so it always waits.
//!
//! If threads are waiting, a released lock is passed to the oldest waiter directly, so that no waiter is
//! overtaken for ever. Waiters that may not wait for the new owner are woken to die (the theoretical deadlock
//! of kernel commit 95ccb0f3bdc4).
#![expect(unsafe_code, reason = "a lock hands out references to what it protects")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::deferred::Owner;
use super::lock_order::{assert_nothing_held, note_held, note_released};
use super::prefetch::prefetch;
use super::primitive::atomic::{AtomicU64, Ordering};
use super::primitive::{Arc, YIELDS, lock, yield_now};
use super::wait_queue::{Refused, Ticket, Verdict, WAITERS, WaitQueues, Waiter};

/// A value, and the lock that protects it.
///
/// # Invariants
///
/// `state` is 0 when the lock is free and no thread waits; else it holds the owner's age, whether the owner
/// locks it alone, and whether a thread waits. Only the owner accesses `value`.
pub(crate) struct Reservation<T> {
    state: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time can access the value, so it is sent between threads and never shared.
unsafe impl<T: Send> Sync for Reservation<T> {}

impl<T> Reservation<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { state: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Takes this lock alone.
    ///
    /// The wait has no timeout: no thread waits for a GPU while it holds a reservation, so its owner releases
    /// it after a few steps. A lock that is held for suspiciously long is logged as an error.
    pub(crate) fn lock<'a>(&'a self, queues: &'a WaitQueues) -> Guard<'a, T> {
        const SUSPICIOUS: Duration = Duration::from_secs(10);
        assert_nothing_held();
        if !self.try_acquire(Ticket::ALONE) {
            let ticket = Ticket::of_one();
            while self.acquire_slow(queues, ticket, Instant::now() + SUSPICIOUS).is_err() {
                tracing::error!(
                    "a reservation is held for more than {SUSPICIOUS:?}; still waiting"
                );
            }
        }
        self.guard(queues)
    }

    /// Takes this lock alone, waiting at most `timeout`.
    pub(crate) fn lock_timeout<'a>(
        &'a self,
        queues: &'a WaitQueues,
        timeout: Duration,
    ) -> Option<Guard<'a, T>> {
        assert_nothing_held();
        if !self.try_acquire(Ticket::ALONE) {
            let ticket = Ticket::of_one();
            self.acquire_slow(queues, ticket, Instant::now() + timeout).ok()?;
        }
        Some(self.guard(queues))
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock<'a>(&'a self, queues: &'a WaitQueues) -> Option<Guard<'a, T>> {
        self.try_acquire(Ticket::ALONE).then(|| self.guard(queues))
    }

    /// As [`Reservation::try_lock`], for a thread that may hold no other reservation, as for a lock that waits.
    ///
    /// # Panics
    ///
    /// If the thread holds one.
    pub(crate) fn try_lock_alone<'a>(&'a self, queues: &'a WaitQueues) -> Option<Guard<'a, T>> {
        assert_nothing_held();
        self.try_lock(queues)
    }

    /// Loads it ahead of a lock, with the value.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self);
    }

    /// Loads it ahead of a lock, without the value.
    #[cfg(feature = "testing")]
    #[inline]
    pub(crate) fn prefetch_lock(&self) {
        prefetch(&self.state);
    }

    /// The value, without locking: the exclusive borrow excludes other owners.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    pub(super) fn value(&self) -> *mut T {
        self.value.get()
    }

    #[inline]
    fn guard<'a>(&'a self, queues: &'a WaitQueues) -> Guard<'a, T> {
        note_held();
        self.apply_deferred(queues);
        Guard { lock: self, queues, _stays: PhantomData }
    }

    /// Carries out what is deferred for it. To be called when the lock was taken, after [`note_held`].
    #[inline]
    pub(super) fn apply_deferred(&self, queues: &WaitQueues) {
        if !queues.deferred.is_empty() {
            queues.deferred.apply(self.address(), self.untyped());
        }
    }

    fn untyped(&self) -> NonNull<()> {
        // SAFETY: the address of a field is not null.
        unsafe { NonNull::new_unchecked(self.value.get()) }.cast()
    }

    /// Defers `work` on the value, which `owner` keeps alive, after the lock was not free: it is done when the lock
    /// is released, or when another thread takes it. Waits for no thread. What `work` returns is dropped without
    /// any reservation.
    #[cold]
    pub(crate) fn defer(
        &self,
        queues: &WaitQueues,
        owner: &Arc<impl Owner>,
        work: impl FnOnce(&mut T) -> Option<Box<dyn Any>> + Send + 'static,
    ) where
        T: 'static,
    {
        let work = move |value: NonNull<()>| {
            // SAFETY: by the contract of `Work` it is the value of this reservation, and its caller has the lock, so
            // nothing else accesses it.
            work(unsafe { value.cast::<T>().as_mut() })
        };
        let owner: Arc<dyn Owner> = Arc::clone(owner) as _;
        queues.deferred.add(self.address(), owner, Box::new(work));
        // The lock may have been released before its owner could see the entry.
        drop(self.try_lock(queues));
    }

    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    #[inline]
    pub(super) fn try_acquire(&self, ticket: Ticket) -> bool {
        // Acquire: this owner sees all writes of the last one.
        // Sequentially consistent: see `Deferred`.
        self.state.compare_exchange(0, ticket.word(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Whether a lock set holds it with this ticket, which is that of one set.
    pub(super) fn is_held_by(&self, ticket: Ticket) -> bool {
        // Relaxed: only the thread with this ticket is answered with yes, and it has written the word, or has seen it
        // written when the lock was passed on to it.
        self.state.load(Ordering::Relaxed) & !WAITERS == ticket.word()
    }

    #[inline]
    pub(super) fn acquire(
        &self,
        queues: &WaitQueues,
        ticket: Ticket,
        end: Instant,
    ) -> Result<(), Refused> {
        if self.try_acquire(ticket) { Ok(()) } else { self.acquire_slow(queues, ticket, end) }
    }

    #[cold]
    fn acquire_slow(
        &self,
        queues: &WaitQueues,
        ticket: Ticket,
        end: Instant,
    ) -> Result<(), Refused> {
        // Reservations are held for microseconds: often the lock is free again before sleeping pays.
        for () in std::iter::repeat_n((), YIELDS) {
            yield_now();
            if self.try_acquire(ticket) {
                return Ok(());
            }
        }
        let Some(waiter) = self.enqueue(queues, ticket)? else { return Ok(()) };
        match waiter.wait(end) {
            Some(verdict) => verdict.into_result(),
            None => self.leave_queue(queues, &waiter),
        }
    }

    /// Adds the thread to the wait queue. `Ok(None)` if the lock was taken instead.
    fn enqueue(&self, queues: &WaitQueues, ticket: Ticket) -> Result<Option<Arc<Waiter>>, Refused> {
        let mut queue = lock(queues.bucket(self.address()));
        loop {
            if self.try_acquire(ticket) {
                return Ok(None);
            }
            let owner = self.state.load(Ordering::Relaxed);
            if owner == 0 {
                continue;
            }
            if ticket.must_die(owner) {
                return Err(Refused::Die);
            }
            // From here on the owner's release takes the slow path and needs the queue's lock, which is held
            // here. So it cannot miss the waiter.
            let marked = owner | WAITERS;
            let order = Ordering::Relaxed;
            if self.state.compare_exchange(owner, marked, order, order).is_ok() {
                break;
            }
        }
        let waiter = Arc::new(Waiter::new(self.address(), ticket));
        queue.push(Arc::clone(&waiter));
        Ok(Some(waiter))
    }

    /// Removes the waiter from the queue after a timeout, unless it has just received a verdict.
    fn leave_queue(&self, queues: &WaitQueues, waiter: &Arc<Waiter>) -> Result<(), Refused> {
        let mut queue = lock(queues.bucket(self.address()));
        if let Some(verdict) = waiter.verdict() {
            return verdict.into_result();
        }
        queue.retain(|other| !Arc::ptr_eq(other, waiter));
        if !queue.iter().any(|other| other.lock == self.address()) {
            self.state.fetch_and(!WAITERS, Ordering::Relaxed);
        }
        Err(Refused::TimedOut)
    }

    /// Releases it. `ticket` is the one that its owner has probably taken it with. Another one costs a second attempt.
    #[inline]
    pub(super) fn release(&self, queues: &WaitQueues, ticket: Ticket) {
        // The word is not loaded first: that load would wait for the atomic operation before it.
        // Only the owner calls this, so a word of this ticket is its own, although threads that do not wait share one.
        // Release: the next owner sees all writes of this one. Sequentially consistent: see `Deferred`.
        let (word, order) = (ticket.word(), (Ordering::SeqCst, Ordering::Relaxed));
        if let Err(owner) = self.state.compare_exchange(word, 0, order.0, order.1) {
            self.release_after_wait(queues, owner);
        }
    }

    /// Releases it where the word is `owner`: a thread waits, or the owner has waited, with a ticket of its own.
    #[cold]
    fn release_after_wait(&self, queues: &WaitQueues, owner: u64) {
        // The orderings are those of `release`.
        let alone = owner & WAITERS == 0
            && self.state.compare_exchange(owner, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        if !alone {
            self.release_slow(queues);
        }
    }

    /// Passes the lock to the oldest waiter, and wakes waiters that may not wait for the new owner to die.
    fn release_slow(&self, queues: &WaitQueues) {
        let mut queue = lock(queues.bucket(self.address()));
        let ours = |waiter: &Arc<Waiter>| waiter.lock == self.address();
        let oldest =
            (0..queue.len()).filter(|&at| ours(&queue[at])).min_by_key(|&at| queue[at].ticket.age);
        let Some(oldest) = oldest else {
            self.state.store(0, Ordering::SeqCst);
            return;
        };
        let next = queue.swap_remove(oldest);
        let word = next.ticket.word();
        let dying: Vec<_> =
            queue.extract_if(.., |waiter| ours(waiter) && waiter.ticket.must_die(word)).collect();
        let waiting = if queue.iter().any(ours) { WAITERS } else { 0 };
        self.state.store(word | waiting, Ordering::Release);
        next.decide(Verdict::Granted);
        dying.iter().for_each(|waiter| waiter.decide(Verdict::Die));
    }
}

#[cfg(all(test, peerbuf_shuttle))]
impl<T> Reservation<T> {
    /// Whether it is free and no thread waits for it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.state.load(Ordering::Relaxed) == 0
    }
}

/// A single locked reservation. Dropping it unlocks.
pub(crate) struct Guard<'a, T> {
    lock: &'a Reservation<T>,
    queues: &'a WaitQueues,
    /// Makes the type `!Send`: the lock-order check counts per thread.
    _stays: PhantomData<*const ()>,
}

impl<T> Guard<'_, T> {
    /// Releases the lock while `work` runs, and takes it again even if `work` panics. The protected value may
    /// have changed afterwards.
    pub(crate) fn unlocked<R>(&mut self, work: impl FnOnce() -> R) -> R {
        struct Again<'g, 'a, T>(&'g mut Guard<'a, T>);
        impl<T> Drop for Again<'_, '_, T> {
            fn drop(&mut self) {
                std::mem::forget(self.0.lock.lock(self.0.queues));
            }
        }
        self.lock.release(self.queues, Ticket::ALONE);
        note_released(1);
        self.queues.try_deferred();
        let _again = Again(self);
        work()
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard has the lock, so nothing else accesses the value.
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
    #[inline]
    fn drop(&mut self) {
        self.lock.release(self.queues, Ticket::ALONE);
        note_released(1);
        self.queues.try_deferred();
    }
}

impl<T> fmt::Debug for Reservation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.state.load(Ordering::Relaxed) != 0;
        f.debug_struct("Reservation").field("held", &held).finish_non_exhaustive()
    }
}

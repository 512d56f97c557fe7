//! The reserve tests of `drivers/gpu/drm/ttm/tests/ttm_bo_test.c`. The tests of pins, moves and the end of a
//! buffer's life are in `tests/ttm_bo.rs`, because they need buffers.
//!
//! | upstream | here |
//! |---|---|
//! | `ttm_bo_reserve_optimistic_no_ticket` | [`a_free_lock_is_taken_in_every_way`] |
//! | `ttm_bo_reserve_locked_no_sleep` | [`a_held_lock_is_refused_without_a_wait`] |
//! | `ttm_bo_reserve_no_wait_ticket` | [`a_set_that_may_not_wait_is_refused_and_holds_nothing`] |
//! | `ttm_bo_reserve_double_resv` | [`a_ticket_holds_a_lock_once`] |
//! | `ttm_bo_reserve_interrupted` | [`a_wait_times_out_and_the_next_waiter_gets_the_lock`] |
//! | `ttm_bo_reserve_deadlock` | [`the_younger_ticket_backs_off_and_gets_both`] |
//!
//! A process signal has no counterpart: a wait for a lock ends with its timeout. Upstream, a reservation
//! without a wait but with a ticket is an error (`WARN`, `-EBUSY`), even of a free lock. Here a set with a zero
//! timeout is allowed, and takes free locks.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::sync::lock_set::{TimedOut, lock_many};
use crate::sync::reservation::Reservation;
use crate::sync::wait_queue::{Refused, Ticket, WaitQueues};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(5);

/// upstream: `ttm_bo_reserve_optimistic_no_ticket` (its rows: interruptible or not, waiting or not)
#[test]
fn a_free_lock_is_taken_in_every_way() {
    let queues = WaitQueues::new();
    let one = Reservation::new(0);
    // Waiting, waiting with a timeout, not waiting; each twice, after the first has unlocked.
    for _ in 0..2 {
        *one.lock(&queues) += 1;
        *one.lock_timeout(&queues, LONG).expect("free") += 1;
        *one.lock_timeout(&queues, Duration::ZERO).expect("free") += 1;
        *one.try_lock(&queues).expect("free") += 1;
        let (mut locked, at) = lock_many(&queues, LONG, |set| set.lock(&one)).expect("free");
        *locked.get_mut(at) += 1;
    }
    assert_eq!(*one.lock(&queues), 10);
}

/// upstream: `ttm_bo_reserve_locked_no_sleep`
#[test]
fn a_held_lock_is_refused_without_a_wait() {
    let queues = WaitQueues::new();
    let one = Reservation::new(());
    let guard = one.lock(&queues);
    for _ in 0..2 {
        assert!(one.try_lock(&queues).is_none());
    }
    drop(guard);
    let locked = lock_many(&queues, LONG, |set| set.lock(&one)).expect("free");
    assert!(one.try_lock(&queues).is_none(), "held by a set as well");
    drop(locked);
    assert!(one.try_lock(&queues).is_some());
}

/// upstream: `ttm_bo_reserve_no_wait_ticket`
#[test]
fn a_set_that_may_not_wait_is_refused_and_holds_nothing() {
    let queues = WaitQueues::new();
    let (free, held) = (Reservation::new(()), Reservation::new(()));
    let other = Ticket::of_set();
    assert_eq!(held.acquire(&queues, other, Instant::now()), Ok(()));
    // A younger ticket that holds a lock must back off; one that holds none may not wait, because of its zero
    // timeout. In both cases the timeout ends the attempt.
    for order in [[&free, &held], [&held, &free]] {
        let refused = lock_many(&queues, Duration::ZERO, |set| {
            order.iter().map(|one| set.lock(one)).collect::<Result<Vec<_>, _>>()
        });
        assert_eq!(refused.err(), Some(TimedOut));
        assert!(free.try_lock(&queues).is_some(), "no lock is left held");
    }
    held.release(&queues, other);
    let both = lock_many(&queues, Duration::ZERO, |set| Ok((set.lock(&free)?, set.lock(&held)?)));
    assert!(both.is_ok(), "what is free is taken");
}

/// upstream: `ttm_bo_reserve_double_resv` (there `-EALREADY`)
#[test]
fn a_ticket_holds_a_lock_once() {
    let queues = WaitQueues::new();
    let one = Reservation::new(());
    let twice = lock_many(&queues, LONG, |set| Ok([set.lock(&one)?, set.lock(&one)?]));
    let (locked, [first, second]) = twice.expect("free");
    assert_eq!(first, second);
    assert!(one.try_lock(&queues).is_none());
    drop(locked);
    assert!(one.try_lock(&queues).is_some(), "unlocked once, and free");
}

/// upstream: `ttm_bo_reserve_interrupted`
#[test]
fn a_wait_times_out_and_the_next_waiter_gets_the_lock() {
    let queues = WaitQueues::new();
    let one = Reservation::new(0);
    let waiting = Barrier::new(2);
    let guard = one.lock(&queues);
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| {
            waiting.wait();
            *one.lock(&queues) += 1;
        });
        waiting.wait();
        // Waiters that time out are in the same queue, before and behind the patient one.
        for _ in 0..3 {
            let impatient = scope.spawn(|| one.lock_timeout(&queues, SHORT).is_none());
            assert!(impatient.join().expect("its timeout ends it"));
            let set = scope.spawn(|| lock_many(&queues, SHORT, |set| set.lock(&one)).err());
            assert_eq!(set.join().expect("its timeout ends it"), Some(TimedOut));
        }
        drop(guard);
        patient.join().expect("it gets the lock");
    });
    assert_eq!(*one.lock(&queues), 1);
}

/// upstream: `ttm_bo_reserve_deadlock`. The test itself holds the older ticket, so that the order is
/// certain: it holds a lock that the set needs, and releases it once the set has had to back off.
#[test]
fn the_younger_ticket_backs_off_and_gets_both() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(1), Reservation::new(2));
    let mut older = Ticket::of_set();
    assert_eq!(b.acquire(&queues, older, Instant::now()), Ok(()));
    older.holding = true;
    let mut turns = 0;
    let (mut locked, (first, second)) = lock_many(&queues, LONG, |set| {
        turns += 1;
        let first = set.lock(&a)?;
        let second = set.lock(&b);
        if turns == 1 {
            assert!(second.is_err(), "an older ticket has it");
            assert_eq!(
                a.acquire(&queues, older, Instant::now()),
                Err(Refused::TimedOut),
                "the older one may wait, and does not have to back off"
            );
            b.release(&queues, older);
        }
        Ok((first, second?))
    })
    .expect("it starts again, and gets both");
    assert_eq!(turns, 2);
    assert_eq!((*locked.get_mut(first), *locked.get_mut(second)), (1, 2));
    assert!(a.try_lock(&queues).is_none() && b.try_lock(&queues).is_none());
}

//! `drivers/dma-buf/st-dma-fence.c`, on fences of the host. Points on a device's timeline go through the
//! same tests in `tests/fences.rs`.
//!
//! | upstream | here |
//! |---|---|
//! | `sanitycheck` | [`a_fence_comes_and_goes`] |
//! | `test_signaling` | [`it_signals_once_and_stays_so`] |
//! | `test_add_callback` | [`a_callback_is_called_once_when_it_signals`] |
//! | `test_late_add_callback` | [`a_late_callback_is_called_at_once`] |
//! | `test_rm_callback` | [`a_callback_that_was_taken_back_is_not_called`] |
//! | `test_late_rm_callback` | [`a_callback_cannot_be_taken_back_late`] |
//! | `test_status` | [`it_signals_once_and_stays_so`] |
//! | `test_error` | [`an_error_is_seen_after_the_signal_and_not_before`] |
//! | `test_wait` | [`a_wait_ends_with_the_signal`] |
//! | `test_wait_timeout` | [`a_wait_that_ends_early_says_so_and_a_bound_of_nothing_is_a_question`] |
//! | `test_stub` | [`stubs_have_signalled`] |
//! | `race_signal_callback` | [`a_callback_that_races_with_the_signal_is_called_once`] |
//!
//! The types rule out: signalling twice (`Signal::fail` takes it, and so does a drop), an error after the
//! signal (likewise), a fence that is freed unsignalled (`Signal`'s drop signals it), a callback that is
//! added to two fences (it is moved into one).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::error::Error;
use crate::sync::{Bridges, CallbackId, Fence};

/// A bound that is never reached when things are right.
const LONG: Duration = Duration::from_secs(60);
/// A bound that is reached when nobody signals.
const SHORT: Duration = Duration::from_millis(5);

/// How often something was called.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicU32>);

impl Calls {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Adds a callback that is counted; `None` if it was called at once.
    fn on(&self, fence: &Fence) -> Option<CallbackId> {
        let calls = self.clone();
        let callback = Box::new(move || {
            calls.0.fetch_add(1, Ordering::AcqRel);
        });
        fence.on_signal(&Bridges::default(), callback).expect("fences of the host take callbacks")
    }
}

fn forget(fence: &Fence, id: CallbackId) -> bool {
    fence.forget_callback(&Bridges::default(), id).expect("its own callback")
}

fn is_timeout(result: Result<(), Error>, bound: Duration) -> bool {
    matches!(result, Err(Error::Timeout { after, .. }) if after == bound)
}

/// upstream: `sanitycheck`
#[test]
fn a_fence_comes_and_goes() {
    let (fence, signal) = Fence::host();
    drop(fence);
    drop(signal);
    let (fence, signal) = Fence::host();
    drop(signal);
    assert!(fence.is_over(), "no fence outlives its work unsignalled");
}

/// upstream: `test_signaling`, `test_status`
#[test]
fn it_signals_once_and_stays_so() {
    let (fence, signal) = Fence::host();
    for _ in 0..2 {
        assert!(!fence.is_signalled().expect("no error"));
        assert!(!fence.is_over());
    }
    drop(signal);
    for _ in 0..2 {
        assert!(fence.is_signalled().expect("no error"));
        assert!(fence.is_over() && fence.failure().is_none());
    }
}

/// upstream: `test_add_callback`
#[test]
fn a_callback_is_called_once_when_it_signals() {
    let (fence, signal) = Fence::host();
    let (one, two) = (Calls::default(), Calls::default());
    let ids = [one.on(&fence), two.on(&fence), two.on(&fence)];
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "each has a name of its own");
    assert_eq!((one.count(), two.count()), (0, 0));
    drop(signal);
    assert_eq!((one.count(), two.count()), (1, 2));
    assert!(fence.wait(LONG).is_ok());
    assert_eq!((one.count(), two.count()), (1, 2), "once");
}

/// upstream: `test_late_add_callback`. There it is refused, and the caller does the work itself; here it is
/// called where it is added.
#[test]
fn a_late_callback_is_called_at_once() {
    let (fence, signal) = Fence::host();
    drop(signal);
    let late = Calls::default();
    assert_eq!(late.on(&fence), None);
    assert_eq!(late.on(&Fence::signalled()), None);
    assert_eq!(late.count(), 2);
}

/// upstream: `test_rm_callback`
#[test]
fn a_callback_that_was_taken_back_is_not_called() {
    let (fence, signal) = Fence::host();
    let (kept, gone) = (Calls::default(), Calls::default());
    let [_, id, _] =
        [kept.on(&fence), gone.on(&fence), kept.on(&fence)].map(|id| id.expect("not yet"));
    assert!(forget(&fence, id));
    assert!(!forget(&fence, id), "once");
    drop(signal);
    assert_eq!((kept.count(), gone.count()), (2, 0));
}

/// upstream: `test_late_rm_callback`
#[test]
fn a_callback_cannot_be_taken_back_late() {
    let (fence, signal) = Fence::host();
    let calls = Calls::default();
    let id = calls.on(&fence).expect("not yet");
    drop(signal);
    assert!(!forget(&fence, id), "it has been called");
    assert_eq!(calls.count(), 1);
}

/// Upstream a callback knows its fence; here its name is told to one.
#[test]
fn a_callback_is_taken_back_from_its_own_fence_only() {
    let (calls, others) = (Calls::default(), Calls::default());
    let ((one, signal), (other, others_signal)) = (Fence::host(), Fence::host());
    let id = calls.on(&one).expect("not yet");
    assert!(others.on(&other).is_some());
    assert!(!forget(&other, id) && !forget(&Fence::signalled(), id));
    drop((signal, others_signal));
    assert_eq!((calls.count(), others.count()), (1, 1));
}

/// upstream: `test_error`
#[test]
fn an_error_is_seen_after_the_signal_and_not_before() {
    let (fence, signal) = Fence::host();
    let calls = Calls::default();
    assert!(calls.on(&fence).is_some());
    assert!(matches!(fence.is_signalled(), Ok(false)));
    assert!(fence.failure().is_none());
    signal.fail("EIO");
    assert_eq!(calls.count(), 1, "callbacks are called all the same");
    let told = |error: &Error| matches!(error, Error::WorkFailed { why: "EIO", .. });
    assert!(fence.is_signalled().is_err_and(|error| told(&error)));
    assert!(fence.wait(Duration::ZERO).is_err_and(|error| told(&error)));
    assert!(fence.wait(LONG).is_err_and(|error| told(&error)));
    assert!(fence.failure().as_ref().is_some_and(told));
    assert!(fence.is_over(), "nobody has to wait any longer");
}

/// upstream: `test_error`, where a thread ends without a word
#[test]
fn work_that_panics_has_failed() {
    let (fence, signal) = Fence::host();
    let worker = std::thread::spawn(move || {
        let _signal = signal;
        std::panic::resume_unwind(Box::new("the work goes wrong"));
    });
    assert!(worker.join().is_err());
    assert!(matches!(fence.wait(LONG), Err(Error::WorkFailed { .. })));
}

/// upstream: `test_wait`
#[test]
fn a_wait_ends_with_the_signal() {
    let (fence, signal) = Fence::host();
    let started = Barrier::new(4);
    std::thread::scope(|scope| {
        let waiters = [(); 3].map(|()| {
            scope.spawn(|| {
                started.wait();
                fence.wait(LONG).is_ok()
            })
        });
        started.wait();
        drop(signal);
        assert!(waiters.map(|waiter| waiter.join().expect("it ends")).iter().all(|&ok| ok));
    });
    assert!(fence.wait(Duration::ZERO).is_ok());
}

/// upstream: `test_wait_timeout`
#[test]
fn a_wait_that_ends_early_says_so_and_a_bound_of_nothing_is_a_question() {
    let (fence, signal) = Fence::host();
    for bound in [Duration::ZERO, SHORT] {
        assert!(is_timeout(fence.wait(bound), bound));
    }
    assert!(!fence.is_over(), "a wait changes nothing");
    drop(signal);
    for bound in [Duration::ZERO, SHORT, LONG] {
        assert!(fence.wait(bound).is_ok());
    }
}

/// upstream: `test_stub`
#[test]
fn stubs_have_signalled() {
    let stubs: Vec<_> = (0..64).map(|_| Fence::signalled()).collect();
    for stub in &stubs {
        assert!(stub.is_signalled().expect("no error"));
        assert!(stub.wait(Duration::ZERO).is_ok());
        assert!(stub.failure().is_none() && stub.device().is_none());
    }
}

/// upstream: `race_signal_callback`: one thread signals, one adds a callback, before and after it looks
/// whether the other one has.
#[test]
fn a_callback_that_races_with_the_signal_is_called_once() {
    for before in [false, true] {
        for _ in 0..500 {
            let (fence, signal) = Fence::host();
            let (calls, start) = (Calls::default(), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(signal);
                });
                start.wait();
                if before {
                    // Fails or not: what counts is that somebody looked.
                    let _ = fence.is_signalled();
                }
                if calls.on(&fence).is_none() {
                    assert_eq!(calls.count(), 1, "late, so it was called here");
                }
                assert!(fence.wait(LONG).is_ok());
            });
            assert_eq!(calls.count(), 1, "called, and once");
        }
    }
}

/// upstream: `race_signal_callback`, with `dma_fence_remove_callback`
#[test]
fn a_callback_that_is_taken_back_at_the_signal_is_called_or_taken_back() {
    for _ in 0..500 {
        let (fence, signal) = Fence::host();
        let (calls, start) = (Calls::default(), Barrier::new(2));
        let id = calls.on(&fence).expect("not yet");
        let taken = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                drop(signal);
            });
            start.wait();
            forget(&fence, id)
        });
        assert_eq!(calls.count(), u32::from(!taken), "taken back: {taken}");
    }
}

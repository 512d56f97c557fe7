//! `drivers/dma-buf/st-dma-fence.c`, on host fences. `tests/sync/fences.rs` runs the same tests on points of a
//! device's timeline.
//!
//! | upstream | here |
//! |---|---|
//! | `sanitycheck` | [`a_fence_is_created_and_dropped`] |
//! | `test_signaling` | [`a_fence_signals_once_and_stays_signalled`] |
//! | `test_add_callback` | [`a_callback_is_called_once_at_the_signal`] |
//! | `test_late_add_callback` | [`a_late_callback_is_called_at_once`] |
//! | `test_rm_callback` | [`a_removed_callback_is_not_called`] |
//! | `test_late_rm_callback` | [`a_callback_cannot_be_removed_after_the_signal`] |
//! | `test_status` | [`a_fence_signals_once_and_stays_signalled`] |
//! | `test_error` | [`an_error_is_seen_after_the_signal_and_not_before`] |
//! | `test_wait` | [`a_wait_ends_with_the_signal`] |
//! | `test_wait_timeout` | [`a_wait_times_out_and_a_zero_timeout_polls`] |
//! | `test_stub` | [`stubs_have_signalled`] |
//! | `race_signal_callback` | [`a_callback_that_races_with_the_signal_is_called_once`] |
//!
//! The types rule out: signalling twice (`Signal::fail` consumes the signal, as a drop does), an error after
//! the signal (likewise), a fence that is freed unsignalled (`Signal`'s drop signals it), a callback that is
//! added to two fences (it is moved into one).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::error::Error;
use crate::sync::{Bridges, CallbackId, Fence};

/// A timeout that is reached only by a hang.
const LONG: Duration = Duration::from_secs(3600);
/// A timeout that is reached if the fence does not signal.
const SHORT: Duration = Duration::from_millis(5);

/// Counts calls.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicU32>);

impl Calls {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Adds a counting callback; `None` if it was called at once.
    fn on(&self, fence: &Fence) -> Option<CallbackId> {
        let calls = self.clone();
        let callback = Box::new(move || {
            calls.0.fetch_add(1, Ordering::AcqRel);
        });
        fence
            .on_signal(&Bridges::new(Duration::ZERO), callback)
            .expect("host fences accept callbacks")
    }
}

fn forget(fence: &Fence, id: CallbackId) -> bool {
    fence.forget_callback(&Bridges::new(Duration::ZERO), id).expect("its own callback")
}

fn is_timeout(result: Result<(), Error>, bound: Duration) -> bool {
    matches!(result, Err(Error::Timeout { after, .. }) if after == bound)
}

/// upstream: `sanitycheck`
#[test]
fn a_fence_is_created_and_dropped() {
    let (fence, signal) = Fence::host();
    drop(fence);
    drop(signal);
    let (fence, signal) = Fence::host();
    drop(signal);
    assert!(fence.is_over(), "no fence outlives its work unsignalled");
}

/// upstream: `test_signaling`, `test_status`
#[test]
fn a_fence_signals_once_and_stays_signalled() {
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
fn a_callback_is_called_once_at_the_signal() {
    let (fence, signal) = Fence::host();
    let (one, two) = (Calls::default(), Calls::default());
    let ids = [one.on(&fence), two.on(&fence), two.on(&fence)];
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "each callback has its own id");
    assert_eq!((one.count(), two.count()), (0, 0));
    drop(signal);
    assert_eq!((one.count(), two.count()), (1, 2));
    assert!(fence.wait(LONG).is_ok());
    assert_eq!((one.count(), two.count()), (1, 2), "only once");
}

/// upstream: `test_late_add_callback`. There the callback is refused, and the caller does the work itself;
/// here it is called by the call that adds it.
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
fn a_removed_callback_is_not_called() {
    let (fence, signal) = Fence::host();
    let (kept, removed) = (Calls::default(), Calls::default());
    let [_, id, _] =
        [kept.on(&fence), removed.on(&fence), kept.on(&fence)].map(|id| id.expect("not yet"));
    assert!(forget(&fence, id));
    assert!(!forget(&fence, id), "only once");
    drop(signal);
    assert_eq!((kept.count(), removed.count()), (2, 0));
}

/// upstream: `test_late_rm_callback`
#[test]
fn a_callback_cannot_be_removed_after_the_signal() {
    let (fence, signal) = Fence::host();
    let calls = Calls::default();
    let id = calls.on(&fence).expect("not yet");
    drop(signal);
    assert!(!forget(&fence, id), "it has been called");
    assert_eq!(calls.count(), 1);
}

/// Upstream a callback knows its fence; here the caller passes its id to a fence.
#[test]
fn a_callback_is_removed_from_its_own_fence_only() {
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
    let matching = |error: &Error| matches!(error, Error::WorkFailed { why: "EIO", .. });
    assert!(fence.is_signalled().is_err_and(|error| matching(&error)));
    assert!(fence.wait(Duration::ZERO).is_err_and(|error| matching(&error)));
    assert!(fence.wait(LONG).is_err_and(|error| matching(&error)));
    assert!(fence.failure().as_ref().is_some_and(matching));
    assert!(fence.is_over(), "no wait is needed any more");
}

/// upstream: `test_error`, where the thread ends without an explicit signal
#[test]
fn work_that_panics_has_failed() {
    let (fence, signal) = Fence::host();
    let worker = std::thread::spawn(move || {
        let _signal = signal;
        std::panic::resume_unwind(Box::new("the work fails"));
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
fn a_wait_times_out_and_a_zero_timeout_polls() {
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

/// upstream: `race_signal_callback`: one thread signals; the other adds a callback, with and without a query
/// of the fence before.
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
                    // The result does not matter, only that the fence was queried.
                    let _ = fence.is_signalled();
                }
                if calls.on(&fence).is_none() {
                    assert_eq!(calls.count(), 1, "after the signal, so it was called here");
                }
                assert!(fence.wait(LONG).is_ok());
            });
            assert_eq!(calls.count(), 1, "called exactly once");
        }
    }
}

/// upstream: `race_signal_callback`, with `dma_fence_remove_callback`
#[test]
fn a_callback_removed_at_the_signal_is_either_called_or_removed() {
    for _ in 0..500 {
        let (fence, signal) = Fence::host();
        let (calls, start) = (Calls::default(), Barrier::new(2));
        let id = calls.on(&fence).expect("not yet");
        let removed = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                drop(signal);
            });
            start.wait();
            forget(&fence, id)
        });
        assert_eq!(calls.count(), u32::from(!removed), "removed: {removed}");
    }
}

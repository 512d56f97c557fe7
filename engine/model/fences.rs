//! Fences of the host: signalling against waiting, and against callbacks.

use std::time::Duration;

use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::{exhaust, sample};
use crate::error::Error;
use crate::sync::{Bridges, CallbackId, Fence};

/// A bound that is never over.
const EVER: Duration = Duration::from_secs(3600);

/// Nobody sleeps through a signal.
#[test]
fn a_signal_wakes_whoever_waits() {
    sample(10_000, || {
        let (fence, signal) = Fence::host();
        let waiters = [(); 2].map(|()| {
            let fence = fence.clone();
            thread::spawn(move || fence.wait(EVER).is_ok() && fence.is_over())
        });
        drop(signal);
        for waiter in waiters {
            assert!(waiter.join().expect("nobody panics"));
        }
    });
}

/// Errors travel with fences, to whoever waits, whenever it began to.
#[test]
fn a_failure_reaches_whoever_waits() {
    sample(10_000, || {
        let (fence, signal) = Fence::host();
        let waiter = thread::spawn({
            let fence = fence.clone();
            move || fence.wait(EVER)
        });
        signal.fail("on purpose");
        let waited = waiter.join().expect("nobody panics");
        assert!(matches!(waited, Err(Error::WorkFailed { why: "on purpose", .. })), "{waited:?}");
    });
}

/// upstream: `race_signal_callback`. A callback is called once, whether it came before the signal or after.
#[test]
fn a_callback_is_called_once_in_every_interleaving() {
    exhaust(|| {
        let (fence, signal) = Fence::host();
        let calls = Arc::new(AtomicU32::new(0));
        let adder = thread::spawn({
            let calls = Arc::clone(&calls);
            move || _ = add(&fence, &calls)
        });
        drop(signal);
        adder.join().expect("nobody panics");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}

/// A callback that is taken back is called, or was taken back in time: one of the two.
#[test]
fn a_callback_is_called_or_taken_back_in_every_interleaving() {
    exhaust(|| {
        let (fence, signal) = Fence::host();
        let calls = Arc::new(AtomicU32::new(0));
        let id = add(&fence, &calls).expect("it has not signalled");
        let taker = thread::spawn(move || {
            fence.forget_callback(&Bridges::default(), id).expect("the host's fences can")
        });
        drop(signal);
        let taken = taker.join().expect("nobody panics");
        assert_eq!(calls.load(Ordering::Relaxed), u32::from(!taken));
    });
}

/// A callback finds the fence signalled, and may look at it, wait for it, and add further ones.
#[test]
fn a_callback_may_use_the_fence() {
    sample(5000, || {
        let (fence, signal) = Fence::host();
        let calls = Arc::new(AtomicU32::new(0));
        let seen = Arc::new(Mutex::new(None));
        let adder = thread::spawn({
            let (fence, calls, seen) = (fence.clone(), Arc::clone(&calls), Arc::clone(&seen));
            move || {
                let inner = fence.clone();
                let callback = Box::new(move || {
                    let waited = inner.wait(EVER).is_ok();
                    let late = add(&inner, &calls).is_none();
                    *seen.lock().expect("nobody panicked") = Some((inner.is_over(), waited, late));
                });
                drop(fence.on_signal(&Bridges::default(), callback));
            }
        });
        drop(signal);
        adder.join().expect("nobody panics");
        assert_eq!(*seen.lock().expect("nobody panicked"), Some((true, true, true)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}

fn add(fence: &Fence, calls: &Arc<AtomicU32>) -> Option<CallbackId> {
    let calls = Arc::clone(calls);
    let callback = Box::new(move || {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    fence.on_signal(&Bridges::default(), callback).expect("the host's fences can")
}

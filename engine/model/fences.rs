//! Host fences: signalling against waiting, and against callbacks.

use std::time::Duration;

use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::{exhaust, sample};
use crate::error::Error;
use crate::sync::{Bridges, CallbackId, Fence};

/// A timeout that never expires.
const EVER: Duration = Duration::from_secs(3600);

/// A signal wakes every waiter.
#[test]
fn a_signal_wakes_every_waiter() {
    sample(10_000, || {
        let (fence, signal) = Fence::host();
        let waiters = [(); 2].map(|()| {
            let fence = fence.clone();
            thread::spawn(move || fence.wait(EVER).is_ok() && fence.is_over())
        });
        drop(signal);
        for waiter in waiters {
            assert!(waiter.join().expect("no thread panics"));
        }
    });
}

/// A failure reaches every waiter, whether its wait began before or after the failure.
#[test]
fn a_failure_reaches_every_waiter() {
    sample(10_000, || {
        let (fence, signal) = Fence::host();
        let waiter = thread::spawn({
            let fence = fence.clone();
            move || fence.wait(EVER)
        });
        signal.fail("on purpose");
        let waited = waiter.join().expect("no thread panics");
        assert!(matches!(waited, Err(Error::WorkFailed { why: "on purpose", .. })), "{waited:?}");
    });
}

/// upstream: `race_signal_callback`. A callback is called once, whether it was added before the signal or after.
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
        adder.join().expect("no thread panics");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}

/// A callback that is removed is either called, or removed in time.
#[test]
fn a_callback_is_called_or_removed_in_every_interleaving() {
    exhaust(|| {
        let (fence, signal) = Fence::host();
        let calls = Arc::new(AtomicU32::new(0));
        let id = add(&fence, &calls).expect("the fence has not signalled");
        let remover = thread::spawn(move || {
            fence.forget_callback(&Bridges::default(), id).expect("host fences support it")
        });
        drop(signal);
        let removed = remover.join().expect("no thread panics");
        assert_eq!(calls.load(Ordering::Relaxed), u32::from(!removed));
    });
}

/// When a callback runs, the fence has signalled. The callback may query the fence, wait for it, and add
/// further callbacks.
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
                    *seen.lock().expect("no thread panicked") =
                        Some((inner.is_over(), waited, late));
                });
                drop(fence.on_signal(&Bridges::default(), callback));
            }
        });
        drop(signal);
        adder.join().expect("no thread panics");
        assert_eq!(*seen.lock().expect("no thread panicked"), Some((true, true, true)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}

fn add(fence: &Fence, calls: &Arc<AtomicU32>) -> Option<CallbackId> {
    let calls = Arc::clone(calls);
    let callback = Box::new(move || {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    fence.on_signal(&Bridges::default(), callback).expect("host fences support it")
}

//! The turns of tests: file descriptors are counted for the whole process, so tests in one process run one after the
//! other. Also a test's own files are opened in its turn.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// The turn of this thread, and how often it has it.
    static HELD: RefCell<Option<(MutexGuard<'static, ()>, u32)>> = const { RefCell::new(None) };
}

/// The turn of this thread, until all of them are dropped. It stays on its thread.
#[derive(Debug)]
pub(crate) struct Turn(PhantomData<MutexGuard<'static, ()>>);

/// Waits until no test on another thread of this process is running.
pub(crate) fn turn() -> Turn {
    HELD.with_borrow_mut(|held| match held {
        Some((_, times)) => *times += 1,
        None => *held = Some((TURN.lock().unwrap_or_else(PoisonError::into_inner), 1)),
    });
    Turn(PhantomData)
}

impl Drop for Turn {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| {
            if let Some((_, times)) = held {
                *times -= 1;
            }
            held.take_if(|(_, times)| *times == 0);
        });
    }
}

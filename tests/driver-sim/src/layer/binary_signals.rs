//! Signals of binary semaphores: how many were submitted, and how many of those are with the driver.
//!
//! A semaphore is signalled and waited for in turn. So a wait is for the last signal that was submitted before it, whatever
//! was submitted since, and goes to the driver once that signal has.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use ash::vk;

use super::lock;

#[derive(Debug, Default)]
pub(super) struct BinarySignals {
    semaphores: Mutex<HashMap<vk::Semaphore, Signals>>,
    forwarded: Condvar,
}

/// Those of one semaphore.
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    submitted: u64,
    /// With the driver, or dropped with a lost device.
    forwarded: u64,
}

impl BinarySignals {
    /// Notes that a signal was submitted.
    pub(super) fn submit(&self, semaphore: vk::Semaphore) {
        lock(&self.semaphores).entry(semaphore).or_default().submitted += 1;
    }

    /// How many signals of a semaphore were submitted.
    pub(super) fn submitted(&self, semaphore: vk::Semaphore) -> u64 {
        lock(&self.semaphores).get(&semaphore).map_or(0, |signals| signals.submitted)
    }

    /// Notes that signals are with the driver, or never will be.
    pub(super) fn forward(&self, forwarded: impl Iterator<Item = vk::Semaphore>) {
        let mut semaphores = lock(&self.semaphores);
        for semaphore in forwarded {
            if let Some(signals) = semaphores.get_mut(&semaphore) {
                signals.forwarded += 1;
            }
        }
        drop(semaphores);
        self.forwarded.notify_all();
    }

    /// Waits until the first signals of a semaphore are with the driver, for at most `limit`. Returns whether they are.
    pub(super) fn wait(&self, semaphore: vk::Semaphore, first: u64, limit: Duration) -> bool {
        let is_behind = |semaphores: &mut HashMap<vk::Semaphore, Signals>| {
            // One that was destroyed has none.
            semaphores.get(&semaphore).is_some_and(|signals| signals.forwarded < first)
        };
        let semaphores = lock(&self.semaphores);
        let waited = self.forwarded.wait_timeout_while(semaphores, limit, is_behind);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Forgets a semaphore that is destroyed.
    pub(super) fn forget(&self, semaphore: vk::Semaphore) {
        lock(&self.semaphores).remove(&semaphore);
    }
}

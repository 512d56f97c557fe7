//! What was dropped while a device was still using it.
//!
//! Kernel counterparts: TTM's delayed delete and ghost objects (`ttm_bo_delayed_delete`).

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::fences::{Fences, Usage};
use super::primitive::Mutex;
use super::primitive::atomic::{AtomicUsize, Ordering};
use crate::memory::Backing;
use crate::memory::staging::StagingBuffer;

/// Memory that waits for its last fence before it goes to the next owner.
///
/// Looked through whenever a buffer is created, and by [`crate::Engine::trim`]; dropping never waits.
#[derive(Debug, Default)]
pub(crate) struct Retire {
    list: Mutex<Vec<(Fences, Retired)>>,
    /// Its length, so that looking through an empty list costs a load. Relaxed: the list is behind the
    /// lock, and what is missed now is found the next time.
    length: AtomicUsize,
}

/// What can be retired.
#[derive(Debug)]
#[expect(dead_code, reason = "held only to be dropped at the right time")]
pub(crate) enum Retired {
    Backing(Backing),
    Staging(StagingBuffer),
}

impl Retire {
    /// Takes memory over. Gives it back at once if nothing is running.
    pub(crate) fn push(&self, mut fences: Fences, memory: Retired) {
        if fences.is_idle() {
            drop(memory);
        } else {
            self.with(|list| list.push((fences, memory)));
        }
    }

    /// Gives back what is no longer in use.
    pub(crate) fn collect(&self) {
        if self.length.load(Ordering::Relaxed) == 0 {
            return;
        }
        let done: Vec<_> =
            self.with(|list| list.extract_if(.., |(fences, _)| fences.is_idle()).collect());
        // Outside the lock: a backing takes its pool's.
        drop(done);
    }

    /// Waits for what is still in use, at most `timeout` in all. What is not done then is leaked: a
    /// device may still write to it.
    pub(crate) fn drain(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let waiting: Vec<_> = self.with(|list| {
            list.iter_mut().flat_map(|(fences, _)| fences.pending(Usage::Bookkeep)).collect()
        });
        for fence in waiting {
            if let Err(error) = fence.wait(end.saturating_duration_since(Instant::now())) {
                tracing::warn!(%error, "retired memory is still in use");
            }
        }
        self.collect();
        std::mem::forget(self.with(std::mem::take));
    }

    fn with<R>(&self, work: impl FnOnce(&mut Vec<(Fences, Retired)>) -> R) -> R {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut list);
        self.length.store(list.len(), Ordering::Relaxed);
        result
    }
}

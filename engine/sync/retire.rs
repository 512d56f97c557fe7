//! What was dropped while a device was still using it.
//!
//! Kernel counterparts: TTM's delayed delete and ghost objects (`ttm_bo_delayed_delete`).

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::fence::Fence;
use super::fences::{Fences, Usage};
use super::primitive::Mutex;
use super::primitive::atomic::{AtomicUsize, Ordering};
use crate::error::{Error, Result};
use crate::memory::staging::StagingBuffer;
use crate::memory::{Backing, DomainId, GroupId};

/// Memory that waits for its last fence before it goes to the next owner.
///
/// Looked through whenever a buffer is created, and by [`crate::Engine::trim`]; dropping never waits.
#[derive(Debug, Default)]
pub(crate) struct Retire {
    list: Mutex<List>,
    /// Its length, so that looking through an empty list costs a load. Relaxed: the list is behind the
    /// lock, and what is missed now is found the next time.
    length: AtomicUsize,
}

#[derive(Debug, Default)]
struct List {
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// How many there have been; so no two have the same number.
    pushed: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    fences: Fences,
    memory: Retired,
}

/// How long somebody waits for one fence before others are looked at, at first and at most.
const SLICES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(16)];

/// What can be retired.
#[derive(Debug)]
pub(crate) enum Retired {
    Backing(Backing),
    #[expect(dead_code, reason = "held only to be dropped at the right time")]
    Staging(StagingBuffer),
}

impl Retired {
    fn is_in(&self, place: DomainId) -> bool {
        matches!(self, Self::Backing(backing) if backing.domain() == place)
    }

    fn bytes_of(&self, of: GroupId, place: DomainId) -> u64 {
        let is_its = |backing: &Backing| of == GroupId::NONE || backing.group() == of;
        match self {
            Self::Backing(backing) if backing.domain() == place && is_its(backing) => {
                backing.footprint()
            }
            _ => 0,
        }
    }
}

impl Retire {
    /// Takes memory over. Gives it back at once if nothing is running.
    pub(crate) fn push(&self, mut fences: Fences, memory: Retired) {
        if fences.is_idle() {
            drop(memory);
        } else {
            self.with(|list| {
                let number = list.pushed;
                list.pushed += 1;
                list.waiting.push(Waiting { number, fences, memory });
            });
        }
    }

    /// Gives back what is no longer in use.
    pub(crate) fn collect(&self) {
        if self.length.load(Ordering::Relaxed) == 0 {
            return;
        }
        let done: Vec<_> =
            self.with(|list| list.waiting.extract_if(.., |each| each.fences.is_idle()).collect());
        // Outside the lock: a backing takes its pool's.
        drop(done);
    }

    /// Bytes of a place that wait for their last fence.
    pub(crate) fn bytes_in(&self, place: DomainId) -> u64 {
        self.bytes_of(GroupId::NONE, place)
    }

    /// Those of a client group, or, without one, all.
    pub(crate) fn bytes_of(&self, of: GroupId, place: DomainId) -> u64 {
        self.with(|list| list.waiting.iter().map(|each| each.memory.bytes_of(of, place)).sum())
    }

    /// Waits until everything of a place that is here now has been given back, or until `enough` says that
    /// the rest does not matter; at most until `end`. `Ok(false)` if there is nothing.
    ///
    /// No fence holds up who has enough without it: nobody can wait for whichever of several comes first, so
    /// it waits for one after the other, a little while each, and gives back whatever is over.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or why a fence could not be waited for.
    ///
    /// Locks: as giving back takes; `enough` is called without any.
    pub(crate) fn wait_for(
        &self,
        place: DomainId,
        end: Instant,
        enough: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let now = self.with(|list| list.pushed);
        let (mut waited, mut turn, mut slice) = (false, 0, SLICES[0]);
        loop {
            let Some(pending) = self.pending(place, now, turn) else { return Ok(waited) };
            waited = true;
            let left = end.saturating_duration_since(Instant::now());
            // Of an entry with several the first will do: the next turn sees the others.
            let over = pending.first().map_or(Ok(()), |f| f.wait_until_over(slice.min(left)));
            self.collect();
            if enough() {
                return Ok(true);
            }
            match over {
                // Whoever was first in line still is.
                Ok(()) => {}
                Err(Error::Timeout { .. }) if slice < left => {
                    turn += 1;
                    slice = (slice * 2).min(SLICES[1]);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What one of a place waits for, of those that came before number `before`; which one, the turn says.
    fn pending(&self, place: DomainId, before: u64, turn: usize) -> Option<Vec<Fence>> {
        self.with(|list| {
            let is_meant = |each: &Waiting| each.number < before && each.memory.is_in(place);
            let count = list.waiting.iter().filter(|each| is_meant(each)).count();
            let nth = turn.checked_rem(count)?;
            let each = list.waiting.iter_mut().filter(|each| is_meant(each)).nth(nth)?;
            Some(each.fences.pending(Usage::Bookkeep))
        })
    }

    /// Waits for what is still in use, at most `timeout` in all. What is not done then is leaked: a
    /// device may still write to it.
    pub(crate) fn drain(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let waiting: Vec<_> = self.with(|list| {
            let fences = |each: &mut Waiting| each.fences.pending(Usage::Bookkeep);
            list.waiting.iter_mut().flat_map(fences).collect()
        });
        for fence in waiting {
            if let Err(error) = fence.wait(end.saturating_duration_since(Instant::now())) {
                tracing::warn!(%error, "retired memory is still in use");
            }
        }
        self.collect();
        std::mem::forget(self.with(|list| std::mem::take(&mut list.waiting)));
    }

    fn with<R>(&self, work: impl FnOnce(&mut List) -> R) -> R {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut list);
        self.length.store(list.waiting.len(), Ordering::Relaxed);
        result
    }
}

//! The retire list: memory that was dropped while a device was still using it.
//!
//! Kernel counterparts: TTM's delayed delete and ghost objects (`ttm_bo_delayed_delete`).

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::fence::Fence;
use super::fences::Fences;
use super::primitive::Mutex;
use super::primitive::atomic::{AtomicUsize, Ordering};
use crate::device::{DeviceId, Timestamps};
use crate::error::{Error, Result};
use crate::memory::staging::StagingBuffer;
use crate::memory::{Backing, BoundImage, DomainId, GroupId, View};

/// Memory that is freed once its last fence has signalled; the memory that fences of a lost device name, once
/// nothing submitted to that device is in use ([`Fence::is_released`]).
///
/// The list is collected whenever a buffer is created, and by [`crate::Engine::trim`]. Dropping never waits.
#[derive(Debug, Default)]
pub(crate) struct Retire {
    list: Mutex<List>,
    /// The length of the list, so that collecting an empty list costs one load. Relaxed: the list itself is
    /// protected by the lock, and an entry missed now is found by the next collection.
    length: AtomicUsize,
}

#[derive(Debug, Default)]
struct List {
    /// In the order of their retirement.
    waiting: Vec<Waiting>,
    /// How many entries were ever added: the next entry's number.
    pushed: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    fences: Fences,
    memory: Retired,
}

/// How long [`Retire::wait_for`] waits for one fence before it checks the others: at first, and at most.
const SLICES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(16)];

/// Memory that can be retired.
#[derive(Debug)]
pub(crate) enum Retired {
    Backing(Backing),
    #[expect(dead_code, reason = "held only to be dropped at the right time")]
    Staging(StagingBuffer),
    View(Box<View>),
    #[expect(dead_code, reason = "held only to be dropped at the right time")]
    Image(BoundImage),
    #[expect(dead_code, reason = "held only to be dropped at the right time")]
    Timestamps(Arc<Timestamps>),
}

impl Retired {
    fn is_in(&self, domain: DomainId) -> bool {
        matches!(self, Self::Backing(backing) if backing.domain() == domain)
    }

    fn is_view_of(&self, device: DeviceId) -> bool {
        matches!(self, Self::View(view) if view.device().id() == device)
    }

    fn bytes_of(&self, of: GroupId, domain: DomainId) -> u64 {
        let is_its = |backing: &Backing| of == GroupId::NONE || backing.group() == of;
        match self {
            Self::Backing(backing) if backing.domain() == domain && is_its(backing) => {
                backing.footprint()
            }
            _ => 0,
        }
    }
}

impl Retire {
    /// Retires memory until `fences` have signalled. Frees it at once if they have signalled already.
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

    /// Frees all memory that is no longer in use.
    pub(crate) fn collect(&self) {
        if self.length.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Of each timeline that has not reached one entry's value no later value is asked for.
        let mut running: Vec<Fence> = vec![];
        let is_over = |each: &mut Waiting| {
            let later = |fence: &Fence| running.iter().any(|known| fence.covers(known));
            if each.fences.first_running().is_some_and(later) {
                return false;
            }
            let over = each.fences.is_idle();
            running.extend(each.fences.first_running().filter(|_| !over).cloned());
            over
        };
        let done: Vec<_> = self.with(|list| list.waiting.extract_if(.., is_over).collect());
        // Without the lock: freeing a backing takes its pool's lock.
        drop(done);
    }

    /// Forgets what unfinished work depends on, as far as that has succeeded.
    pub(crate) fn forget_succeeded(&self) {
        self.with(|list| list.waiting.iter_mut().for_each(|each| each.fences.forget_succeeded()));
    }

    /// Bytes of a domain that wait for their last fence.
    pub(crate) fn bytes_in(&self, domain: DomainId) -> u64 {
        self.bytes_of(GroupId::NONE, domain)
    }

    /// Bytes of a domain that wait for their last fence, of one client group or, for [`GroupId::NONE`], of all.
    pub(crate) fn bytes_of(&self, of: GroupId, domain: DomainId) -> u64 {
        self.with(|list| list.waiting.iter().map(|each| each.memory.bytes_of(of, domain)).sum())
    }

    /// Waits until all memory of a domain that is retired now has been freed, or until `enough` returns true;
    /// at most until `end`. Returns `Ok(false)` if there is none.
    ///
    /// The first of several fences cannot be waited for as such. So this waits for one after the other, a short
    /// time each, and frees what is no longer in use. A slow fence does not delay a caller that has enough
    /// without it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or the reason why a wait failed.
    ///
    /// Locks: those that freeing takes; `enough` is called without any.
    pub(crate) fn wait_for(
        &self,
        domain: DomainId,
        end: Instant,
        enough: &dyn Fn() -> bool,
    ) -> Result<bool> {
        self.wait_for_those(&|memory| memory.is_in(domain), end, enough)
    }

    /// As [`Retire::wait_for`], for the views of a device.
    ///
    /// # Errors
    ///
    /// As [`Retire::wait_for`].
    ///
    /// Locks: as [`Retire::wait_for`].
    pub(crate) fn wait_for_views(
        &self,
        device: DeviceId,
        end: Instant,
        enough: &dyn Fn() -> bool,
    ) -> Result<bool> {
        self.wait_for_those(&|memory| memory.is_view_of(device), end, enough)
    }

    fn wait_for_those(
        &self,
        those: &dyn Fn(&Retired) -> bool,
        end: Instant,
        enough: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let now = self.with(|list| list.pushed);
        let (mut waited, mut turn, mut slice) = (false, 0, SLICES[0]);
        loop {
            let Some(pending) = self.pending(those, now, turn) else { return Ok(waited) };
            waited = true;
            let left = end.saturating_duration_since(Instant::now());
            // The first fence of an entry is enough: the next turn waits for its others.
            let over = pending.first().map_or(Ok(()), |f| f.wait_until_released(slice.min(left)));
            self.collect();
            if enough() {
                return Ok(true);
            }
            match over {
                // The turn stays: the next entry has moved up to this position.
                Ok(()) => {}
                Err(Error::Timeout { .. }) if slice < left => {
                    turn += 1;
                    slice = (slice * 2).min(SLICES[1]);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The fences of one of `those` entries, among the ones numbered below `before`. `turn` selects the entry.
    fn pending(
        &self,
        those: &dyn Fn(&Retired) -> bool,
        before: u64,
        turn: usize,
    ) -> Option<Vec<Fence>> {
        self.with(|list| {
            let matches = |each: &Waiting| each.number < before && those(&each.memory);
            let count = list.waiting.iter().filter(|each| matches(each)).count();
            let nth = turn.checked_rem(count)?;
            let each = list.waiting.iter_mut().filter(|each| matches(each)).nth(nth)?;
            Some(each.fences.in_use())
        })
    }

    /// Waits for all memory that is still in use, as long as there is progress within `bound`. Memory that is in
    /// use after that is leaked, because a device may still write to it.
    pub(crate) fn drain(&self, bound: Duration) {
        let waiting: Vec<_> = self.with(|list| {
            let fences = |each: &mut Waiting| each.fences.in_use();
            list.waiting.iter_mut().flat_map(fences).collect()
        });
        // After the first wait without progress the others are only looked at.
        let mut stuck = false;
        for fence in waiting {
            let waited = if stuck { Duration::ZERO } else { bound };
            let over = fence.wait_while_in_progress(waited);
            if let Err(error) = over.and_then(|()| fence.check_released(waited)) {
                stuck = true;
                tracing::warn!(%error, "retired memory still in use after the timeout; leaked");
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

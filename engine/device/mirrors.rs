//! Timelines on one device that mirror the timelines of others, and what becomes of them when a device is lost.
#![expect(unsafe_code, reason = "signalling timelines from the host, and destroying them")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ash::vk;

use super::calls::Calls;
use super::inner::{DeviceInner, TimelineMirror};
use super::queue::Queue;
use super::queues::QueueKind;
use crate::error::Result;

/// See [`DeviceInner::begin_wait_for_signals`].
pub(super) struct SignalWait<'a>(&'a DeviceInner);

impl Drop for SignalWait<'_> {
    fn drop(&mut self) {
        lock(&self.0.mirrors).waits -= 1;
    }
}

fn is(of: &Weak<DeviceInner>, device: &Arc<DeviceInner>) -> bool {
    std::ptr::eq(of.as_ptr(), Arc::as_ptr(device))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceInner {
    /// The timeline on this device that mirrors a queue of `other`, made by `make` if there is none yet.
    pub(crate) fn mirror_of(
        self: &Arc<Self>,
        other: &Arc<Self>,
        kind: QueueKind,
        make: impl FnOnce() -> Result<TimelineMirror>,
    ) -> Result<TimelineMirror> {
        let mut here = lock(&self.mirrors);
        let known = here.all.iter().find(|(of, on, _)| is(of, other) && *on == kind);
        if let Some((.., mirror)) = known {
            return Ok(*mirror);
        }
        let mirror = make()?;
        here.all.push((Arc::downgrade(other), kind, mirror));
        drop(here);
        if let TimelineMirror::Shared(_) = mirror {
            let mut importers = lock(&other.importers);
            if !importers.all.iter().any(|importer| is(importer, self)) {
                importers.all.push(Arc::downgrade(self));
            }
            let ended = importers.ended;
            drop(importers);
            // The waits of the importers were ended before this one was known.
            if ended {
                other.end_waits_of(self);
            }
        }
        Ok(mirror)
    }

    /// Ends the waits of other devices for the timelines of this one, which is lost: signals these from the host,
    /// on the importing side, up to the last submission. A driver may never signal them itself, and the other
    /// queues would wait for ever.
    ///
    /// From here on the timelines are no evidence of what this device has done. A device that cannot be helped in
    /// this way is marked as lost, too.
    pub(crate) fn end_waits_for_lost(self: &Arc<Self>) {
        let importers: Vec<_> = {
            let mut importers = lock(&self.importers);
            importers.ended = true;
            importers.all.iter().filter_map(Weak::upgrade).collect()
        };
        importers.iter().for_each(|importer| self.end_waits_of(importer));
    }

    /// [`DeviceInner::end_waits_for_lost`] for one of the other devices.
    fn end_waits_of(self: &Arc<Self>, importer: &Arc<Self>) {
        for (kind, mirror) in importer.shared_mirrors_of(self) {
            let queue = self.queue(kind);
            let last = queue.attempted();
            // One thread at a time: of two, the second would signal a value that is reached.
            let alone = lock(&self.importers);
            let ended = importer.timeline_value(mirror).and_then(|value| {
                if value >= last {
                    return Ok(());
                }
                queue.timeline().distrust(&self.raw, &self.calls);
                // SAFETY: a live timeline of the importer, below `last`. The device that signals it is lost:
                // nothing is submitted to it any more, and a wait has ended or timed out.
                unsafe { importer.signal_timeline(mirror, last) }
            });
            drop(alone);
            if let Err(error) = ended {
                tracing::error!(
                    %error,
                    device = importer.name(),
                    "its queue waits for a device that is lost; marked as lost, too"
                );
                drop(importer.lost_in("vkSignalSemaphore"));
            }
        }
    }

    /// Keeps a timeline for as long as the device, since it is given to the application.
    pub(crate) fn give_timeline(&self, timeline: vk::Semaphore) {
        let mut here = lock(&self.mirrors);
        if !here.given.contains(&timeline) {
            here.given.push(timeline);
        }
    }

    /// Destroys the timelines that mirror those of devices which have left. Those that a submission here may still wait for
    /// stay until the next device leaves, or this one; those that the application knows, until this one ends.
    pub(crate) fn forget_removed(&self) {
        let has_left = |of: &Weak<Self>| of.upgrade().is_none_or(|device| device.is_removed());
        lock(&self.importers).all.retain(|importer| !has_left(importer));
        let gone: Vec<_> =
            lock(&self.mirrors).all.extract_if(.., |(of, ..)| has_left(of)).collect();
        // What waits for a mirror has a fence, and so a reference, of the device that it mirrors. There are none any more:
        // no submission begins to wait for one of these.
        let (used, unused): (Vec<_>, Vec<_>) = gone.into_iter().partition(|(.., mirror)| {
            self.queues.iter().any(|queue| queue.may_wait_for(&self.raw, &self.calls, mirror.raw()))
        });
        let mut here = lock(&self.mirrors);
        let (given, unused): (Vec<_>, Vec<_>) =
            unused.into_iter().partition(|(.., mirror)| here.given.contains(&mirror.raw()));
        here.all.extend(used.into_iter().chain(given));
        if here.waits > 0 {
            // A thread may have found one among what a submission waits for, before that was known to have finished.
            here.all.extend(unused);
            return;
        }
        for (.., mirror) in unused {
            // SAFETY: a live timeline of this device. All submissions that wait for it have finished
            // (VUID-vkDestroySemaphore-semaphore-05149), a bridge that signals it has ended, and neither a list nor the
            // application has it.
            unsafe { self.raw.destroy_semaphore(mirror.raw(), None) };
        }
    }

    /// Keeps the timelines of this device alive that unfinished submissions wait for, for a wait of the host.
    pub(super) fn begin_wait_for_signals(&self) -> SignalWait<'_> {
        lock(&self.mirrors).waits += 1;
        SignalWait(self)
    }

    /// The imported timelines of `other`'s queues.
    fn shared_mirrors_of(&self, other: &Arc<Self>) -> Vec<(QueueKind, vk::Semaphore)> {
        let here = lock(&self.mirrors);
        let its = here.all.iter().filter(|(of, ..)| is(of, other));
        its.filter_map(|&(_, kind, mirror)| match mirror {
            TimelineMirror::Shared(raw) => Some((kind, raw)),
            TimelineMirror::HostSignalled(_) => None,
        })
        .collect()
    }
}

impl Queue {
    /// Whether a submission that is not known to have finished waits for `timeline`.
    pub(super) fn may_wait_for(
        &self,
        device: &ash::Device,
        calls: &Calls,
        timeline: vk::Semaphore,
    ) -> bool {
        let mut state = self.in_flight();
        let reclaimed = self.reclaim(device, calls, &mut state, None);
        let awaited = || self.awaited(u64::MAX, &[]).iter().any(|(of, _)| *of == timeline);
        reclaimed.is_err() || state.waits_for(Some(timeline)) || awaited()
    }
}

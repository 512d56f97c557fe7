//! Timelines on one device that mirror the timelines of others, and what becomes of them when a device is lost.
#![expect(unsafe_code, reason = "signalling timelines from the host")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ash::vk;

use super::inner::{DeviceInner, TimelineMirror};
use super::queues::QueueKind;
use crate::error::Result;

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
        let known = here.iter().find(|(of, on, _)| is(of, other) && *on == kind);
        if let Some((.., mirror)) = known {
            return Ok(*mirror);
        }
        let mirror = make()?;
        here.push((Arc::downgrade(other), kind, mirror));
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
                queue.timeline().distrust(&self.raw);
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

    /// The imported timelines of `other`'s queues.
    fn shared_mirrors_of(&self, other: &Arc<Self>) -> Vec<(QueueKind, vk::Semaphore)> {
        let here = lock(&self.mirrors);
        let its = here.iter().filter(|(of, ..)| is(of, other));
        its.filter_map(|&(_, kind, mirror)| match mirror {
            TimelineMirror::Shared(raw) => Some((kind, raw)),
            TimelineMirror::HostSignalled(_) => None,
        })
        .collect()
    }
}

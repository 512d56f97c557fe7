//! How a device's queue waits for work that runs elsewhere.
//!
//! Best first: its own timeline, which needs no wait; that of another lane of its device, which is a semaphore
//! of its own; another device's timeline, taken in as one; a sync file, or an opaque fd, of a binary semaphore;
//! the bridge.
#![expect(unsafe_code, reason = "semaphores from device to device")]

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::bridge::Bridges;
use super::fence::{Fence, Point};
use crate::device::{
    DeviceInner, OwnedSemaphore, QueueKind, SemaphoreHandle, TimelineMirror, Waits,
};
use crate::error::Result;

/// How one device's queue waits for another one's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitRoute {
    /// It is the same device: its queue keeps its own order, and waits for the timeline of the other one
    /// that moves go to, if there is one.
    SameTimeline,
    /// The other device's timeline semaphore, exported once as an `OPAQUE_FD`: same driver and device.
    SharedTimeline,
    /// A binary semaphore for each wait, as a `SYNC_FD`: a fence of the kernel.
    SyncFd,
    /// A binary semaphore for each wait, as an `OPAQUE_FD`: same driver and device.
    OpaqueFd,
    /// A thread of the host that waits for the one and signals the other.
    Bridge,
}

impl WaitRoute {
    /// The best that the two devices have, by what their drivers say.
    pub(crate) fn between(source: &DeviceInner, target: &DeviceInner) -> Self {
        if std::ptr::eq(source, target) {
            return Self::SameTimeline;
        }
        let same = source.adapter().same_driver_and_device(target.adapter());
        let shared = |handle, timeline| {
            source.shares_semaphores(handle, timeline).0
                && target.shares_semaphores(handle, timeline).1
        };
        if same && shared(SemaphoreHandle::OPAQUE_FD, true) {
            Self::SharedTimeline
        } else if shared(SemaphoreHandle::SYNC_FD, false) {
            Self::SyncFd
        } else if same && shared(SemaphoreHandle::OPAQUE_FD, false) {
            Self::OpaqueFd
        } else {
            Self::Bridge
        }
    }

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameTimeline => "same_timeline",
            Self::SharedTimeline => "shared_timeline",
            Self::SyncFd => "sync_fd",
            Self::OpaqueFd => "opaque_fd",
            Self::Bridge => "bridge",
        }
    }
}

impl fmt::Display for WaitRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the next submission to `target`'s main lane must wait for so that it comes after `fences`, without blocking the
/// caller. Fences that [`Fence::is_for_host`] names are passed over: the caller has waited for them.
///
/// # Errors
///
/// What making, exporting or importing a semaphore said, where the bridge could not help either.
///
/// Locks: none may be held but reservations; takes queues'.
pub(crate) fn waits_on(
    bridges: &Bridges,
    target: &Arc<DeviceInner>,
    fences: &[Fence],
) -> Result<Waits> {
    waits_on_lane(bridges, (target, QueueKind::Main), fences)
}

/// The same for the next move that `target` makes.
pub(crate) fn waits_of_move(
    bridges: &Bridges,
    target: &Arc<DeviceInner>,
    fences: &[Fence],
) -> Result<Waits> {
    waits_on_lane(bridges, (target, target.queue_for_moves()), fences)
}

fn waits_on_lane(
    bridges: &Bridges,
    (target, lane): (&Arc<DeviceInner>, QueueKind),
    fences: &[Fence],
) -> Result<Waits> {
    let mut waits = Waiting { bridges, target, waits: Waits::default() };
    for (at, fence) in fences.iter().enumerate() {
        // One wait per timeline: of its fences the last, of equal ones the first.
        let covered =
            |(of, other): (usize, &Fence)| other.covers(fence) && (of < at || !fence.covers(other));
        if fence.is_over()
            || fence.is_on_lane(target, lane)
            || fences.iter().enumerate().any(covered)
        {
            continue;
        }
        if let Err(error) = waits.add(fence) {
            target.discard(waits.finish());
            return Err(error);
        }
    }
    Ok(waits.finish())
}

struct Waiting<'a> {
    bridges: &'a Bridges,
    target: &'a Arc<DeviceInner>,
    waits: Waits,
}

impl Waiting<'_> {
    fn add(&mut self, fence: &Fence) -> Result<()> {
        if let Some(fd) = fence.sync_file() {
            let fd = crate::memory::dma_buf::duplicate(fd, self.target.calls())?;
            return self.take_in(fd, SemaphoreHandle::SYNC_FD);
        }
        // Work of the host is the caller's to wait for.
        let Some(point) = fence.point() else { return Ok(()) };
        match WaitRoute::between(&point.device, self.target) {
            WaitRoute::SameTimeline => {
                self.beside(point);
                Ok(())
            }
            WaitRoute::SharedTimeline => self.timeline(point),
            WaitRoute::SyncFd => self.binary(point, SemaphoreHandle::SYNC_FD),
            WaitRoute::OpaqueFd => self.binary(point, SemaphoreHandle::OPAQUE_FD),
            WaitRoute::Bridge => self.bridge(point),
        }
    }

    /// The timeline of another lane of the same device, which lives as long as that. What it stands for has
    /// been submitted, so even lanes of one `VkQueue` come to it.
    fn beside(&mut self, point: &Point) {
        self.waits.timeline(self.target.timeline(point.lane), point.value);
    }

    /// The other device's own timeline. Taken in once, and kept.
    fn timeline(&mut self, point: &Point) -> Result<()> {
        let Point { device: source, lane, value } = point;
        let image = self.target.mirror_of(source, *lane, || {
            let image = self.target.create_timeline(0)?;
            let taken = take_timeline_in(source, *lane, &image, self.target);
            Ok(match taken {
                Ok(()) => TimelineMirror::Shared(image.into_raw()),
                Err(error) => {
                    tracing::warn!(%error, "no shared timeline; the bridge shows it");
                    // It may have taken half of an import in, so it is not used again.
                    let reached = source.completed(*lane)?;
                    TimelineMirror::HostSignalled(self.target.create_timeline(reached)?.into_raw())
                }
            })
        })?;
        match image {
            TimelineMirror::Shared(image) => {
                self.waits.timeline(image, *value);
                Ok(())
            }
            TimelineMirror::HostSignalled(_) => self.bridge(point),
        }
    }

    /// A binary semaphore behind everything that the other device's lane has been given so far. Not where
    /// that depends on a signal that is still to be submitted, nor where many are under way, since each is an
    /// fd or two; there, and where a call fails, the bridge.
    fn binary(&mut self, point: &Point, handle: SemaphoreHandle) -> Result<()> {
        match signal_behind(&point.device, point.lane, handle) {
            Ok(Behind::File(fd)) => match self.take_in(fd, handle) {
                Err(error) if !error.is_device_lost() => self.instead(point, &error),
                other => other,
            },
            Ok(Behind::NotNow) => self.bridge(point),
            Ok(Behind::Signalled) => Ok(()),
            // Nothing is running there any more; that it went wrong the fence says.
            Err(error) if error.is_device_lost() => Ok(()),
            Err(error) => self.instead(point, &error),
        }
    }

    fn instead(&mut self, point: &Point, error: &crate::Error) -> Result<()> {
        let (source, target) = (point.device.name(), self.target.name());
        tracing::warn!(%error, "no semaphore from {source} to {target}");
        self.bridge(point)
    }

    fn take_in(&mut self, fd: OwnedFd, handle: SemaphoreHandle) -> Result<()> {
        let semaphore = self.target.create_binary(SemaphoreHandle::empty())?;
        // SAFETY: it was just made, as the binary semaphore that was exported, or a sync file can be;
        // opaque fds only between equal drivers and devices (`WaitRoute::between`).
        unsafe { self.target.import_semaphore(semaphore.raw(), handle, fd) }?;
        self.waits.once(semaphore);
        Ok(())
    }

    fn bridge(&mut self, point: &Point) -> Result<()> {
        let Point { device: source, lane, value } = point;
        let bridge = self.bridges.of(source, *lane)?;
        let image = self.target.mirror_of(source, *lane, || {
            let reached = source.completed(*lane)?;
            Ok(TimelineMirror::HostSignalled(self.target.create_timeline(reached)?.into_raw()))
        })?;
        let TimelineMirror::HostSignalled(image) = image else {
            // Some calls failed and some did not; what was taken in is as good.
            return self.timeline(point);
        };
        if self.target.timeline_value(image)? < *value {
            bridge.show(*value, self.target, image);
            self.waits.timeline(image, *value);
        }
        Ok(())
    }

    fn finish(self) -> Waits {
        self.waits
    }
}

/// A point behind everything that a lane has been given so far.
pub(super) enum Behind {
    /// As a file.
    File(OwnedFd),
    /// It has signalled already.
    Signalled,
    /// It cannot be had now: that work waits for a signal that is still to come, or there are many.
    NotNow,
}

/// Submits the signal of a new binary semaphore behind everything that a lane of `source` has been given so
/// far, and exports it.
pub(super) fn signal_behind(
    source: &DeviceInner,
    lane: QueueKind,
    handle: SemaphoreHandle,
) -> Result<Behind> {
    let semaphore: OwnedSemaphore<'_> = source.create_binary(handle)?;
    let raw = semaphore.raw();
    let early = if handle == SemaphoreHandle::OPAQUE_FD {
        // SAFETY: made just now, for export as this.
        unsafe { source.export_semaphore(raw, handle) }?
    } else {
        None
    };
    let Some(value) = source.signal_once(lane, raw)? else { return Ok(Behind::NotNow) };
    let fd = if early.is_some() {
        Ok(early)
    } else {
        // SAFETY: its signal was submitted just above, where nothing before it depends on a signal that
        // is still to be submitted, and nobody waits for it.
        unsafe { source.export_semaphore(raw, handle) }
    };
    source.keep_until(lane, value, semaphore);
    Ok(fd?.map_or(Behind::Signalled, Behind::File))
}

fn take_timeline_in(
    source: &DeviceInner,
    lane: QueueKind,
    image: &OwnedSemaphore<'_>,
    target: &DeviceInner,
) -> Result<()> {
    const HANDLE: SemaphoreHandle = SemaphoreHandle::OPAQUE_FD;
    // SAFETY: the queue made its timeline for export where the adapter exports timelines, which
    // `WaitRoute::between` has looked at.
    let fd = unsafe { source.export_semaphore(source.timeline(lane), HANDLE) }?;
    let fd = fd.ok_or_else(|| crate::Error::Unsupported {
        device: source.name().to_owned(),
        missing: "an fd of its timeline".into(),
    })?;
    // SAFETY: `image` is a new timeline of `target`, which has the same driver and device as `source`.
    unsafe { target.import_semaphore(image.raw(), HANDLE, fd) }
}

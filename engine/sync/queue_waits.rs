//! How a device's queue waits for work of other queues and devices.
//!
//! Best first: its own timeline, which needs no wait; the timeline of another lane of the same device, which
//! is a semaphore of that device; another device's timeline, imported; a binary semaphore, imported as a sync
//! file or as an opaque fd; the bridge.
#![expect(unsafe_code, reason = "semaphores from device to device")]

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ash::vk;

use super::bridge::Bridges;
use super::fence::{Fence, Point};
use super::readings::Readings;
use crate::device::{
    DeviceInner, OwnedSemaphore, QueueKind, SemaphoreHandle, TimelineMirror, Waits,
};
use crate::error::Result;

/// How one device's queue waits for another device's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitRoute {
    /// Both are the same device. Its queue keeps its own order. If moves have a queue of their own, each of
    /// the two waits for the other's timeline semaphore.
    SameTimeline,
    /// The other device's timeline semaphore, exported once as an `OPAQUE_FD`. Same driver and device only.
    SharedTimeline,
    /// A binary semaphore for each wait, exported as a `SYNC_FD`: a kernel fence.
    SyncFd,
    /// A binary semaphore for each wait, exported as an `OPAQUE_FD`. Same driver and device only.
    OpaqueFd,
    /// A host thread that waits for the one device and signals the other.
    Bridge,
}

impl WaitRoute {
    /// The best route that both devices' drivers support.
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

/// The semaphore waits that order the next submission to `target`'s main lane behind `fences`. Does not block.
/// Fences for which [`Fence::is_for_host`] holds are skipped: the caller has waited for them.
///
/// # Errors
///
/// The error of creating, exporting or importing a semaphore, if the bridge failed as well.
///
/// Locks: none may be held but reservations; takes queues'.
pub(crate) fn waits_on(
    bridges: &Bridges,
    target: &Arc<DeviceInner>,
    fences: &[Fence],
) -> Result<Waits> {
    waits_on_at(bridges, target, fences, &mut Readings::default())
}

/// As [`waits_on`], for fences that are running at the moment of `readings`.
pub(crate) fn waits_on_at(
    bridges: &Bridges,
    target: &Arc<DeviceInner>,
    fences: &[Fence],
    readings: &mut Readings,
) -> Result<Waits> {
    waits_on_lane(bridges, (target, QueueKind::Main), fences, readings)
}

/// As [`waits_on`], for the next move on `target`.
pub(crate) fn waits_of_move(
    bridges: &Bridges,
    target: &Arc<DeviceInner>,
    fences: &[Fence],
) -> Result<Waits> {
    let lane = target.queue_for_moves();
    waits_on_lane(bridges, (target, lane), fences, &mut Readings::default())
}

fn waits_on_lane(
    bridges: &Bridges,
    (target, lane): (&Arc<DeviceInner>, QueueKind),
    fences: &[Fence],
    readings: &mut Readings,
) -> Result<Waits> {
    let mut waits = WaitBuilder { bridges, target, waits: Waits::default() };
    for (at, fence) in fences.iter().enumerate() {
        // One wait per timeline: for the last of its fences, and for the first of equal ones.
        let covered =
            |(of, other): (usize, &Fence)| other.covers(fence) && (of < at || !fence.covers(other));
        if fence.is_on_lane(target, lane)
            || fence.is_over_at(readings)
            || fences.iter().enumerate().any(covered)
        {
            continue;
        }
        if let Err(error) = waits.add(fence) {
            // The other device was lost after the reading, so there is nothing to wait for any more.
            if error.is_device_lost() && fence.is_over() {
                continue;
            }
            target.discard(waits.finish());
            return Err(error);
        }
    }
    Ok(waits.finish())
}

/// A timeline of `target`, and the value that it has once `point` is reached; `None` if it has it already. By the
/// bridge where no timeline is shared: then the value is signalled by the host, later. It is for the application, and
/// lives as long as `target`.
pub(super) fn timeline_of(
    bridges: &Bridges,
    target: &Arc<DeviceInner>,
    point: &Point,
) -> Result<Option<(vk::Semaphore, u64)>> {
    let mut waits = WaitBuilder { bridges, target, waits: Waits::default() };
    match WaitRoute::between(&point.device, target) {
        WaitRoute::SameTimeline => waits.other_lane(point),
        WaitRoute::SharedTimeline => waits.timeline(point)?,
        WaitRoute::SyncFd | WaitRoute::OpaqueFd | WaitRoute::Bridge => waits.bridge(point)?,
    }
    let timeline = waits.finish().first_timeline();
    // `point` has a reference to the other device, so that its timeline is not forgotten before this.
    timeline.iter().for_each(|(semaphore, _)| target.give_timeline(*semaphore));
    Ok(timeline)
}

struct WaitBuilder<'a> {
    bridges: &'a Bridges,
    target: &'a Arc<DeviceInner>,
    waits: Waits,
}

impl WaitBuilder<'_> {
    fn add(&mut self, fence: &Fence) -> Result<()> {
        if let Some(fd) = fence.sync_file() {
            let fd = crate::memory::dma_buf::duplicate(fd, self.target.calls())?;
            return self.import(fd, SemaphoreHandle::SYNC_FD);
        }
        // The caller waits for work of the host.
        let Some(point) = fence.point() else { return Ok(()) };
        match WaitRoute::between(&point.device, self.target) {
            WaitRoute::SameTimeline => {
                self.other_lane(point);
                Ok(())
            }
            WaitRoute::SharedTimeline => self.timeline(point),
            WaitRoute::SyncFd => self.binary(point, SemaphoreHandle::SYNC_FD),
            WaitRoute::OpaqueFd => self.binary(point, SemaphoreHandle::OPAQUE_FD),
            WaitRoute::Bridge => self.bridge(point),
        }
    }

    /// Waits for the timeline of another lane of the same device, which lives as long as the device. The
    /// signal has been submitted, so the wait ends even if both lanes share one `VkQueue`.
    fn other_lane(&mut self, point: &Point) {
        self.waits.timeline(self.target.timeline(point.lane), point.value);
    }

    /// Waits for the other device's timeline, which is imported once and kept.
    fn timeline(&mut self, point: &Point) -> Result<()> {
        let Point { device: source, lane, value } = point;
        let image = self.target.mirror_of(source, *lane, || {
            let image = self.target.create_timeline(0)?;
            let imported = import_timeline(source, *lane, &image, self.target);
            Ok(match imported {
                Ok(()) => TimelineMirror::Shared(image.into_raw()),
                Err(error) => {
                    tracing::warn!(%error, "importing a timeline failed; using the bridge");
                    // The failed import may have changed the semaphore, so it is not used again.
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

    /// Waits for a binary semaphore, signalled behind all work submitted to the other device's lane so far.
    ///
    /// Falls back to the bridge if that work depends on a signal that is not submitted yet, if many such
    /// semaphores are pending (each costs an fd or two), if an export does not return, or if a call fails.
    fn binary(&mut self, point: &Point, handle: SemaphoreHandle) -> Result<()> {
        match export_signal(&point.device, point.lane, handle) {
            Ok(ExportedSignal::File(fd)) => match self.import(fd, handle) {
                Err(error) if !error.is_device_lost() => self.fall_back(point, &error),
                other => other,
            },
            Ok(ExportedSignal::Unavailable) => self.bridge(point),
            Ok(ExportedSignal::Signalled) => Ok(()),
            // No work is running there any more; the fence itself reports the failure.
            Err(error) if error.is_device_lost() => Ok(()),
            Err(error) => self.fall_back(point, &error),
        }
    }

    fn fall_back(&mut self, point: &Point, error: &crate::Error) -> Result<()> {
        let (source, target) = (point.device.name(), self.target.name());
        tracing::warn!(%error, "sharing a semaphore of {source} with {target} failed; using the bridge");
        self.bridge(point)
    }

    fn import(&mut self, fd: OwnedFd, handle: SemaphoreHandle) -> Result<()> {
        let semaphore = self.target.create_binary(SemaphoreHandle::empty())?;
        // SAFETY: it was created as a binary semaphore, as the exported one was, and as a sync file
        // allows, and no submission uses it; opaque fds only between equal drivers and devices (`WaitRoute::between`).
        unsafe { self.target.import_semaphore(semaphore.raw(), handle, fd) }?;
        self.waits.once(semaphore, handle);
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
            // An earlier import of this timeline has succeeded, so it can be used.
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

/// A signal behind all work submitted to a lane so far.
pub(super) enum ExportedSignal {
    /// Exported as a file.
    File(OwnedFd),
    /// All of the work has finished already.
    Signalled,
    /// Not available now: the work waits for a signal that is not submitted yet, too many semaphores are
    /// pending, or the driver has not returned from an earlier export.
    Unavailable,
}

/// Submits the signal of a binary semaphore behind all work submitted to a lane of `source` so far, and
/// exports the semaphore. Waits for the driver for at most 250 ms.
pub(super) fn export_signal(
    source: &Arc<DeviceInner>,
    lane: QueueKind,
    handle: SemaphoreHandle,
) -> Result<ExportedSignal> {
    if handle == SemaphoreHandle::SYNC_FD {
        return export_sync_file(source, lane);
    }
    let semaphore: OwnedSemaphore<'_> = source.create_binary(handle)?;
    // SAFETY: created just now, for export with this handle type: none of those is kept for another use.
    let fd = unsafe { source.export_semaphore(semaphore.raw(), handle) }?;
    let Some((semaphore, value)) = source.signal_once(lane, semaphore)? else {
        return Ok(ExportedSignal::Unavailable);
    };
    source.keep_until((lane, value), semaphore, false);
    Ok(fd.map_or(ExportedSignal::Signalled, ExportedSignal::File))
}

fn export_sync_file(source: &Arc<DeviceInner>, lane: QueueKind) -> Result<ExportedSignal> {
    if source.exports_are_stuck() {
        return Ok(ExportedSignal::Unavailable);
    }
    let semaphore = source.create_binary(SemaphoreHandle::SYNC_FD)?;
    let Some((semaphore, value)) = source.signal_once(lane, semaphore)? else {
        return Ok(ExportedSignal::Unavailable);
    };
    // SAFETY: its signal was submitted just above, behind work that depends on no signal that is not
    // submitted yet, and nothing waits for it.
    let fd = unsafe { source.export_sync_file((lane, value), semaphore) }?;
    Ok(fd.map_or(ExportedSignal::Signalled, ExportedSignal::File))
}

fn import_timeline(
    source: &DeviceInner,
    lane: QueueKind,
    image: &OwnedSemaphore<'_>,
    target: &DeviceInner,
) -> Result<()> {
    const HANDLE: SemaphoreHandle = SemaphoreHandle::OPAQUE_FD;
    // SAFETY: the queue creates its timeline for export if the adapter exports timelines, which
    // `WaitRoute::between` has checked.
    let fd = unsafe { source.export_semaphore(source.timeline(lane), HANDLE) }?;
    let fd = fd.ok_or_else(|| crate::Error::Unsupported {
        device: source.name().to_owned(),
        missing: "an fd of its timeline".into(),
    })?;
    // SAFETY: `image` is a new timeline of `target`, which has the same driver and device as `source`.
    unsafe { target.import_semaphore(image.raw(), HANDLE, fd) }
}

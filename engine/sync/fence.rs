//! Fences: each signals once, within bounded time, when its work has finished.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::bridge::Bridges;
use super::dependencies::{Dependencies, ReliedOn};
use super::host_fence::{Callback, CallbackId, HostFence, Signal};
use super::primitive::Arc;
use super::queue_waits::{ExportedSignal, export_signal};
use super::readings::Readings;
use super::sync_file::SyncFile;
use crate::device::{Device, DeviceId, DeviceInner, QueueKind, SemaphoreHandle, Submit, Waits};
use crate::error::{Error, Result};

/// Signals when some work has finished: a point on a device's timeline, a host fence, or a sync file of the
/// kernel. It may also have signalled from the start.
///
/// A fence signals once and stays signalled. Clones are cheap and stand for the same work. Kernel counterpart:
/// `struct dma_fence`.
pub struct Fence(Kind);

#[derive(Clone)]
enum Kind {
    Signalled,
    Point { at: Point, dependencies: Option<Arc<Dependencies>> },
    Host(Arc<HostFence>),
    SyncFile(Arc<SyncFile>),
}

/// A value on the timeline of one of a device's lanes.
#[derive(Clone)]
pub(super) struct Point {
    pub(super) device: Arc<DeviceInner>,
    pub(super) lane: QueueKind,
    pub(super) value: u64,
}

impl Point {
    /// Whether both points are on the same timeline.
    fn is_on_timeline_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.device, &other.device) && self.lane == other.lane
    }
}

impl Fence {
    /// A fence that has signalled already (kernel: `dma_fence_get_stub`).
    pub fn signalled() -> Self {
        Self(Kind::Signalled)
    }

    /// The fence of a submission to the device's main lane.
    pub(crate) fn new(device: &Arc<DeviceInner>, value: u64) -> Self {
        Self::on(device, QueueKind::Main, value)
    }

    /// The fence of a submission to any lane.
    pub(crate) fn on(device: &Arc<DeviceInner>, lane: QueueKind, value: u64) -> Self {
        let at = Point { device: Arc::clone(device), lane, value };
        Self(Kind::Point { at, dependencies: None })
    }

    /// The same fence, for work that depends on the results of other work: if one of `fences` fails, so does
    /// this one.
    pub(crate) fn depends_on(self, fences: &[Self]) -> Self {
        let (mut relied, mut readings) = (ReliedOn::default(), Readings::default());
        relied.add_dependencies(&self, &mut readings);
        fences.iter().for_each(|fence| relied.add(fence, &mut readings));
        self.relies_on(relied)
    }

    /// As [`Fence::depends_on`], for fences that were collected before. Replaces what it depended on.
    pub(crate) fn relies_on(self, relied: ReliedOn) -> Self {
        let dependencies = relied.of(&self);
        match self.0 {
            Kind::Point { at, .. } => Self(Kind::Point { at, dependencies }),
            other => Self(other),
        }
    }

    /// What its work depends on.
    pub(super) fn dependencies(&self) -> Option<&Arc<Dependencies>> {
        match &self.0 {
            Kind::Point { dependencies, .. } => dependencies.as_ref(),
            _ => None,
        }
    }

    /// The fence alone.
    pub(super) fn without_dependencies(&self) -> Self {
        match &self.0 {
            Kind::Point { at, .. } => Self(Kind::Point { at: at.clone(), dependencies: None }),
            other => Self(other.clone()),
        }
    }

    /// A fence for work of the host, and the [`Signal`] that signals it.
    pub(crate) fn host() -> (Self, Signal) {
        let (host, signal) = Signal::new();
        (Self(Kind::Host(host)), signal)
    }

    /// Imports an external fence from a sync file, such as one from `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`,
    /// `vkGetSemaphoreFdKHR` with `SYNC_FD`, EGL or KMS.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with `ENOTTY` if the fd is not a sync file.
    pub fn from_sync_file(fd: OwnedFd) -> Result<Self> {
        SyncFile::new(fd).map(|file| Self(Kind::SyncFile(Arc::new(file))))
    }

    /// Whether it has signalled.
    ///
    /// # Errors
    ///
    /// Fences report the errors of their work. [`Error::DeviceLost`]: it will never signal. What was submitted before
    /// the loss may still run. [`Error::WorkFailed`]: it has signalled, and its work failed.
    pub fn is_signalled(&self) -> Result<bool> {
        match &self.0 {
            Kind::Signalled => Ok(true),
            Kind::Point { at: Point { device, lane, value }, .. } => {
                Ok(device.reached(*lane, *value)? && self.dependencies_succeeded(self.failed())?)
            }
            Kind::Host(host) => match host.outcome() {
                None => Ok(false),
                Some(outcome) => self.outcome(outcome).map(|()| true),
            },
            Kind::SyncFile(file) => match file.status()? {
                None => Ok(false),
                Some(status) => self.outcome(status.map_err(|_| REPORTED)).map(|()| true),
            },
        }
    }

    /// Waits until it signals: polls, yields a few times, then sleeps.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`; the errors of [`Fence::is_signalled`].
    ///
    /// Locks: none.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let done = match &self.0 {
            Kind::Signalled => true,
            Kind::Point { at: Point { device, lane, value }, .. } => {
                device.wait(*lane, *value, timeout)?
                    && self.dependencies_succeeded(self.failed())?
            }
            Kind::Host(host) => match host.wait(timeout) {
                None => false,
                Some(outcome) => return self.outcome(outcome),
            },
            Kind::SyncFile(file) => file.wait(timeout)? && self.is_signalled()?,
        };
        if done { Ok(()) } else { Err(Error::Timeout { what: self.to_string(), after: timeout }) }
    }

    /// The first failure of what it depends on.
    fn failed(&self) -> Option<Error> {
        self.dependencies().and_then(|dependencies| dependencies.failure())
    }

    /// Whether all dependencies succeeded; an error if one of them has `failed`.
    pub(super) fn dependencies_succeeded(&self, failed: Option<Error>) -> Result<bool> {
        let Some(error) = failed else { return Ok(true) };
        tracing::debug!(%error, fence = %self, "a dependency of the fence failed");
        Err(Error::WorkFailed { what: self.to_string(), why: "work that it depends on failed" })
    }

    fn outcome(&self, outcome: Result<(), &'static str>) -> Result<()> {
        outcome.map_err(|why| Error::WorkFailed { what: self.to_string(), why })
    }

    /// Exports the fence as a sync file, for KMS, EGL or an external dma-buf. The file signals with the fence
    /// or a little later, once all work submitted to the same queue before this call has finished.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for work of the host, for a signalled fence, for devices that export no
    /// `SYNC_FD`, and for a device whose queue waits for a signal that is not submitted yet: wait for the
    /// fence instead. [`Error::Timeout`] if the driver does not return from the export within 250 ms, and
    /// [`Error::Unsupported`] until it has. [`Error::FdLimit`], [`Error::DeviceLost`], or the error of a call.
    pub fn to_sync_file(&self) -> Result<OwnedFd> {
        let missing = |device: &str, missing: &str| Error::Unsupported {
            device: device.to_owned(),
            missing: missing.into(),
        };
        let signalled = "a sync file: it has signalled";
        match &self.0 {
            Kind::SyncFile(file) => crate::fd::duplicate(file.fd())
                .map_err(|errno| Error::os("fcntl(F_DUPFD_CLOEXEC)", errno)),
            Kind::Point { at: Point { device, lane, .. }, .. } => {
                if !device.shares_semaphores(SemaphoreHandle::SYNC_FD, false).0 {
                    return Err(missing(device.name(), "semaphores as SYNC_FD"));
                }
                let wait = "a sync file just now: wait for the fence instead";
                match export_signal(device, *lane, SemaphoreHandle::SYNC_FD)? {
                    ExportedSignal::File(fd) => Ok(fd),
                    ExportedSignal::Signalled => Err(missing(device.name(), signalled)),
                    ExportedSignal::Unavailable => Err(missing(device.name(), wait)),
                }
            }
            Kind::Host(_) => Err(missing("the host", "sync files: wait for the fence instead")),
            Kind::Signalled => Err(missing("the host", signalled)),
        }
    }

    /// Calls `callback` when it signals. If it has signalled already, the callback is called here, and this
    /// returns `None`. Otherwise the callback is called by the signalling thread, or by a bridge thread that
    /// waits for it.
    pub(crate) fn on_signal(
        &self,
        bridges: &Bridges,
        callback: Callback,
    ) -> Result<Option<CallbackId>> {
        if self.is_over() {
            callback();
            return Ok(None);
        }
        match &self.0 {
            Kind::Host(host) => Ok(host.add_callback(callback).map_or_else(
                |late| {
                    late();
                    None
                },
                Some,
            )),
            Kind::Point { at, .. } => {
                Ok(Some(bridges.of(&at.device, at.lane)?.call(at.value, callback)))
            }
            Kind::Signalled | Kind::SyncFile(_) => Err(Error::Unsupported {
                device: "the host".into(),
                missing: "callbacks of external fences".into(),
            }),
        }
    }

    /// Removes a callback. Returns whether it was removed before it was called.
    pub(crate) fn forget_callback(&self, bridges: &Bridges, id: CallbackId) -> Result<bool> {
        match &self.0 {
            Kind::Host(host) => Ok(host.remove_callback(id)),
            Kind::Point { at, .. } => Ok(bridges.of(&at.device, at.lane)?.cancel(id)),
            Kind::Signalled | Kind::SyncFile(_) => Ok(false),
        }
    }

    /// The device whose timeline the fence is on. `None` for host fences, sync files, and [`Fence::signalled`].
    pub fn device(&self) -> Option<DeviceId> {
        match &self.0 {
            Kind::Point { at, .. } => Some(at.device.id()),
            Kind::Signalled | Kind::Host(_) | Kind::SyncFile(_) => None,
        }
    }

    /// Whether `other` has signalled once `self` has: both are on the same timeline, and `self` is not earlier.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, Kind::Signalled) => true,
            (Kind::Point { at, .. }, Kind::Point { at: other, .. }) => {
                at.is_on_timeline_of(other) && at.value >= other.value
            }
            (Kind::Host(host), Kind::Host(other)) => Arc::ptr_eq(host, other),
            (Kind::SyncFile(file), Kind::SyncFile(other)) => Arc::ptr_eq(file, other),
            _ => false,
        }
    }

    /// Whether it is of work of the host.
    pub(crate) fn is_of_host(&self) -> bool {
        matches!(self.0, Kind::Host(_))
    }

    /// Whether `device`'s queue cannot wait for it, so that the host must. This holds for work of the host: a
    /// queue waits only for work whose end a device or the kernel guarantees.
    pub(crate) fn is_for_host(&self, device: &DeviceInner) -> bool {
        match &self.0 {
            Kind::Host(_) => true,
            Kind::SyncFile(_) => !device.shares_semaphores(SemaphoreHandle::SYNC_FD, false).1,
            Kind::Signalled | Kind::Point { .. } => false,
        }
    }

    /// Its point, if it is on a timeline.
    pub(super) fn point(&self) -> Option<&Point> {
        match &self.0 {
            Kind::Point { at, .. } => Some(at),
            _ => None,
        }
    }

    pub(super) fn sync_file(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Kind::SyncFile(file) => Some(file.fd()),
            _ => None,
        }
    }

    /// Whether it is on the timeline of this device's main lane, which keeps its own order. Devices are
    /// compared by address, because device ids repeat from engine to engine.
    pub(crate) fn is_on(&self, device: &DeviceInner) -> bool {
        self.is_on_lane(device, QueueKind::Main)
    }

    /// Whether it is on the timeline of the given lane of this device.
    pub(crate) fn is_on_lane(&self, device: &DeviceInner, lane: QueueKind) -> bool {
        let on = |at: &Point| std::ptr::eq(&*at.device, device) && at.lane == lane;
        self.point().is_some_and(on)
    }
}

impl Clone for Fence {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }

    /// Changes the count of the device's references only if it is another device's.
    fn clone_from(&mut self, new: &Self) {
        match (&mut self.0, &new.0) {
            (Kind::Point { at, dependencies }, Kind::Point { at: new, dependencies: theirs })
                if at.is_on_timeline_of(new) =>
            {
                at.value = new.value;
                dependencies.clone_from(theirs);
            }
            (ours, theirs) => *ours = theirs.clone(),
        }
    }
}

/// Why the work behind a sync file failed, as far as known.
const REPORTED: &str = "the kernel reports that it failed";

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Signalled => f.write_str("nothing"),
            Kind::Point { at: Point { device, lane, value }, .. } => {
                let queue = match lane {
                    QueueKind::Main => "",
                    QueueKind::Transfer => "the transfer queue of ",
                };
                write!(f, "submission {value} on {queue}{}", device.name())
            }
            Kind::Host(_) => f.write_str("work of the host"),
            Kind::SyncFile(_) => f.write_str("external work"),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({self})")
    }
}

impl Device {
    /// A fence for all work submitted to the device's queue so far, including the application's own: an empty
    /// submission behind that work. If moves have a queue of their own, they are not included.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or the error of `vkQueueSubmit`.
    pub fn submitted(&self) -> Result<Fence> {
        let nothing = Submit::nothing(Waits::default());
        Ok(Fence::new(&self.0, self.0.submit_as(nothing)?))
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Fence>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_fence_signals_when_its_signal_is_dropped() {
        let (fence, signal) = Fence::host();
        assert!(matches!(fence.is_signalled(), Ok(false)));
        let early = fence.wait(Duration::from_millis(1));
        assert!(matches!(early, Err(Error::Timeout { .. })));
        let other = fence.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(10)).is_ok());
        drop(signal);
        assert!(waiter.join().expect("the waiter ends"));
        assert!(fence.is_over());
    }

    #[test]
    fn a_fence_covers_itself_and_signalled_fences() {
        let ((a, _a), (b, _b)) = (Fence::host(), Fence::host());
        assert!(a.covers(&a.clone()) && a.covers(&Fence::signalled()));
        assert!(!a.covers(&b) && !Fence::signalled().covers(&a));
    }
}

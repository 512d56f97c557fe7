//! Fences: a promise that something has happened, kept in bounded time.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::behind::Behind;
use super::bridge::Bridges;
use super::event::{Callback, CallbackId, Event, Signal};
use super::primitive::Arc;
use super::sync_file::{self, SyncFile};
use crate::device::{
    Body, Device, DeviceId, DeviceInner, QueueKind, SemaphoreHandle, Submit, Waits,
};
use crate::error::{Error, Result};

/// A point on a device's timeline, an event of the host, a sync file of the kernel, or nothing to wait
/// for.
///
/// Cheap to clone. Kernel counterpart: `struct dma_fence`. Signals once, and stays so.
#[derive(Clone)]
pub struct Fence(Kind);

#[derive(Clone)]
enum Kind {
    Signalled,
    Point { at: Point, behind: Option<Arc<Behind>> },
    Host(Arc<Event>),
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
    /// Whether both are on one timeline.
    fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.device, &other.device) && self.lane == other.lane
    }
}

impl Fence {
    /// A fence that is signalled already (kernel: `dma_fence_get_stub`).
    pub fn signalled() -> Self {
        Self(Kind::Signalled)
    }

    /// Of a submission to the device's main lane.
    pub(crate) fn new(device: &Arc<DeviceInner>, value: u64) -> Self {
        Self::on(device, QueueKind::Main, value)
    }

    /// Of a submission to any lane.
    pub(crate) fn on(device: &Arc<DeviceInner>, lane: QueueKind, value: u64) -> Self {
        let at = Point { device: Arc::clone(device), lane, value };
        Self(Kind::Point { at, behind: None })
    }

    /// The same fence of work that relied on what other work was to write: where that fails, so has this.
    pub(crate) fn relying_on(self, fences: &[Self]) -> Self {
        match self.0 {
            Kind::Point { at, behind } => {
                let behind = Behind::new(behind.as_deref(), fences);
                Self(Kind::Point { at, behind })
            }
            other => Self(other),
        }
    }

    /// The fence alone, and what it relied on.
    pub(super) fn split(&self) -> (Self, Option<&Behind>) {
        match &self.0 {
            Kind::Point { at, behind } => {
                (Self(Kind::Point { at: at.clone(), behind: None }), behind.as_deref())
            }
            other => (Self(other.clone()), None),
        }
    }

    /// A fence for work of the host, and what signals it.
    pub(crate) fn host() -> (Self, Signal) {
        let (event, signal) = Signal::new();
        (Self(Kind::Host(event)), signal)
    }

    /// A stranger's fence, from a sync file: what `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`,
    /// `vkGetSemaphoreFdKHR` with `SYNC_FD`, EGL or KMS give.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with `ENOTTY` if it is something else.
    pub fn from_sync_file(fd: OwnedFd) -> Result<Self> {
        SyncFile::new(fd).map(|file| Self(Kind::SyncFile(Arc::new(file))))
    }

    /// Whether it has signalled.
    ///
    /// # Errors
    ///
    /// Errors travel with fences: [`Error::DeviceLost`], it never will, and nothing is running any more;
    /// [`Error::WorkFailed`], it has, and the work behind it went wrong.
    pub fn is_signalled(&self) -> Result<bool> {
        match &self.0 {
            Kind::Signalled => Ok(true),
            Kind::Point { at: Point { device, lane, value }, behind } => {
                Ok(device.reached(*lane, *value)? && self.relied(behind.as_deref())?)
            }
            Kind::Host(event) => match event.outcome() {
                None => Ok(false),
                Some(outcome) => self.outcome(outcome).map(|()| true),
            },
            Kind::SyncFile(file) => match file.status()? {
                None => Ok(false),
                Some(status) => self.outcome(status.map_err(|_| REPORTED)).map(|()| true),
            },
        }
    }

    /// Waits until it signals: looks, yields a few times, then sleeps.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`; those of [`Fence::is_signalled`].
    ///
    /// Locks: none.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let done = match &self.0 {
            Kind::Signalled => true,
            Kind::Point { at: Point { device, lane, value }, behind } => {
                device.wait(*lane, *value, timeout)? && self.relied(behind.as_deref())?
            }
            Kind::Host(event) => match event.wait(timeout) {
                None => false,
                Some(outcome) => return self.outcome(outcome),
            },
            Kind::SyncFile(file) => file.wait(timeout)? && self.is_signalled()?,
        };
        if done { Ok(()) } else { Err(Error::Timeout { what: self.to_string(), after: timeout }) }
    }

    /// Whether all that it relied on went well.
    fn relied(&self, behind: Option<&Behind>) -> Result<bool> {
        match behind.and_then(Behind::failure) {
            None => Ok(true),
            Some(error) => {
                tracing::debug!(%error, fence = %self, "what it relied on failed");
                Err(Error::WorkFailed { what: self.to_string(), why: "what it relied on failed" })
            }
        }
    }

    fn outcome(&self, outcome: Result<(), &'static str>) -> Result<()> {
        outcome.map_err(|why| Error::WorkFailed { what: self.to_string(), why })
    }

    /// Its sync file: for KMS, EGL, a stranger's dma-buf. Signals with it, or a little later: when all
    /// that its queue was given before this call has finished.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for work of the host, for devices that export no `SYNC_FD`, and for a
    /// device whose queue waits for a signal that is still to come: wait for the fence instead;
    /// [`Error::FdLimit`], [`Error::DeviceLost`], or what a call said.
    pub fn to_sync_file(&self) -> Result<OwnedFd> {
        let missing = |device: &str, missing: &str| Error::Unsupported {
            device: device.to_owned(),
            missing: missing.into(),
        };
        match &self.0 {
            Kind::SyncFile(file) => rustix::io::fcntl_dupfd_cloexec(file.fd(), 0)
                .map_err(|errno| Error::os("fcntl(F_DUPFD_CLOEXEC)", errno)),
            Kind::Point { at: Point { device, lane, .. }, .. } => {
                if !device.shares_semaphores(SemaphoreHandle::SYNC_FD, false).0 {
                    return Err(missing(device.name(), "semaphores as SYNC_FD"));
                }
                let wait = "a sync file just now: wait for the fence instead";
                match super::waits::signal_behind(device, *lane, SemaphoreHandle::SYNC_FD)? {
                    super::waits::Behind::File(fd) => Ok(fd),
                    super::waits::Behind::Signalled => {
                        Err(missing(device.name(), "a sync file: it has signalled"))
                    }
                    super::waits::Behind::NotNow => Err(missing(device.name(), wait)),
                }
            }
            Kind::Host(_) => Err(missing("the host", "sync files: wait for the fence instead")),
            Kind::Signalled => Err(missing("the host", "a sync file: it has signalled")),
        }
    }

    /// Calls `callback` when it signals: at the latest on a thread of the host that waits for it. `None`
    /// if it has signalled already, and then the callback has been called, here.
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
            Kind::Host(event) => Ok(event.add_callback(callback).map_or_else(
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
                missing: "callbacks of strangers' fences".into(),
            }),
        }
    }

    /// Takes a callback back; whether it had not been called, and now will not be.
    pub(crate) fn forget_callback(&self, bridges: &Bridges, id: CallbackId) -> Result<bool> {
        match &self.0 {
            Kind::Host(event) => Ok(event.remove_callback(id)),
            Kind::Point { at, .. } => Ok(bridges.of(&at.device, at.lane)?.cancel(id)),
            Kind::Signalled | Kind::SyncFile(_) => Ok(false),
        }
    }

    /// Waits until it is over, well or not: for those who look afterwards what became of it.
    ///
    /// # Errors
    ///
    /// As [`Fence::wait`], where it is not over.
    pub(crate) fn wait_until_over(&self, timeout: Duration) -> Result<()> {
        self.wait(timeout).or_else(|error| if self.is_over() { Ok(()) } else { Err(error) })
    }

    /// The device whose timeline it is on; `None` for the host's and for nothing to wait for.
    pub fn device(&self) -> Option<DeviceId> {
        match &self.0 {
            Kind::Point { at, .. } => Some(at.device.id()),
            Kind::Signalled | Kind::Host(_) | Kind::SyncFile(_) => None,
        }
    }

    /// Whether waiting for `self` is enough to know that `other` has signalled: the same timeline, no
    /// earlier.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, Kind::Signalled) => true,
            (Kind::Point { at, .. }, Kind::Point { at: other, .. }) => {
                at.is_beside(other) && at.value >= other.value
            }
            (Kind::Host(event), Kind::Host(other)) => Arc::ptr_eq(event, other),
            (Kind::SyncFile(file), Kind::SyncFile(other)) => Arc::ptr_eq(file, other),
            _ => false,
        }
    }

    /// Whether nothing needs to wait any more: it has signalled, with or without an error, or its device
    /// is lost and has nothing running. A query that fails otherwise says nothing.
    pub(crate) fn is_over(&self) -> bool {
        self.is_signalled().unwrap_or_else(|error| is_final(&error))
    }

    /// Whether it has not ended well, or not yet.
    pub(super) fn is_open_or_failed(&self) -> bool {
        !matches!(self.is_signalled(), Ok(true))
    }

    /// The error that its work ended with.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.is_signalled().err().filter(is_final)
    }

    /// Whether only the host can wait for it on behalf of `device`'s queue. Work of the host is such: a
    /// queue waits for nothing that devices or the kernel have not promised to finish.
    pub(crate) fn is_for_host(&self, device: &DeviceInner) -> bool {
        match &self.0 {
            Kind::Host(_) => true,
            Kind::SyncFile(_) => !device.shares_semaphores(SemaphoreHandle::SYNC_FD, false).1,
            Kind::Signalled | Kind::Point { .. } => false,
        }
    }

    /// Where on which timeline it is, if it is on any.
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

    /// Whether it is on the timeline of this device's main lane, which keeps its own order. Numbers of
    /// devices repeat from engine to engine.
    pub(crate) fn is_on(&self, device: &DeviceInner) -> bool {
        self.is_on_lane(device, QueueKind::Main)
    }

    /// The same of any lane.
    pub(super) fn is_on_lane(&self, device: &DeviceInner, lane: QueueKind) -> bool {
        let on = |at: &Point| std::ptr::eq(&*at.device, device) && at.lane == lane;
        self.point().is_some_and(on)
    }
}

/// What a fence of the kernel says when its work went wrong.
const REPORTED: &str = "the kernel says that it failed";

/// Whether an error says that the work behind a fence has come to its end.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::DeviceLost { .. } | Error::WorkFailed { .. })
}

/// One sync file that signals when all have.
pub(crate) fn merge_sync_files(files: Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    let mut merged: Option<OwnedFd> = None;
    for file in files {
        merged = Some(match merged {
            Some(one) => sync_file::merge(one.as_fd(), file.as_fd())?,
            None => file,
        });
    }
    Ok(merged)
}

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
            Kind::SyncFile(_) => f.write_str("a stranger's work"),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({self})")
    }
}

impl Device {
    /// A fence for everything that was submitted to the device's queue so far, by the application as
    /// well: an empty submission behind it. Moves are not among it where they have a queue of their own.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or what `vkQueueSubmit` said.
    pub fn submitted(&self) -> Result<Fence> {
        let submit = Submit { waits: Waits::default(), body: Body::Nothing, signal: None };
        Ok(Fence::new(&self.0, self.0.submit_as(submit)?))
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
    fn a_host_fence_signals_when_its_work_ends_however_it_ends() {
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
    fn a_fence_covers_itself_and_what_is_over() {
        let ((a, _a), (b, _b)) = (Fence::host(), Fence::host());
        assert!(a.covers(&a.clone()) && a.covers(&Fence::signalled()));
        assert!(!a.covers(&b) && !Fence::signalled().covers(&a));
    }
}

//! Fences: a promise that something has happened, kept in bounded time.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::device::{Device, DeviceId, DeviceInner};
use crate::error::{Error, Result};

/// A point on a device's timeline, an event of the host, or nothing to wait for.
///
/// Cheap to clone. Kernel counterpart: `struct dma_fence`. Signals once, and stays so.
#[derive(Clone)]
pub struct Fence(Kind);

#[derive(Clone)]
enum Kind {
    Signalled,
    Point { device: Arc<DeviceInner>, value: u64 },
    Host(Arc<Event>),
}

/// Something that the host does, and says when it has.
#[derive(Default)]
struct Event {
    done: Mutex<bool>,
    changed: Condvar,
}

/// Signals a host fence when it is dropped, so that no fence outlives its work unsignalled: not after
/// an error, and not after a panic. From [`crate::Engine::host_fence`].
///
/// Whoever holds it owes the others its drop in bounded time; it may not depend on a user.
#[must_use = "dropping it signals the fence"]
pub struct Signal(Arc<Event>);

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signal")
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        *self.0.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

impl Fence {
    /// A fence that is signalled already (kernel: `dma_fence_get_stub`).
    pub fn signalled() -> Self {
        Self(Kind::Signalled)
    }

    pub(crate) fn new(device: &Arc<DeviceInner>, value: u64) -> Self {
        Self(Kind::Point { device: Arc::clone(device), value })
    }

    /// A fence for work of the host, and what signals it.
    pub(crate) fn host() -> (Self, Signal) {
        let event = Arc::<Event>::default();
        (Self(Kind::Host(Arc::clone(&event))), Signal(event))
    }

    /// Whether it has signalled.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`]: it never will, and nothing is running any more.
    pub fn is_signalled(&self) -> Result<bool> {
        match &self.0 {
            Kind::Signalled => Ok(true),
            Kind::Point { device, value } => device.reached(*value),
            Kind::Host(event) => Ok(*event.done.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Waits until it signals.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`, [`Error::DeviceLost`].
    ///
    /// Locks: none.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let done = match &self.0 {
            Kind::Signalled => true,
            Kind::Point { device, value } => device.wait(*value, timeout)?,
            Kind::Host(event) => event.wait(timeout),
        };
        if done { Ok(()) } else { Err(Error::Timeout { what: self.to_string(), after: timeout }) }
    }

    /// The device whose timeline it is on; `None` for the host's and for nothing to wait for.
    pub fn device(&self) -> Option<DeviceId> {
        match &self.0 {
            Kind::Point { device, .. } => Some(device.id()),
            Kind::Signalled | Kind::Host(_) => None,
        }
    }

    /// Whether waiting for `self` is enough to know that `other` has signalled: the same timeline, no
    /// earlier.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, Kind::Signalled) => true,
            (Kind::Point { device, value }, Kind::Point { device: other, value: earlier }) => {
                Arc::ptr_eq(device, other) && value >= earlier
            }
            (Kind::Host(event), Kind::Host(other)) => Arc::ptr_eq(event, other),
            _ => false,
        }
    }

    /// Whether nothing needs to wait any more: it has signalled, or its device is lost and has nothing
    /// running. A query that fails otherwise says nothing.
    pub(crate) fn is_over(&self) -> bool {
        self.is_signalled().unwrap_or_else(|error| error.is_device_lost())
    }

    /// Whether it is on the timeline of this device. Numbers of devices repeat from engine to engine.
    pub(crate) fn is_on(&self, device: &DeviceInner) -> bool {
        matches!(&self.0, Kind::Point { device: of, .. } if std::ptr::eq(&**of, device))
    }
}

impl Event {
    fn wait(&self, timeout: Duration) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(done, timeout, |done| !*done);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Signalled => f.write_str("nothing"),
            Kind::Point { device, value } => write!(f, "submission {value} on {}", device.name()),
            Kind::Host(_) => f.write_str("work of the host"),
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
    /// well: an empty submission behind it.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or what `vkQueueSubmit` said.
    pub fn submitted(&self) -> Result<Fence> {
        Ok(Fence::new(&self.0, self.0.submit(|_| {})?))
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

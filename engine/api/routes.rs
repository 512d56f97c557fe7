//! Routes between devices: for bytes, and for waits.

use std::sync::Arc;

use super::engine::Engine;
use crate::device::Device;
use crate::error::Result;
use crate::sync::WaitRoute;
use crate::transfer::{Need, Verdict};

/// # Routes
///
/// How bytes, and waits, get from one device to another.
impl Engine {
    /// The routes from one device to another, each with its proof or the reason why it was refused.
    ///
    /// Buffers prove a route when they need it: an attach proves the one to its buffer's memory, and others only if
    /// that one is refused. This proves the others too: data is transferred in both directions, on devices that are
    /// opened for it and closed again. That takes some tens of milliseconds, and about the engine timeout
    /// ([`crate::EngineDescriptor::timeout`]) if a route hangs or a device is busy. Routes that could not be tried are
    /// in [`Verdict::untried`], and are tried again by a later call.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]; [`crate::Error::RoutesUnproved`] if no route could be tried;
    /// [`crate::Error::FdLimit`].
    ///
    /// Locks: none may be held; this waits for devices.
    pub fn route(&self, from: &Device, to: &Device) -> Result<Arc<Verdict>> {
        self.set.core.check(&from.0)?;
        self.set.core.check(&to.0)?;
        let verdict = self.set.core.verdict(&from.0, &to.0, Need::All)?;
        verdict.check_proved(&to.0)?;
        Ok(verdict)
    }

    /// Proves all routes between all of these devices, in both directions, so that later attachments and moves need not.
    ///
    /// A program that fills a device's memory does so before: a proof opens a device, which a full one may refuse. The
    /// first move to a kind of memory proves the routes that it needs, if they are not known.
    ///
    /// It opens one more device for each of them, and closes them at the end; pair by pair, each would be opened
    /// again. What could not be tried is in [`Verdict::untried`] of each pair.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]; [`crate::Error::FdLimit`].
    ///
    /// Locks: none may be held; this waits for devices.
    pub fn prove_routes(&self, devices: &[Device]) -> Result<()> {
        devices.iter().try_for_each(|device| self.set.core.check(&device.0))?;
        let devices: Vec<_> = devices.iter().map(|device| &device.0).collect();
        self.set.core.prove_routes(&devices)
    }

    /// Does work while the devices on which routes and images are proved stay open. A proof opens them, and closes them
    /// at its end; between many proofs, each would be opened again.
    pub fn with_proofs_open<R>(&self, work: impl FnOnce() -> R) -> R {
        let _held = self.set.core.routes.hold_probes();
        work()
    }

    /// Forgets what was proved, of images as well, also in the file of [`crate::EngineDescriptor::route_cache`]. The next
    /// use proves it again.
    pub fn forget_routes(&self) {
        self.set.core.routes.forget();
        self.images.forget();
        self.set.core.auto_migration.access_costs().forget();
    }

    /// How `target`'s queue waits for work of `source`, according to what their drivers report.
    ///
    /// If a semaphore cannot be made after all, or the source's work itself waits for a signal that is not
    /// submitted yet, the bridge takes the place of this route.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    pub fn wait_route(&self, source: &Device, target: &Device) -> Result<WaitRoute> {
        self.set.core.check(&source.0)?;
        self.set.core.check(&target.0)?;
        Ok(WaitRoute::between(&source.0, &target.0))
    }
}

//! Routes between devices: for bytes, and for waits.

use std::sync::Arc;

use super::engine::Engine;
use crate::device::Device;
use crate::error::Result;
use crate::sync::WaitRoute;
use crate::transfer::Verdict;

/// # Routes
///
/// How bytes, and waits, get from one device to another.
impl Engine {
    /// The routes from one device to another, each with its proof or the reason why it was refused.
    ///
    /// If nothing is known yet, the routes are proved: data is transferred in both directions. That takes some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]; the error of making the compute kernels.
    pub fn route(&self, from: &Device, to: &Device) -> Result<Arc<Verdict>> {
        self.set.core.check(&from.0)?;
        self.set.core.check(&to.0)?;
        self.set.core.verdict(&from.0, &to.0)
    }

    /// Forgets what was proved. The next use of a route proves it again.
    pub fn forget_routes(&self) {
        self.set.core.routes.forget();
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

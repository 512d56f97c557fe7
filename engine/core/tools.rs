//! What peerbuf makes on a device to copy with: staging memory and compute kernels, on first use; and how fast it
//! copies, measured once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use super::Core;
use super::devices::Tools;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::transfer::{self, ComputeKernels, CopySpeeds};

/// How often copies that were not measured in time are measured again.
const TRIES: u8 = 2;

impl Core {
    // ---- tools ----

    pub(crate) fn passes(&self, device: &DeviceInner) -> Result<Arc<ComputeKernels>> {
        self.tools(device).map(|tools| tools.passes)
    }

    pub(crate) fn staging(&self, device: &DeviceInner) -> Result<Arc<Staging>> {
        self.tools(device).map(|tools| tools.staging)
    }

    /// How fast the host and a device copy. Measured here, once; while the device is at work, what is assumed
    /// until then.
    ///
    /// Locks: none may be held; this waits for the device, which has nothing else to do.
    pub(crate) fn speeds(&self, device: DeviceId) -> &CopySpeeds {
        if let Some(known) = self.known_speeds(device) {
            return known;
        }
        let member = self.member(device);
        // Who comes while somebody measures does not wait for that.
        let _measuring = match member.measuring.try_lock() {
            Err(TryLockError::WouldBlock) => return transfer::path::assumed(),
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let measured = self
            .staging(&member.device)
            .and_then(|staging| transfer::path::measure(&member.device, &staging, &self.retire));
        match measured {
            Ok(None) => transfer::path::assumed(),
            // The application is at work there. Each try is a wait, so there are few.
            Err(Error::Timeout { .. }) if member.late.fetch_add(1, Ordering::Relaxed) < TRIES => {
                transfer::path::assumed()
            }
            Ok(Some(speeds)) => member.speeds.get_or_init(|| speeds),
            Err(error) => {
                tracing::warn!(%error, device = member.device.name(), "copies were not measured");
                // It would fail again, at the cost of every move.
                member.speeds.get_or_init(|| transfer::path::assumed().clone())
            }
        }
    }

    /// The same, if it is known.
    pub(crate) fn known_speeds(&self, device: DeviceId) -> Option<&CopySpeeds> {
        // A model is to take the same way each time.
        let assumed = || cfg!(peerbuf_shuttle).then(transfer::path::assumed);
        let said = self.said_speeds.as_ref();
        said.or_else(|| self.member(device).speeds.get()).or_else(assumed)
    }

    pub(super) fn end(&self, device: &Arc<DeviceInner>) -> Result<transfer::RouteEnd> {
        let Tools { passes, staging } = self.tools(device)?;
        Ok(transfer::RouteEnd { device: Arc::clone(device), staging, kernels: passes })
    }

    pub(super) fn tools(&self, device: &DeviceInner) -> Result<Tools> {
        let tools = self.member(device.id()).tools(|device| {
            let staging = Staging::new(device)?;
            let passes = Arc::new(ComputeKernels::new(device, &staging)?);
            Ok(Tools { passes, staging })
        });
        tools.cloned()
    }
}

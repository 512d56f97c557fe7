//! The tools to copy with: staging memory, compute kernels, and copy speeds of a device, made or measured on
//! first use.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use super::Core;
use super::devices::Tools;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::transfer::{self, ComputeKernels, CopySpeeds};

/// How often a measurement that timed out is repeated.
const RETRIES: u8 = 2;

impl Core {
    // ---- tools ----

    /// The compute kernels of a device, made on first use.
    pub(crate) fn compute_kernels(&self, device: &DeviceInner) -> Result<Arc<ComputeKernels>> {
        self.tools(device).map(|tools| tools.kernels)
    }

    /// The staging memory of a device, made on first use.
    pub(crate) fn staging(&self, device: &DeviceInner) -> Result<Arc<Staging>> {
        self.tools(device).map(|tools| tools.staging)
    }

    /// The copy speeds of the host and a device, measured here once. While the device is busy, or another
    /// thread measures, the assumed speeds are returned.
    ///
    /// Locks: none may be held; this waits for the device, which has nothing else to do.
    pub(crate) fn speeds(&self, device: DeviceId) -> &CopySpeeds {
        if let Some(known) = self.known_speeds(device) {
            return known;
        }
        let entry = self.member(device);
        // Do not wait for a measurement in progress on another thread.
        let _measuring = match entry.measuring.try_lock() {
            Err(TryLockError::WouldBlock) => return transfer::path::assumed(),
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let Some(device) = self.devices.device(device) else { return transfer::path::assumed() };
        let measured = self
            .staging(&device)
            .and_then(|staging| transfer::path::measure(&device, &staging, &self.retire));
        match measured {
            Ok(None) => transfer::path::assumed(),
            // The application uses the device. Each try is a wait, so there are few.
            Err(Error::Timeout { .. })
                if entry.timed_out.fetch_add(1, Ordering::Relaxed) < RETRIES =>
            {
                transfer::path::assumed()
            }
            Ok(Some(speeds)) => entry.speeds.get_or_init(|| speeds),
            Err(error) => {
                tracing::warn!(%error, device = entry.device.name(), "copy speeds not measured; assumed speeds used");
                // Another try would fail again, and every move would pay for it.
                entry.speeds.get_or_init(|| transfer::path::assumed().clone())
            }
        }
    }

    /// The copy speeds, if they were given or measured.
    pub(crate) fn known_speeds(&self, device: DeviceId) -> Option<&CopySpeeds> {
        // A model must choose the same copy path each time.
        let assumed = || cfg!(peerbuf_shuttle).then(transfer::path::assumed);
        let given = self.given_speeds.as_ref();
        given.or_else(|| self.member(device).speeds.get()).or_else(assumed)
    }

    pub(super) fn tools(&self, device: &DeviceInner) -> Result<Tools> {
        self.member(device.id()).tools(|device| {
            let staging = Staging::new(device)?;
            let kernels = Arc::new(ComputeKernels::new(device, &staging)?);
            Ok(Tools { kernels, staging })
        })
    }
}

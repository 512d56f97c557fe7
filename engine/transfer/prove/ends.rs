//! The devices on which routes are tried: opened for it on the adapters of the pair, and closed soon.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::compute::ComputeKernels;
use super::image::LazySampler;
use super::memory::Held;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::staging::Staging;
use crate::sync::Fence;

/// One side of a route: a device, and what a proof uses on it.
#[derive(Clone, Debug)]
pub(super) struct RouteEnd {
    pub(super) device: Arc<DeviceInner>,
    pub(super) staging: Arc<Staging>,
    pub(super) kernels: Arc<ComputeKernels>,
    /// Made at the first comparison of images.
    pub(super) sampler: Arc<LazySampler>,
}

impl RouteEnd {
    /// Opens a device like `of`.
    ///
    /// # Errors
    ///
    /// The error of a call that opens it.
    pub(super) fn open(of: &DeviceInner) -> Result<Self> {
        let device = DeviceInner::open_probe(of)?;
        let staging = Staging::small(&device)?;
        let kernels = Arc::new(ComputeKernels::new(&device, &staging)?);
        // While the other device is opened.
        kernels.prepare_pattern()?;
        Ok(Self { device, staging, kernels, sampler: Arc::default() })
    }
}

/// The devices on which routes are tried.
///
/// They are in no table of the engine and have no buffers. While a [`ProbesHeld`] lives, they stay open for the next
/// pair; the last of those closes them, because a device costs memory on real hardware.
#[derive(Debug, Default)]
pub(crate) struct ProbeDevices(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    holders: u32,
    idle: Vec<RouteEnd>,
    hung: Vec<Hung>,
}

/// Memory that a hung route still uses, with the devices that use it.
#[derive(Debug)]
pub(super) struct Hung {
    pub(super) fences: Vec<Fence>,
    /// Dropped before the devices.
    pub(super) memory: Vec<Held>,
    pub(super) ends: Vec<RouteEnd>,
}

impl Hung {
    fn is_released(&self) -> bool {
        self.fences.iter().all(Fence::is_released)
    }

    /// Ends what no driver calls released: lost devices whose waits return at once. By the rules of Vulkan nothing of
    /// it is in use, so memory and devices are destroyed. The pages that such a device may write until then have no
    /// other owner before it is destroyed.
    ///
    /// # Errors
    ///
    /// `self` if a device is at work.
    fn destroy(self) -> std::result::Result<(), Self> {
        if !self.fences.iter().all(Fence::is_destroyable) {
            return Err(self);
        }
        let Self { fences, memory, ends } = self;
        let pages: Vec<_> =
            memory.iter().filter_map(|held| held.allocation.host_memory()).collect();
        drop(memory);
        drop((fences, ends));
        drop(pages);
        Ok(())
    }
}

/// Keeps the devices open that are opened meanwhile.
#[derive(Debug)]
pub(crate) struct ProbesHeld<'a>(&'a ProbeDevices);

impl ProbeDevices {
    /// Keeps devices open until the result is dropped, for callers that prove several pairs.
    pub(crate) fn hold(&self) -> ProbesHeld<'_> {
        self.kept().holders += 1;
        ProbesHeld(self)
    }

    /// A device like `of` that was kept from an earlier pair.
    pub(super) fn take(&self, of: &DeviceInner) -> Option<RouteEnd> {
        let mut kept = self.kept();
        let is_like = |end: &RouteEnd| end.device.id() == of.id();
        kept.idle.iter().position(is_like).map(|at| kept.idle.swap_remove(at))
    }

    /// Takes a healthy device back.
    pub(super) fn give_back(&self, end: RouteEnd) {
        let mut kept = self.kept();
        if kept.holders > 0 {
            kept.idle.push(end);
            return;
        }
        // A device is closed without the lock.
        drop(kept);
    }

    /// Keeps what a hung route uses until its work uses no memory any more.
    pub(super) fn keep_hung(&self, hung: Hung) {
        tracing::warn!(
            devices = hung.ends.len(),
            "a route hangs; its devices and its memory stay until its work is over"
        );
        self.kept().hung.push(hung);
    }

    /// Frees what hung, if its work uses no memory any more.
    pub(super) fn free_hung(&self) {
        let released: Vec<_> = self.kept().hung.extract_if(.., |hung| hung.is_released()).collect();
        drop(released);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ProbesHeld<'_> {
    fn drop(&mut self) {
        let mut kept = self.0.kept();
        kept.holders -= 1;
        let closing = if kept.holders == 0 { mem::take(&mut kept.idle) } else { vec![] };
        drop(kept);
        drop(closing);
    }
}

impl Drop for ProbeDevices {
    /// Waits for work that hung, as the drop of a device waits for its own, but for all devices together. The work may
    /// have been given no time: a proof ends at its deadline.
    fn drop(&mut self) {
        self.free_hung();
        let all = mem::take(&mut self.kept().hung);
        let mut devices = all.iter().flat_map(|hung| &hung.ends).map(|end| &end.device).peekable();
        let bound = devices.peek().map_or(Duration::ZERO, |device| device.calls().end_timeout());
        let end = Instant::now() + bound;
        devices.for_each(|device| {
            device.wait_until_unused(end.saturating_duration_since(Instant::now()));
        });
        for hung in all {
            if let Err(hung) = hung.destroy() {
                tracing::error!(
                    "a route still hangs at the end of the engine; its devices are leaked"
                );
                mem::forget(hung);
            }
        }
    }
}

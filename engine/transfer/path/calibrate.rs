//! Measures how fast the host and a device copy, once per device.
//!
//! The measurement copies between two pieces of staging memory that both see, because there is a choice only
//! where the host accesses both backings at full speed. The device's time includes the cost of every use of
//! a device: the submission, and the time until its end is noticed. The largest size is measured with the bytes
//! in no cache, as for real large copies. It is small, so that few pages are touched for the first time.
#![expect(unsafe_code, reason = "copies between two mapped staging buffers, by host and device")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::speeds::{CopySpeed, CopySpeeds};
use crate::device::{DeviceInner, Waits};
use crate::error::Result;
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::memory::{HostPtr, wide};
use crate::sync::{Fence, Fences, RejectionWatch, Retire, Retired, Usage};

/// The sizes that are measured.
const SIZES: [u64; 4] = [4 << 10, 64 << 10, 512 << 10, LARGEST];
const LARGEST: u64 = 2 << 20;

/// How often each size is measured. The best time counts: nothing makes a copy faster by chance.
const ROUNDS: u32 = 6;

/// Rounds after the second one begin only within this time after the first.
const BUDGET: Duration = Duration::from_millis(10);

/// The longest wait for one copy. Some milliseconds are enough unless the application has work of its own on
/// the queue. That work may depend on this thread, so the wait must end.
const COPY_TIMEOUT: Duration = Duration::from_millis(50);

/// A copy by host and device together pays if it takes less than this part of the device's time.
const WORTH_IT: f64 = 0.95;

/// Measures the copy speeds of a device. Returns `Ok(None)` if the device is busy, because its other work
/// would be measured as well; the caller retries later. Memory that the device still uses at the end is moved
/// to `retire`.
///
/// # Errors
///
/// The reason why it was not measured: no memory, a lost device; [`crate::Error::Timeout`] if the device is
/// busy with work that peerbuf does not know of.
///
/// Locks: none may be held; this waits for the device, some tens of milliseconds at most.
pub(crate) fn measure(
    device: &Arc<DeviceInner>,
    staging: &Arc<Staging>,
    retire: &Retire,
) -> Result<Option<CopySpeeds>> {
    if !device.is_idle()? {
        return Ok(None);
    }
    // Otherwise the first copy would include the measurement of the host's copy kernels.
    wide::measured();
    let start = Instant::now();
    let buffer = || staging.buffer(LARGEST, Direction::Readback);
    let mut pieces = Pieces::new(device, [buffer()?, buffer()?])?;
    let speeds = pieces.measure();
    let Pieces { buffers, last, .. } = pieces;
    for buffer in buffers {
        let mut fences = Fences::default();
        fences.add(Usage::Bookkeep, last.clone());
        retire.push(fences, Retired::Staging(buffer));
    }
    let speeds = speeds?;
    let took = start.elapsed();
    tracing::debug!(device = device.name(), %speeds, ?took, "copy speeds measured");
    Ok(Some(speeds))
}

/// Two pieces of memory that the host and one device see.
///
/// # Invariants
///
/// `LARGEST` bytes are mapped at each of `hosts`, which lie in `buffers`. Nothing else has access to them.
/// Between two calls the device does not use them, unless the last one failed; it uses them no more once
/// `last` is over.
struct Pieces<'a> {
    device: &'a Arc<DeviceInner>,
    buffers: [StagingBuffer; 2],
    raw: [vk::Buffer; 2],
    hosts: [HostPtr; 2],
    last: Fence,
}

impl<'a> Pieces<'a> {
    fn new(device: &'a Arc<DeviceInner>, buffers: [StagingBuffer; 2]) -> Result<Self> {
        let hosts = [buffers[0].host()?, buffers[1].host()?];
        let raw = [buffers[0].raw(), buffers[1].raw()];
        for host in hosts {
            // CAST: 2 MiB.
            // SAFETY: so many bytes are mapped, and nothing uses them yet. The value is not zero, because pages
            // that were only read may all be the same zero page.
            unsafe { host.fill(0x5a, LARGEST as usize) };
        }
        Ok(Self { device, buffers, raw, hosts, last: Fence::signalled() })
    }

    fn measure(&mut self) -> Result<CopySpeeds> {
        let longest = CopySpeed { bytes: 0, host: Duration::MAX, device: Duration::MAX };
        let mut rows = SIZES.map(|bytes| CopySpeed { bytes, ..longest });
        let mut both = Duration::MAX;
        // The first use of a queue is slower than all later ones.
        self.by_device(SIZES[0])?;
        let start = Instant::now();
        for round in 0..ROUNDS {
            if round > 1 && start.elapsed() > BUDGET {
                break;
            }
            for row in &mut rows {
                self.flush_if_large(row.bytes);
                row.host = row.host.min(self.by_host(row.bytes));
                self.flush_if_large(row.bytes);
                row.device = row.device.min(self.by_device(row.bytes)?);
            }
            // More often, because neither may be disturbed during the same copy.
            for _ in 0..3 {
                self.flush_if_large(LARGEST);
                both = both.min(self.by_both()?);
            }
        }
        let [.., last] = rows;
        // Compared with the device alone: only copies that are too long for the host alone are split.
        let parallel = both.as_secs_f64() < last.device.as_secs_f64() * WORTH_IT;
        Ok(CopySpeeds::new(&rows, parallel))
    }

    fn by_host(&self, bytes: u64) -> Duration {
        let start = Instant::now();
        self.copy_by_host(0, bytes);
        start.elapsed()
    }

    fn by_device(&mut self, bytes: u64) -> Result<Duration> {
        let start = Instant::now();
        self.submit(bytes)?;
        self.last.wait(COPY_TIMEOUT)?;
        Ok(start.elapsed())
    }

    /// Times a copy of the largest size, half of it by each.
    fn by_both(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.submit(LARGEST / 2)?;
        self.copy_by_host(LARGEST / 2, LARGEST / 2);
        self.last.wait(COPY_TIMEOUT)?;
        Ok(start.elapsed())
    }

    fn copy_by_host(&self, offset: u64, bytes: u64) {
        // CAST: at most 2 MiB.
        let [offset, bytes] = [offset, bytes].map(|value| value as usize);
        // SAFETY: within the mapping.
        let [from, to] = self.hosts.map(|host| unsafe { host.at(offset) });
        // SAFETY: so many bytes are mapped at both, which are two pieces; by the type's invariant the device
        // does not use them, or only the bytes before these.
        unsafe { to.copy_quickly_from(from, bytes) };
    }

    fn submit(&mut self, bytes: u64) -> Result<()> {
        let region = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: bytes }];
        let watch = RejectionWatch::main(self.device);
        let submitted = self.device.submit(Waits::default(), |commands| {
            let [from, to] = self.raw;
            // SAFETY: both buffers are live, of this device, bound, at least so long, and made for
            // transfers (VUID-vkCmdCopyBuffer-size-00115, -00116).
            unsafe { self.device.raw().cmd_copy_buffer(commands, from, to, &region) };
        });
        let fence = submitted.map(|value| Fence::new(self.device, value));
        self.last = fence.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        fence.map(drop)
    }

    /// Evicts the largest size from the caches.
    fn flush_if_large(&self, bytes: u64) {
        if bytes < LARGEST {
            return;
        }
        for host in self.hosts {
            // CAST: 2 MiB.
            // SAFETY: so many bytes are mapped.
            unsafe { wide::forget(host.as_ptr(), LARGEST as usize) };
        }
    }
}

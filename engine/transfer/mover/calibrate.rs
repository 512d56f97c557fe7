//! Finding out how fast host and device copy, once per device.
//!
//! Between two pieces of staging memory that both see, since the choice is only there where the host sees
//! both places at full speed. What a device is measured to take includes what everybody pays for asking it:
//! the submission, and until its end is noticed. The largest size is measured with the bytes in no cache, as
//! large copies find them; it is small, so that few pages have to be touched for the first time.
#![expect(unsafe_code, reason = "copies between two mapped staging buffers, by host and device")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::speeds::{CopySpeed, CopySpeeds};
use crate::device::{DeviceInner, Waits};
use crate::error::Result;
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::memory::{HostPtr, wide};
use crate::sync::{Fence, Fences, Retire, Retired, Usage};

/// The sizes that are measured.
const SIZES: [u64; 4] = [4 << 10, 64 << 10, 512 << 10, LARGEST];
const LARGEST: u64 = 2 << 20;

/// How often each is tried. The best time counts: nothing makes a copy faster by chance.
const ROUNDS: u32 = 6;

/// No further round than the second begins later than this after the first.
const BUDGET: Duration = Duration::from_millis(10);

/// How long one copy is waited for. Some milliseconds are enough, unless an application has work of its own on
/// the queue, which it may not end before this thread goes on.
const PATIENCE: Duration = Duration::from_millis(50);

/// Both together are worth it up to here, as a part of the time of the device.
const WORTH_IT: f64 = 0.95;

/// Measures. `Ok(None)` if the device is at work, which would be measured as well: another time. What it still
/// uses then goes to `retire`.
///
/// # Errors
///
/// What kept it from being measured: no memory, a lost device; [`crate::Error::Timeout`] if it is at work on
/// what peerbuf does not know of.
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
    // So that the first copy is none that measures something itself.
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
    tracing::debug!(device = device.name(), %speeds, ?took, "how fast copies are was measured");
    Ok(Some(speeds))
}

/// Two pieces of memory that the host and one device see.
///
/// # Invariants
///
/// `LARGEST` bytes are mapped at each of `hosts`, which lie in `buffers`. Nobody else knows them. Between two
/// calls the device does not use them, unless the last one failed; `last` is over when it does not any more.
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
            // SAFETY: so many bytes are mapped, and nobody uses them yet. Not zero: pages that were only read
            // may be one and the same.
            unsafe { host.fill(0x5a, LARGEST as usize) };
        }
        Ok(Self { device, buffers, raw, hosts, last: Fence::signalled() })
    }

    fn measure(&mut self) -> Result<CopySpeeds> {
        let longest = CopySpeed { bytes: 0, host: Duration::MAX, device: Duration::MAX };
        let mut rows = SIZES.map(|bytes| CopySpeed { bytes, ..longest });
        let mut both = Duration::MAX;
        // The first time a queue is used is slower than all others.
        self.by_device(SIZES[0])?;
        let start = Instant::now();
        for round in 0..ROUNDS {
            if round > 1 && start.elapsed() > BUDGET {
                break;
            }
            for row in &mut rows {
                self.forget_if_large(row.bytes);
                row.host = row.host.min(self.by_host(row.bytes));
                self.forget_if_large(row.bytes);
                row.device = row.device.min(self.by_device(row.bytes)?);
            }
            // More often: both have to be left in peace at the same time.
            for _ in 0..3 {
                self.forget_if_large(LARGEST);
                both = both.min(self.by_both()?);
            }
        }
        let [.., last] = rows;
        // Against the device: what is shared out is what the host may not take the time for alone.
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
        self.last.wait(PATIENCE)?;
        Ok(start.elapsed())
    }

    /// The largest size, half of it by each.
    fn by_both(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.submit(LARGEST / 2)?;
        self.copy_by_host(LARGEST / 2, LARGEST / 2);
        self.last.wait(PATIENCE)?;
        Ok(start.elapsed())
    }

    fn copy_by_host(&self, offset: u64, bytes: u64) {
        // CAST: at most 2 MiB.
        let [offset, bytes] = [offset, bytes].map(|value| value as usize);
        // SAFETY: within the mapping.
        let [from, to] = self.hosts.map(|host| unsafe { host.at(offset) });
        // SAFETY: so many bytes are mapped at both, which are two pieces; by the type's invariant the device
        // is not at work, or on the bytes before these alone.
        unsafe { to.copy_quickly_from(from, bytes) };
    }

    fn submit(&mut self, bytes: u64) -> Result<()> {
        let region = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: bytes }];
        let value = self.device.submit(Waits::default(), |commands| {
            let [from, to] = self.raw;
            // SAFETY: both buffers are live, of this device, bound, at least so long, and made for
            // transfers (VUID-vkCmdCopyBuffer-size-00115, -00116).
            unsafe { self.device.raw().cmd_copy_buffer(commands, from, to, &region) };
        })?;
        self.last = Fence::new(self.device, value);
        Ok(())
    }

    fn forget_if_large(&self, bytes: u64) {
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

//! The device's own clock around some commands.
#![expect(unsafe_code, reason = "query pools of a live device")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ash::vk;

use super::inner::DeviceInner;
use super::queues::QueueKind;
use crate::error::Result;

/// Two timestamps: before some commands of one submission, and behind them.
///
/// # Invariants
///
/// `pool` is a live pool of two timestamps of `device`, which were reset by the host. No submission that uses it is
/// unfinished when this is dropped: its submitter keeps a reference in the retire list until its fence is over.
pub(crate) struct Timestamps {
    device: Arc<DeviceInner>,
    pool: vk::QueryPool,
    /// The bits of a timestamp that are valid; at least one.
    valid: u64,
}

impl Timestamps {
    /// Timestamps for one submission to a queue. `Ok(None)` if that queue has none, or the host cannot reset them: an
    /// adopted device need not have the feature, and a queue that only copies cannot reset them itself
    /// (VUID-vkCmdResetQueryPool-commandBuffer-cmdpool).
    ///
    /// # Errors
    ///
    /// The error of `vkCreateQueryPool`.
    pub(crate) fn new(device: &Arc<DeviceInner>, queue: QueueKind) -> Result<Option<Self>> {
        let family = device.queue_family(queue);
        let bits = device.adapter().timestamp_bits(family);
        if !device.host_query_reset || bits == 0 {
            return Ok(None);
        }
        let info =
            vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(2);
        // SAFETY: `raw` is live, and the info is valid: timestamps need no feature.
        let pool = unsafe { device.raw().create_query_pool(&info, None) }
            .map_err(|code| device.error("vkCreateQueryPool", code))?;
        let this =
            Self { device: Arc::clone(device), pool, valid: u64::MAX >> (64 - bits.min(64)) };
        // SAFETY: the feature is on (VUID-vkResetQueryPool-None-02665), nothing uses the pool yet, and it has two queries.
        unsafe { device.raw().reset_query_pool(pool, 0, 2) };
        Ok(Some(this))
    }

    /// Records the time at which all earlier commands have finished.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the queue that this was made for. Each of the two is recorded once, and the
    /// submission's fence keeps this alive.
    pub(crate) unsafe fn write(&self, commands: vk::CommandBuffer, which: Stamp) {
        let stage = vk::PipelineStageFlags::BOTTOM_OF_PIPE;
        // SAFETY: the caller's contract; the family has valid bits
        // (VUID-vkCmdWriteTimestamp-timestampValidBits-00829), and the query was reset and not used since.
        unsafe {
            self.device.raw().cmd_write_timestamp(commands, stage, self.pool, which as u32);
        }
    }

    /// The time between the two; `Ok(None)` if both were not written yet.
    ///
    /// # Errors
    ///
    /// The error of `vkGetQueryPoolResults`.
    pub(crate) fn elapsed(&self) -> Result<Option<Duration>> {
        let mut values = [0u64; 2];
        let flags = vk::QueryResultFlags::TYPE_64;
        // SAFETY: the pool is live and has these two queries, which were reset; 16 bytes are there for two values.
        let read =
            unsafe { self.device.raw().get_query_pool_results(self.pool, 0, &mut values, flags) };
        match read {
            Ok(()) => {}
            Err(vk::Result::NOT_READY) => return Ok(None),
            Err(code) => return Err(self.device.error("vkGetQueryPoolResults", code)),
        }
        let ticks = values[1].wrapping_sub(values[0]) & self.valid;
        let nanos = ticks as f64 * f64::from(self.device.adapter().timestamp_period());
        // CAST: not negative; saturates.
        Ok(Some(Duration::from_nanos(nanos as u64)))
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Stamp {
    Begin,
    End,
}

impl Drop for Timestamps {
    fn drop(&mut self) {
        // SAFETY: by the type's invariant live, and not in use.
        unsafe { self.device.raw().destroy_query_pool(self.pool, None) };
    }
}

impl fmt::Debug for Timestamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timestamps").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

//! A queue that is held, so that copies are queued behind one another and no wake-up is between them.
#![expect(
    unsafe_code,
    reason = "a semaphore that the host signals: the library has none that holds a queue"
)]

use std::time::Duration;

use peerbuf::Device;
use peerbuf::ash::vk;

/// What holds the main queue of a device.
///
/// # Invariants
///
/// `semaphore` is a live timeline semaphore of `device`. `last` is the value of the last submission's signal, or what it
/// began with: no submission uses the semaphore once it has reached `last`.
pub(super) struct Gate<'a> {
    device: &'a Device,
    semaphore: vk::Semaphore,
    last: u64,
}

/// A queue that is held until this is dropped.
pub(super) struct Held<'g, 'a> {
    gate: &'g Gate<'a>,
    opens: u64,
}

impl<'a> Gate<'a> {
    pub(super) fn new(device: &'a Device) -> Result<Self, vk::Result> {
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: peerbuf opens devices with timeline semaphores on (VUID-VkSemaphoreTypeCreateInfo-timelineSemaphore-03252).
        let semaphore = unsafe { device.raw().create_semaphore(&info, None) }?;
        // INVARIANT: created above, with the value 0.
        Ok(Self { device, semaphore, last: 0 })
    }

    /// Holds the queue: all that is submitted to it later waits until the result is dropped.
    pub(super) fn hold(&mut self) -> Result<Held<'_, 'a>, vk::Result> {
        let (opens, done) = (self.last + 1, self.last + 2);
        let (waits, signals) = ([opens], [done]);
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits)
            .signal_semaphore_values(&signals);
        let semaphores = [self.semaphore];
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&semaphores)
            // Later submissions are in the second scope of the wait, at these stages.
            .wait_dst_stage_mask(&[vk::PipelineStageFlags::ALL_COMMANDS])
            .signal_semaphores(&semaphores)
            .push_next(&mut values)];
        self.device.with_queue(|queue| {
            // SAFETY: the queue is locked; the semaphore is live and of its device, and the values increase
            // (VUID-VkSubmitInfo-pSignalSemaphores-03242).
            unsafe { self.device.raw().queue_submit(queue, &info, vk::Fence::null()) }
        })?;
        // INVARIANT: the submission signals this.
        self.last = done;
        Ok(Held { gate: self, opens })
    }

    /// Waits until no submission uses it.
    pub(super) fn wait(&self, timeout: Duration) -> Result<(), vk::Result> {
        let (semaphores, values) = ([self.semaphore], [self.last]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // CAST: saturates above 500 years.
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the semaphore is live.
        unsafe { self.device.raw().wait_semaphores(&info, nanos) }
    }
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        let info =
            vk::SemaphoreSignalInfo::default().semaphore(self.gate.semaphore).value(self.opens);
        // SAFETY: the semaphore is live; its value is below, and the submission that signals a higher one waits for this
        // (VUID-VkSemaphoreSignalInfo-value-03258, -03259). Of a lost device nothing waits.
        let _ = unsafe { self.gate.device.raw().signal_semaphore(&info) };
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        // On a lost device, or past the bound, it is leaked: a submission may still use it.
        if self.wait(Duration::from_secs(10)).is_ok() {
            // SAFETY: by the invariant no submission uses it.
            unsafe { self.device.raw().destroy_semaphore(self.semaphore, None) };
        }
    }
}

//! Blocks a device's queues until the test opens them, so that a test knows which work has not run yet.

use std::cell::Cell;

use ash::vk;
use peerbuf::Device;

/// Blocks a device's queue, and the one for moves if it has one. Work submitted later runs after [`Gate::open`] or the
/// drop of the gate.
pub(crate) struct Gate {
    device: Device,
    semaphore: vk::Semaphore,
    open: Cell<bool>,
}

impl Gate {
    /// Blocks the queues behind the work submitted so far.
    #[expect(unsafe_code, reason = "a raw submission of the test")]
    pub(crate) fn close(device: &Device) -> Self {
        let raw = device.raw();
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: every device of peerbuf has timeline semaphores on.
        let semaphore = unsafe { raw.create_semaphore(&info, None) }.expect("a semaphore");
        let this = Self { device: device.clone(), semaphore, open: Cell::new(false) };
        let (semaphores, values) = ([semaphore], [1]);
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&values);
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&semaphores)
            .wait_dst_stage_mask(&stages)
            .push_next(&mut timeline)];
        let block = |queue| {
            // SAFETY: the queue is the device's own and locked; the semaphore is live until `drop`.
            unsafe { raw.queue_submit(queue, &info, vk::Fence::null()) }.expect("a submission");
            queue
        };
        let main = device.with_queue(block);
        // An application may have given one queue for both.
        device.with_transfer_queue(|queue| if queue == main { queue } else { block(queue) });
        this
    }

    /// Unblocks the queues.
    pub(crate) fn open(self) {
        drop(self);
    }

    /// Unblocks the queues up to the next gate, for several gates on one device. They are dropped together.
    #[expect(unsafe_code, reason = "as in `close`")]
    pub(crate) fn unblock(&self) {
        if self.open.replace(true) {
            return;
        }
        let info = vk::SemaphoreSignalInfo::default().semaphore(self.semaphore).value(1);
        // SAFETY: its value is 0, and only this gate signals it.
        unsafe { self.device.raw().signal_semaphore(&info) }.expect("a signal");
    }
}

impl Drop for Gate {
    #[expect(unsafe_code, reason = "as in `close`")]
    fn drop(&mut self) {
        self.unblock();
        super::wait_idle(&[&self.device]);
        let raw = self.device.raw();
        // SAFETY: the queue is the device's own and locked.
        let idle = self.device.with_transfer_queue(|queue| unsafe { raw.queue_wait_idle(queue) });
        idle.transpose().expect("the device is not lost");
        // SAFETY: no submission waits for it any more.
        unsafe { raw.destroy_semaphore(self.semaphore, None) };
    }
}

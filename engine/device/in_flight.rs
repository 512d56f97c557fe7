//! A queue's submissions that have not finished, and the command buffers and semaphores that they use.
#![expect(unsafe_code, reason = "command pools and semaphores of a live device")]

use std::collections::VecDeque;
use std::sync::Arc;

use ash::vk;
use smallvec::SmallVec;

use super::spare_semaphores::{Once, SpareSemaphores};

/// The command pool of a queue, and what its unfinished submissions use. Protected by the queue's lock.
pub(super) struct InFlight {
    pool: vk::CommandPool,
    idle: Vec<vk::CommandBuffer>,
    submissions: VecDeque<Pending>,
    /// The device's.
    spare: Arc<SpareSemaphores>,
}

/// What a submission uses until it has finished.
pub(super) struct Pending {
    pub(super) value: u64,
    pub(super) commands: SmallVec<[vk::CommandBuffer; 2]>,
    /// Timelines, signalled elsewhere, that it waits for.
    pub(super) timelines: SmallVec<[(vk::Semaphore, u64); 1]>,
    /// Binary semaphores that only this submission waits for or signals.
    pub(super) once: SmallVec<[Once; 2]>,
}

impl InFlight {
    /// The pool is destroyed by [`InFlight::destroy`].
    pub(super) fn new(pool: vk::CommandPool, spare: Arc<SpareSemaphores>) -> Self {
        Self { pool, idle: vec![], submissions: VecDeque::new(), spare }
    }

    /// Adds a submission; its resources are reclaimed when the timeline has reached its value.
    pub(super) fn push(&mut self, submission: Pending) {
        self.submissions.push_back(submission);
    }

    /// How many binary semaphores the unfinished submissions use.
    pub(super) fn binary_semaphores(&self) -> usize {
        self.submissions.iter().map(|submission| submission.once.len()).sum()
    }

    /// Whether a submission waits for a timeline other than `own` that has not reached the awaited value.
    pub(super) fn waits_for_others(
        &self,
        device: &ash::Device,
        own: Option<vk::Semaphore>,
    ) -> Result<bool, vk::Result> {
        let timelines = self.submissions.iter().flat_map(|submission| &submission.timelines);
        for &(semaphore, value) in timelines.filter(|(semaphore, _)| Some(*semaphore) != own) {
            // SAFETY: timelines stay alive while a submission in this list waits for them (`DeviceInner::forget_removed`).
            if unsafe { device.get_semaphore_counter_value(semaphore) }? < value {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a submission that is not known to be finished waits for `own`.
    pub(super) fn waits_for(&self, own: Option<vk::Semaphore>) -> bool {
        let mut timelines = self.submissions.iter().flat_map(|submission| &submission.timelines);
        timelines.any(|(semaphore, _)| Some(*semaphore) == own)
    }

    /// A command buffer that no submission uses.
    pub(super) fn take_idle(
        &mut self,
        device: &ash::Device,
    ) -> Result<vk::CommandBuffer, vk::Result> {
        if let Some(commands) = self.idle.pop() {
            return Ok(commands);
        }
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is live, and the caller holds the queue's lock.
        unsafe { device.allocate_command_buffers(&info) }.map(|list| list[0])
    }

    /// Returns command buffers that were not submitted.
    pub(super) fn return_idle(&mut self, commands: impl IntoIterator<Item = vk::CommandBuffer>) {
        self.idle.extend(commands);
    }

    /// Whether no submission has resources to reclaim.
    pub(super) fn is_empty(&self) -> bool {
        self.submissions.is_empty()
    }

    /// Reclaims what the submissions up to the timeline value `completed` used. Semaphores that are as new are kept.
    ///
    /// # Safety
    ///
    /// `device` is the one that the pool is of; `completed` was read from the timeline of this queue.
    pub(super) unsafe fn reclaim(&mut self, device: &ash::Device, completed: u64) {
        while self.submissions.front().is_some_and(|submission| submission.value <= completed) {
            let Some(Pending { commands, once, .. }) = self.submissions.pop_front() else { break };
            self.idle.extend(commands);
            for semaphore in once.into_iter().filter_map(|once| self.spare.keep(once)) {
                // SAFETY: a live one of this device; its only wait was of a submission that has completed, by
                // the caller's contract.
                unsafe { device.destroy_semaphore(semaphore, None) };
            }
        }
    }

    /// Destroys the pool and the binary semaphores.
    ///
    /// # Safety
    ///
    /// `device` is the one that the pool is of; no submission is still running; called once.
    pub(super) unsafe fn destroy(&self, device: &ash::Device) {
        for semaphore in self.submissions.iter().flat_map(|submission| &submission.once) {
            // SAFETY: the caller says that nothing is running, so the waits for it are over.
            unsafe { device.destroy_semaphore(semaphore.raw, None) };
        }
        // SAFETY: as above; command buffers are freed with their pool.
        unsafe { device.destroy_command_pool(self.pool, None) };
    }
}

//! The semaphores that a submission waits for.

use ash::vk;
use smallvec::SmallVec;

use super::spare_semaphores::Once;

/// What a submission waits for before its first command.
///
/// # Invariants
///
/// Every semaphore is a live one of the device that is submitted to. Timelines stay alive as long as that
/// device. The binary ones in `once` belong to this, and to the queue once submitted.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// Values of binary semaphores are ignored.
    pub(super) semaphores: SmallVec<[vk::Semaphore; 4]>,
    pub(super) values: SmallVec<[u64; 4]>,
    pub(super) once: SmallVec<[Once; 2]>,
    /// Semaphores of the application.
    given: SmallVec<[vk::Semaphore; 1]>,
    /// Whether the signal of a semaphore of the application may not be submitted yet.
    pub(super) may_be_unsubmitted: bool,
    /// Whether one of those is binary.
    pub(super) have_binary: bool,
}

impl Waits {
    /// Adds a wait until a timeline of the device has reached `value`.
    pub(crate) fn timeline(&mut self, semaphore: vk::Semaphore, value: u64) {
        match self.semaphores.iter().position(|&known| known == semaphore) {
            Some(at) => self.values[at] = self.values[at].max(value),
            None => {
                self.semaphores.push(semaphore);
                self.values.push(value);
            }
        }
    }

    /// Adds a wait for a semaphore of the application; a `value` of 0 is for a binary one.
    pub(crate) fn given(&mut self, semaphore: vk::Semaphore, value: u64) {
        self.semaphores.push(semaphore);
        self.values.push(value);
        self.given.push(semaphore);
        // Of a binary one it is (VUID-vkQueueSubmit-pWaitSemaphores-03238).
        self.may_be_unsubmitted |= value > 0;
        self.have_binary |= value == 0;
    }

    /// The first of the device's timelines that are waited for.
    pub(crate) fn first_timeline(&self) -> Option<(vk::Semaphore, u64)> {
        self.timelines().next()
    }

    /// The device's timelines that are waited for, each with its value.
    pub(super) fn timelines(&self) -> impl Iterator<Item = (vk::Semaphore, u64)> + '_ {
        let all = self.semaphores.iter().copied().zip(self.values.iter().copied());
        all.filter(|(semaphore, _)| {
            !self.once.iter().any(|once| once.raw == *semaphore) && !self.given.contains(semaphore)
        })
    }
}

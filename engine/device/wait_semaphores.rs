//! The semaphores that a submission waits for.

use ash::vk;
use smallvec::SmallVec;

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
    pub(super) once: SmallVec<[vk::Semaphore; 2]>,
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

    /// The timelines that are waited for, each with its value.
    pub(super) fn timelines(&self) -> impl Iterator<Item = (vk::Semaphore, u64)> + '_ {
        let all = self.semaphores.iter().copied().zip(self.values.iter().copied());
        all.filter(|(semaphore, _)| !self.once.contains(semaphore))
    }
}

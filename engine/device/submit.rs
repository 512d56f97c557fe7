//! What a queue is asked to submit.

use ash::vk;

use super::timeline::Reading;
use super::wait_semaphores::Waits;

/// A binary semaphore cannot be signalled now, and nothing was submitted. No driver returns this.
pub(super) const NOT_ONCE: vk::Result = vk::Result::NOT_READY;
/// An application's lock did not call the work that it was given. No driver returns this either.
pub(super) const NOT_LOCKED: vk::Result = vk::Result::EVENT_RESET;

/// Why a submission was not made, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotSubmitted {
    pub(super) code: vk::Result,
    /// Whether `vkQueueSubmit` itself reported `VK_ERROR_DEVICE_LOST`. What the submission uses then counts as
    /// in use (Vulkan, "Lost Device": the code is equivalent to `VK_SUCCESS` there).
    pub(super) rejected: bool,
}

impl From<vk::Result> for NotSubmitted {
    fn from(code: vk::Result) -> Self {
        Self { code, rejected: false }
    }
}

/// A submission.
pub(crate) struct Submit<'a> {
    pub(crate) waits: Waits,
    pub(crate) body: Body<'a>,
    /// A binary semaphore to signal when everything submitted so far has finished.
    pub(crate) signal: Option<vk::Semaphore>,
    /// Semaphores of the application to signal, each with its value; 0 for binary ones.
    pub(crate) signals: &'a [(vk::Semaphore, u64)],
    /// What the queue's timeline showed, if it was read just before.
    pub(crate) reading: Option<Reading>,
}

impl Submit<'_> {
    /// A point behind `waits` and everything submitted so far.
    pub(crate) fn nothing(waits: Waits) -> Self {
        Self { waits, body: Body::Nothing, signal: None, signals: &[], reading: None }
    }

    /// Whether it waits for or signals a binary semaphore.
    pub(super) fn uses_binary(&self) -> bool {
        self.signal.is_some()
            || self.waits.have_binary
            || !self.waits.once.is_empty()
            || self.signals.iter().any(|(_, value)| *value == 0)
    }
}

/// What a submission does.
pub(crate) enum Body<'a> {
    /// Commands that are recorded now.
    Record(&'a mut dyn FnMut(vk::CommandBuffer)),
    /// Command buffers of an application, between commands that are recorded now, if there are any. Without command
    /// buffers in between, those before and after are recorded into one.
    Around {
        before: Option<&'a mut dyn FnMut(vk::CommandBuffer)>,
        commands: &'a [vk::CommandBuffer],
        after: Option<&'a mut dyn FnMut(vk::CommandBuffer)>,
    },
    /// No commands: a point behind everything submitted so far.
    Nothing,
}

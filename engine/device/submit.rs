//! What a queue is asked to submit.

use ash::vk;

use super::wait_semaphores::Waits;

/// A binary semaphore cannot be signalled now, and nothing was submitted. No driver returns this.
pub(super) const NOT_ONCE: vk::Result = vk::Result::NOT_READY;
/// An application's lock did not call the work that it was given. No driver returns this either.
pub(super) const NOT_LOCKED: vk::Result = vk::Result::EVENT_RESET;

/// A submission.
pub(crate) struct Submit<'a> {
    pub(crate) waits: Waits,
    pub(crate) body: Body<'a>,
    /// A binary semaphore to signal when everything submitted so far has finished.
    pub(crate) signal: Option<vk::Semaphore>,
}

/// What a submission does.
pub(crate) enum Body<'a> {
    /// Commands that are recorded now.
    Record(&'a mut dyn FnMut(vk::CommandBuffer)),
    /// Command buffers of an application, between commands that are recorded now.
    Around {
        before: &'a mut dyn FnMut(vk::CommandBuffer),
        commands: &'a [vk::CommandBuffer],
        after: &'a mut dyn FnMut(vk::CommandBuffer),
    },
    /// No commands: a point behind everything submitted so far.
    Nothing,
}

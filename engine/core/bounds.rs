//! How long the waits of an engine go on.

use std::time::Duration;

/// The bounds of an engine's waits. Each is for one kind of wait, since work of minutes is no error while a lock that
/// is held for minutes is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For a device, without a step of the awaited timeline. Also for users that must end their use.
    pub(crate) progress: Duration,
    /// For a reservation.
    pub(crate) lock: Duration,
    /// For unfinished work at the end of the engine or of a device, without a step.
    pub(crate) end: Duration,
}

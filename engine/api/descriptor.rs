//! What an engine is made with.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::device::{MessageSink, Validation};
use crate::residency::ResidencyOptions;
use crate::transfer::CopySpeeds;

/// What an [`Engine`] is to be.
#[derive(Clone)]
pub struct EngineDescriptor {
    pub(super) validation: Validation,
    pub(super) sink: Option<MessageSink>,
    pub(super) timeout: Duration,
    pub(super) options: ResidencyOptions,
    pub(super) trace: Option<PathBuf>,
    pub(super) transfer_queues: bool,
    pub(super) copy_speeds: Option<CopySpeeds>,
}

/// The bound of every wait, unless another is set.
const TIMEOUT: Duration = Duration::from_secs(10);

impl EngineDescriptor {
    /// No validation; waits end after 10 seconds.
    pub fn new() -> Self {
        Self {
            validation: Validation::Off,
            sink: None,
            timeout: TIMEOUT,
            options: ResidencyOptions::new(),
            trace: None,
            transfer_queues: true,
            copy_speeds: None,
        }
    }

    /// Whether to run under the Khronos validation layer.
    #[must_use]
    pub fn validation(mut self, validation: Validation) -> Self {
        self.validation = validation;
        self
    }

    /// Who hears its messages, besides `tracing`.
    #[must_use]
    pub fn messages(mut self, sink: MessageSink) -> Self {
        self.sink = Some(sink);
        self
    }

    /// How the right buffers are kept in the right places.
    #[must_use]
    pub fn residency(mut self, options: ResidencyOptions) -> Self {
        self.options = options;
        self
    }

    /// Writes what happens to a file, as a trace for Perfetto or `chrome://tracing`, from which policies can be
    /// replayed as well ([`crate::observe::trace`]). Without this the environment may name a file, in
    /// `PEERBUF_TRACE`.
    #[must_use]
    pub fn trace(mut self, file: impl Into<PathBuf>) -> Self {
        self.trace = Some(file.into());
        self
    }

    /// Whether devices that are opened move buffers on a queue of their own, where they have a second one, so
    /// that moves run beside everything else. They do, unless told not to.
    #[must_use]
    pub fn transfer_queues(mut self, wanted: bool) -> Self {
        self.transfer_queues = wanted;
        self
    }

    /// How fast the host and each device copy, for those who want the same way taken every time. `None`, as
    /// from the start: each device is measured once, at the first move that could use it, which takes a few
    /// milliseconds.
    #[must_use]
    pub fn copy_speeds(mut self, speeds: impl Into<Option<CopySpeeds>>) -> Self {
        self.copy_speeds = speeds.into();
        self
    }

    /// The bound of every wait for a device; a day at most.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        self.timeout = timeout.min(DAY);
        self
    }
}

impl Default for EngineDescriptor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EngineDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineDescriptor")
            .field("validation", &self.validation)
            .field("timeout", &self.timeout)
            .field("residency", &self.options)
            .field("trace", &self.trace)
            .field("transfer_queues", &self.transfer_queues)
            .finish_non_exhaustive()
    }
}

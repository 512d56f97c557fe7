//! The options that an engine is opened with.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::Bounds;
use crate::device::{MessageSink, Validation};
use crate::memory::SlabGrouping;
use crate::residency::ResidencyOptions;
use crate::transfer::CopySpeeds;

/// The options of an engine, for [`crate::Engine::open`].
#[derive(Clone)]
pub struct EngineDescriptor {
    pub(super) validation: Validation,
    pub(super) sink: Option<MessageSink>,
    pub(super) timeout: Duration,
    /// `None` is the timeout.
    pub(super) lock_timeout: Option<Duration>,
    pub(super) end_timeout: Option<Duration>,
    pub(super) options: ResidencyOptions,
    pub(super) trace: Option<PathBuf>,
    pub(super) transfer_queues: bool,
    pub(super) device_addresses: bool,
    pub(super) copy_speeds: Option<CopySpeeds>,
    pub(super) route_cache: Option<PathBuf>,
    pub(super) probe_program: Option<PathBuf>,
    pub(super) grouping: SlabGrouping,
}

/// The default of [`EngineDescriptor::timeout`].
const TIMEOUT: Duration = Duration::from_secs(10);

impl EngineDescriptor {
    /// The defaults: no validation, a timeout of 10 seconds, transfer queues, measured copy speeds.
    pub fn new() -> Self {
        Self {
            validation: Validation::Off,
            sink: None,
            timeout: TIMEOUT,
            lock_timeout: None,
            end_timeout: None,
            options: ResidencyOptions::new(),
            trace: None,
            transfer_queues: true,
            device_addresses: false,
            copy_speeds: None,
            route_cache: None,
            probe_program: None,
            grouping: SlabGrouping::Auto,
        }
    }

    /// Sets which buffers have slabs together. The default is [`SlabGrouping::Auto`].
    #[must_use]
    pub fn slabs(mut self, grouping: SlabGrouping) -> Self {
        self.grouping = grouping;
        self
    }

    /// Sets whether to run under the Khronos validation layer.
    #[must_use]
    pub fn validation(mut self, validation: Validation) -> Self {
        self.validation = validation;
        self
    }

    /// Sets a function that gets the messages of the validation layer, in addition to `tracing`.
    #[must_use]
    pub fn messages(mut self, sink: MessageSink) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Sets the residency options: eviction policy, limits on restores, clean copies, automatic migration.
    #[must_use]
    pub fn residency(mut self, options: ResidencyOptions) -> Self {
        self.options = options;
        self
    }

    /// Writes a trace to a file, for Perfetto or `chrome://tracing`. Eviction policies can be replayed from it
    /// ([`crate::observe::trace`]). Without this, the environment variable `PEERBUF_TRACE` may name the file.
    #[must_use]
    pub fn trace(mut self, file: impl Into<PathBuf>) -> Self {
        self.trace = Some(file.into());
        self
    }

    /// Sets whether opened devices with a second queue use it for moves, so that moves run in parallel with other
    /// work. The default is `true`.
    #[must_use]
    pub fn transfer_queues(mut self, use_them: bool) -> Self {
        self.transfer_queues = use_them;
        self
    }

    /// Sets whether opened devices give buffers addresses for shaders ([`crate::Mapping::device_address`]), where they
    /// can (feature `bufferDeviceAddress`). The default is `false`. An adopted device says it for itself
    /// ([`crate::device::AdoptedDevice::device_addresses`]).
    #[must_use]
    pub fn device_addresses(mut self, wanted: bool) -> Self {
        self.device_addresses = wanted;
        self
    }

    /// Sets how fast the host and each device copy, so that every run takes the same copy paths. With `None`, the
    /// default, each device is measured once, at the first move or copy that could use it. That takes a few milliseconds.
    #[must_use]
    pub fn copy_speeds(mut self, speeds: impl Into<Option<CopySpeeds>>) -> Self {
        self.copy_speeds = speeds.into();
        self
    }

    /// Keeps what is found out about routes in a file, and reads it, so that another engine need not prove the same
    /// routes again: for the same adapters, driver versions and kernel release. A refused route is not tried again,
    /// either. [`crate::Engine::forget_routes`] empties the file. By default nothing is kept.
    ///
    /// A file that does not exist is created. One that cannot be read or written, or that holds something else, is
    /// left alone, and reported by `tracing`. Name a file that only trusted users can write: what it says is believed.
    #[must_use]
    pub fn route_cache(mut self, file: impl Into<PathBuf>) -> Self {
        self.route_cache = Some(file.into());
        self
    }

    /// Lets the engine prove routes in child processes, so that a driver that crashes or never returns costs none of
    /// the application's. The engine starts the program as `program probe …`: the program `peerbuf`, or any program
    /// that then calls [`crate::Engine::answer_probe`]. By default routes are proved in this process.
    ///
    /// The child sees the adapters in the same order as this process, or else, and if it does not start, routes are
    /// proved in this process after all, and `tracing` reports it. To start a child takes longer than a trial, so it tries
    /// all routes of a pair at once.
    #[must_use]
    pub fn probe_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.probe_program = Some(program.into());
        self
    }

    /// Sets how long a wait for a device goes on without progress, at most a day. The default is 10 seconds.
    ///
    /// Work is in progress while the timeline of the awaited submission makes steps, or one that it depends on: each
    /// finished submission is a step. So a wait behind many long submissions is no error, and one behind a single
    /// submission that takes longer is. Timeouts that a caller gives ([`crate::Fence::wait`]) are exact. What waits
    /// for a user of a buffer (a revocation, the end of a move of the host) ends after this time in all cases.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(DAY);
        self
    }

    /// Sets how long a wait for a reservation goes on, at most a day. The default is [`EngineDescriptor::timeout`].
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = Some(timeout.min(DAY));
        self
    }

    /// Sets how long the last drop of the engine and of a device waits without progress, at most a day. Work that
    /// makes none is leaked then. The default is [`EngineDescriptor::timeout`].
    #[must_use]
    pub fn end_timeout(mut self, timeout: Duration) -> Self {
        self.end_timeout = Some(timeout.min(DAY));
        self
    }

    /// The bounds of all waits.
    pub(super) fn bounds(&self) -> Bounds {
        let or_timeout = |bound: Option<Duration>| bound.unwrap_or(self.timeout);
        Bounds {
            progress: self.timeout,
            lock: or_timeout(self.lock_timeout),
            end: or_timeout(self.end_timeout),
        }
    }
}

/// The longest bound.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for EngineDescriptor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EngineDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineDescriptor")
            .field("validation", &self.validation)
            .field("bounds", &self.bounds())
            .field("residency", &self.options)
            .field("trace", &self.trace)
            .field("transfer_queues", &self.transfer_queues)
            .field("device_addresses", &self.device_addresses)
            .field("route_cache", &self.route_cache)
            .field("probe_program", &self.probe_program)
            .field("slabs", &self.grouping)
            .finish_non_exhaustive()
    }
}

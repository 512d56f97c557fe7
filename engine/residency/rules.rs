//! What an engine's user decides about residency.

use std::fmt;

use super::policy::{self, Policy};

/// How an engine keeps the right buffers in the right places: [`crate::EngineDescriptor::residency`].
#[derive(Clone, Copy)]
pub struct Rules {
    pub(crate) policy: fn() -> Box<dyn Policy>,
    pub(crate) bytes_per_submission: u64,
    pub(crate) moves_per_submission: u32,
    pub(crate) bytes_per_ms: u64,
    pub(crate) uses_before_return: u8,
    pub(crate) clean_copies: bool,
    pub(crate) attraction: bool,
}

impl Rules {
    /// The defaults: the adaptive policy; up to 32 MiB and 64 buffers come back per submission, and 16 MiB
    /// per millisecond; a buffer that had to go comes back, if somebody else has to go for it, at its second
    /// use.
    pub fn new() -> Self {
        Self {
            policy: policy::adaptive,
            bytes_per_submission: 32 << 20,
            moves_per_submission: 64,
            bytes_per_ms: 16 << 20,
            uses_before_return: 2,
            clean_copies: true,
            attraction: true,
        }
    }

    /// Whom to evict: makes a policy for a domain.
    #[must_use]
    pub fn policy(mut self, make: fn() -> Box<dyn Policy>) -> Self {
        self.policy = make;
        self
    }

    /// How many bytes come back to a device's memory for one submission, or one map, at most. One buffer may
    /// go beyond it. Users of DXVK felt evictions as stutter until it moved no more than a mebibyte at a time.
    #[must_use]
    pub fn bytes_per_submission(mut self, bytes: u64) -> Self {
        self.bytes_per_submission = bytes;
        self
    }

    /// How many buffers come back for one submission at most.
    #[must_use]
    pub fn moves_per_submission(mut self, moves: u32) -> Self {
        self.moves_per_submission = moves;
        self
    }

    /// How many bytes come back per millisecond, on the average. What was not used adds up for a while, and
    /// one buffer may go beyond it (as in amdgpu's `amdgpu_cs_get_threshold_for_moves`).
    #[must_use]
    pub fn bytes_per_ms(mut self, bytes: u64) -> Self {
        self.bytes_per_ms = bytes;
        self
    }

    /// At which use after it was evicted a buffer may evict others for its return, so that two buffers do
    /// not change places for ever; 1 is at the first, and 127 the most. Where there is room it comes back at once.
    #[must_use]
    pub fn uses_before_return(mut self, uses: u8) -> Self {
        self.uses_before_return = uses.clamp(1, 127);
        self
    }

    /// Whether a buffer that comes back keeps the bytes that it left in system memory, as long as there is
    /// room, so that evicting it again moves only what was written since; `true` unless it is said.
    #[must_use]
    pub fn clean_copies(mut self, keep: bool) -> Self {
        self.clean_copies = keep;
        self
    }

    /// Whether a device that uses a buffer all the time while it lives elsewhere draws it into its own
    /// memory, when by the measured speeds of the routes that is worth the move, what others lose included,
    /// and there is room; `true` unless it is said. With `false` a buffer is at home where somebody has put
    /// it.
    #[must_use]
    pub fn attraction(mut self, draw: bool) -> Self {
        self.attraction = draw;
        self
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("policy", &(self.policy)().name())
            .field("bytes_per_submission", &self.bytes_per_submission)
            .field("moves_per_submission", &self.moves_per_submission)
            .field("bytes_per_ms", &self.bytes_per_ms)
            .field("uses_before_return", &self.uses_before_return)
            .field("clean_copies", &self.clean_copies)
            .field("attraction", &self.attraction)
            .finish()
    }
}

//! The residency options of an engine.

use std::fmt;

use super::policy::{self, Policy};

/// The residency options of an engine: [`crate::EngineDescriptor::residency`].
#[doc(alias = "Rules")]
#[derive(Clone, Copy)]
pub struct ResidencyOptions {
    pub(crate) policy: fn() -> Box<dyn Policy>,
    pub(crate) bytes_per_submission: u64,
    pub(crate) moves_per_submission: u32,
    pub(crate) bytes_per_ms: u64,
    pub(crate) uses_before_return: u8,
    pub(crate) clean_copies: bool,
    pub(crate) auto_migration: bool,
}

impl ResidencyOptions {
    /// The defaults: the adaptive policy; up to 32 MiB and 64 buffers return per submission, and 16 MiB per
    /// millisecond. An evicted buffer may evict others for its return at its second use. Clean copies and
    /// automatic migration are on.
    pub fn new() -> Self {
        Self {
            policy: policy::adaptive,
            bytes_per_submission: 32 << 20,
            moves_per_submission: 64,
            bytes_per_ms: 16 << 20,
            uses_before_return: 2,
            clean_copies: true,
            auto_migration: true,
        }
    }

    /// Sets the eviction policy. `make` is called for each priority in use of each device's memory.
    #[must_use]
    pub fn policy(mut self, make: fn() -> Box<dyn Policy>) -> Self {
        self.policy = make;
        self
    }

    /// Sets how many bytes return to a device's memory for one submission or one map at most. The first buffer
    /// may exceed the limit. In DXVK evictions were visible as stutter until it moved at most one mebibyte at a
    /// time.
    #[must_use]
    pub fn bytes_per_submission(mut self, bytes: u64) -> Self {
        self.bytes_per_submission = bytes;
        self
    }

    /// Sets how many buffers return for one submission at most.
    #[must_use]
    pub fn moves_per_submission(mut self, moves: u32) -> Self {
        self.moves_per_submission = moves;
        self
    }

    /// Sets how many bytes return per millisecond, on average. Unused bytes accumulate for 200 ms, and one
    /// buffer may exceed the limit (as in amdgpu's `amdgpu_cs_get_threshold_for_moves`).
    #[must_use]
    pub fn bytes_per_ms(mut self, bytes: u64) -> Self {
        self.bytes_per_ms = bytes;
        self
    }

    /// Sets at which use after its eviction a buffer may evict others for its return, from 1 to 127. More than
    /// 1 keeps two buffers from evicting each other at every use. It evicts them only if the policy expects fewer uses of
    /// them ([`Policy::is_worth_more`]), and is asked again after as many uses. If there is room, a buffer returns at its
    /// first use.
    #[must_use]
    pub fn uses_before_return(mut self, uses: u8) -> Self {
        self.uses_before_return = uses.clamp(1, 127);
        self
    }

    /// Sets whether a buffer that returns keeps its copy in system memory, as long as there is room. The next
    /// eviction then copies only what was written since. The default is `true`.
    #[must_use]
    pub fn clean_copies(mut self, keep: bool) -> Self {
        self.clean_copies = keep;
        self
    }

    /// Sets whether a buffer migrates automatically to the memory of the device that uses it most. It does so
    /// if there is room, and if by the measured speeds the saving is worth the move, including what other devices
    /// lose. The default is `true`. With `false` a buffer stays in the domain where it was placed.
    #[doc(alias = "attraction")]
    #[must_use]
    pub fn auto_migration(mut self, migrate: bool) -> Self {
        self.auto_migration = migrate;
        self
    }
}

impl Default for ResidencyOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ResidencyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResidencyOptions")
            .field("policy", &(self.policy)().name())
            .field("bytes_per_submission", &self.bytes_per_submission)
            .field("moves_per_submission", &self.moves_per_submission)
            .field("bytes_per_ms", &self.bytes_per_ms)
            .field("uses_before_return", &self.uses_before_return)
            .field("clean_copies", &self.clean_copies)
            .field("auto_migration", &self.auto_migration)
            .finish()
    }
}

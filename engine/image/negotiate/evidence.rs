//! What is known of pairs of devices: which memory they have in common, and what probes said.

use std::collections::{BTreeMap, BTreeSet};

use super::candidate::Candidate;
use crate::device::DeviceId;
use crate::image::usage::ImageUsage;
use crate::transfer::RefusalReason;

/// A probe that is asked for: an image of the same format and layout is written on one device, and read on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Trial {
    /// The way of sharing.
    pub candidate: Candidate,
    /// The device that writes.
    pub from: DeviceId,
    /// The device that reads.
    pub to: DeviceId,
}

impl Trial {
    /// A probe of a candidate, from one device to another.
    pub const fn new(candidate: Candidate, from: DeviceId, to: DeviceId) -> Self {
        Self { candidate, from, to }
    }
}

/// Why a probe refused a candidate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeRefusal {
    /// Texels that were read differ from those that were written.
    #[error("{wrong} of {texels} texels were wrong, the first at {x}, {y}")]
    #[non_exhaustive]
    WrongTexels {
        /// How many differ.
        wrong: u64,
        /// How many were read.
        texels: u64,
        /// Column of the first one.
        x: u32,
        /// Its row.
        y: u32,
    },
    /// As a shader reads them, texels differ from those that were written. A copy has read them right.
    #[error("{wrong} of {texels} texels were wrong for a shader, the first at {x}, {y}")]
    #[non_exhaustive]
    WrongSamples {
        /// How many differ.
        wrong: u64,
        /// How many were read.
        texels: u64,
        /// Column of the first one.
        x: u32,
        /// Its row.
        y: u32,
    },
    /// The drivers place a plane differently at every size that was tried.
    #[error(
        "plane {plane} has pitch {pitch} at {offset}, for the reader {other_pitch} at {other_offset}"
    )]
    #[non_exhaustive]
    OtherPlace {
        /// The plane.
        plane: usize,
        /// Its pitch on the device that writes, in bytes.
        pitch: u64,
        /// Its offset there.
        offset: u64,
        /// Its pitch on the device that reads.
        other_pitch: u64,
        /// Its offset there.
        other_offset: u64,
    },
    /// A device cannot copy such images, which the probe needs.
    #[error("the probe needs images on {device} that are {missing}")]
    #[non_exhaustive]
    NoCopies {
        /// The device.
        device: DeviceId,
        /// The uses that it does not allow.
        missing: ImageUsage,
    },
    /// No memory that both devices use as a buffer can have such images.
    #[error("no memory that both use as a buffer has such images")]
    NoMemory,
    /// The memory does not work for images.
    #[error("{0}")]
    Memory(RefusalReason),
    /// A call failed.
    #[error("{call}: {code}")]
    #[non_exhaustive]
    CallFailed {
        /// The call.
        call: &'static str,
        /// Its code, as text.
        code: String,
    },
}

/// What is known of pairs of devices, for one format and shape.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Evidence {
    trials: BTreeMap<Trial, Result<(), ProbeRefusal>>,
    common: BTreeSet<(DeviceId, DeviceId)>,
}

impl Evidence {
    /// Notes what a probe said. A later word replaces an earlier one.
    pub fn note(&mut self, trial: Trial, result: Result<(), ProbeRefusal>) {
        self.trials.insert(trial, result);
    }

    /// Forgets all that is known of a device, because it was removed or its driver was replaced.
    pub fn forget(&mut self, device: DeviceId) {
        self.trials.retain(|trial, _| trial.from != device && trial.to != device);
        self.common.retain(|(a, b)| *a != device && *b != device);
    }

    /// Notes that two devices can use the same system memory as a buffer, by a route that was proved.
    pub fn note_common_memory(&mut self, a: DeviceId, b: DeviceId) {
        self.common.insert((a.min(b), a.max(b)));
    }

    /// What a probe said; `None` if there was none.
    pub fn said(&self, trial: Trial) -> Option<&Result<(), ProbeRefusal>> {
        self.trials.get(&trial)
    }

    /// Whether two devices can use the same system memory as a buffer.
    pub fn has_common_memory(&self, a: DeviceId, b: DeviceId) -> bool {
        a == b || self.common.contains(&(a.min(b), a.max(b)))
    }

    /// Whether a probe refused a candidate, for any pair.
    pub(super) fn is_refused(&self, candidate: Candidate) -> bool {
        self.trials.iter().any(|(trial, result)| trial.candidate == candidate && result.is_err())
    }

    /// The candidates of which a probe was made.
    pub(super) fn tried(&self) -> BTreeSet<Candidate> {
        self.trials.keys().map(|trial| trial.candidate).collect()
    }
}

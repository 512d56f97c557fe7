//! The result of `peerbuf demo --images`, as plain data.

use peerbuf::DomainId;
use serde::Serialize;

use crate::frames::Found;
use crate::report::{DeviceFacts, PlaceFacts, RefusedFacts, SCHEMA, UnusableFacts};

/// The result of the command.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImageDemoReport {
    pub(crate) schema: u32,
    pub(crate) fourcc: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Texels compared, in all parts.
    pub(crate) texels_verified: u64,
    /// Texels that were wrong, in all parts.
    pub(crate) mismatches: u64,
    /// Notifications of importers about moves, in all parts.
    pub(crate) callbacks: u64,
    pub(crate) callbacks_expected: u64,
    pub(crate) seconds: f64,
    pub(crate) devices: Vec<DeviceFacts>,
    pub(crate) parts: Vec<PartFacts>,
    pub(crate) unusable: Vec<UnusableFacts>,
}

/// What happened to one image.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PartFacts {
    /// The devices that share it. A number that is not among the devices of the report is that of an adapter which was
    /// opened again.
    pub(crate) members: Vec<MemberFacts>,
    pub(crate) steps: Vec<StepFacts>,
    /// Where it moved while it was used, and how often.
    pub(crate) places: Vec<PlaceFacts>,
    /// Where it could not move.
    pub(crate) refused: Vec<RefusedFacts>,
    /// How often it moved in all, after all devices had attached.
    pub(crate) moves: u64,
    pub(crate) callbacks: u64,
    /// `moves` times the attachments: one of each device that draws, and one of each device that samples.
    pub(crate) callbacks_expected: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MemberFacts {
    pub(crate) device: usize,
    pub(crate) name: String,
    /// The device whose adapter was opened again for this one.
    pub(crate) again: Option<usize>,
    /// Whether its queue draws.
    pub(crate) draws: bool,
}

/// What was found after something had happened to the image.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StepFacts {
    /// `shared`, `moved`, `evicted`, `returned`, `laid_out_anew` or `moving`.
    pub(crate) step: &'static str,
    /// `vram` or `system`.
    pub(crate) domain: &'static str,
    /// The device whose memory it is; null for system memory.
    pub(crate) device: Option<usize>,
    /// Bytes from a row to the next one.
    pub(crate) pitch: u32,
    /// Whether the image has got this layout since the step before; also by itself, when it was mapped.
    pub(crate) laid_out_anew: bool,
    pub(crate) generation: u32,
    /// The devices that draw into the shared bytes; others draw into an image of their own, and copy.
    pub(crate) draws_in_place: Vec<usize>,
    /// The devices that sample the shared bytes.
    pub(crate) samples_in_place: Vec<usize>,
    pub(crate) checks: Vec<CheckFacts>,
}

/// A frame that one device drew and another one compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CheckFacts {
    /// The device that drew.
    pub(crate) from: usize,
    /// The device that sampled; null for the host, which read rows.
    pub(crate) to: Option<usize>,
    /// Whether the frame was drawn before the image got where it is.
    pub(crate) kept: bool,
    pub(crate) texels: u64,
    pub(crate) mismatches: u64,
    /// Column and row of the first wrong texel.
    pub(crate) first_mismatch: Option<[u32; 2]>,
    pub(crate) seconds: f64,
}

impl CheckFacts {
    pub(crate) fn new(
        (from, to): (usize, Option<usize>),
        kept: bool,
        found: Found,
        seconds: f64,
    ) -> Self {
        Self {
            from,
            to,
            kept,
            texels: found.texels,
            mismatches: found.wrong,
            first_mismatch: found.first,
            seconds,
        }
    }
}

/// The short name of a domain, and its device.
pub(crate) fn place(domain: DomainId) -> (&'static str, Option<usize>) {
    match domain {
        DomainId::Vram(device) => ("vram", Some(device.index())),
        _ => ("system", None),
    }
}

impl ImageDemoReport {
    pub(crate) fn new(
        (fourcc, width, height): (String, u32, u32),
        parts: Vec<PartFacts>,
        (devices, unusable): (Vec<DeviceFacts>, Vec<UnusableFacts>),
        seconds: f64,
    ) -> Self {
        let checks = || parts.iter().flat_map(|part| &part.steps).flat_map(|step| &step.checks);
        let callbacks = |of: fn(&PartFacts) -> u64| parts.iter().map(of).sum();
        Self {
            schema: SCHEMA,
            fourcc,
            width,
            height,
            texels_verified: checks().map(|check| check.texels).sum(),
            mismatches: checks().map(|check| check.mismatches).sum(),
            callbacks: callbacks(|part| part.callbacks),
            callbacks_expected: callbacks(|part| part.callbacks_expected),
            seconds,
            devices,
            parts,
            unusable,
        }
    }

    /// Whether every texel was right, and every notification was made.
    pub(crate) fn is_proved(&self) -> bool {
        self.texels_verified > 0
            && self.mismatches == 0
            && self.callbacks >= self.callbacks_expected
    }
}

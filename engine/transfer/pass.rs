//! The two sides of a route, and the passes of a proof between them: plain names.

use std::fmt;

/// One of the two devices of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The device that the route starts from: the exporter, where there is one.
    First,
    /// The device that the route leads to.
    Second,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

/// A part of a proof: who writes the memory, and who reads it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pass {
    /// The first device's shaders write, those of the second one read.
    FirstToSecond,
    /// The second device's shaders write, those of the first one read.
    SecondToFirst,
    /// The host writes, both devices read.
    HostToDevices,
    /// Each device writes, the host reads.
    DevicesToHost,
    /// Each device copies on its queue for moves, the other one reads.
    Moves,
}

impl Pass {
    /// Every pass.
    pub const ALL: &[Self] = &[
        Self::FirstToSecond,
        Self::SecondToFirst,
        Self::HostToDevices,
        Self::DevicesToHost,
        Self::Moves,
    ];

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstToSecond => "first_to_second",
            Self::SecondToFirst => "second_to_first",
            Self::HostToDevices => "host_to_devices",
            Self::DevicesToHost => "devices_to_host",
            Self::Moves => "moves",
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstToSecond => "from the first to the second device",
            Self::SecondToFirst => "from the second to the first device",
            Self::HostToDevices => "from the host to the devices",
            Self::DevicesToHost => "from the devices to the host",
            Self::Moves => "copied on the queue for moves",
        })
    }
}

//! A cell: the time of one combination of what was varied, what bounds it, and what that says.

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::pci::Hop;

/// One combination of what was varied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Bytes that arrive in one operation, of all its copies together; null if nothing was measured.
    pub(crate) bytes: Option<u64>,
    /// The time of one operation, from its submission until the consumer has seen the last byte.
    pub(crate) summary: Option<Summary>,
    /// The same by the device's timestamps; null where they are not valid.
    pub(crate) device_summary: Option<Summary>,
    /// The time of one copy of several that were queued while the queue was held: without submissions and wake-ups. Null
    /// where the copy is no command of a main queue, or several copies run at once. Earlier runs do not have it.
    #[serde(default)]
    pub(crate) queued_summary: Option<Summary>,
    /// The times that the summary is of, one list for each round, in nanoseconds. May be empty: a saved run need not
    /// keep them.
    pub(crate) samples_ns: Vec<Vec<f64>>,
    pub(crate) ended: Option<Ended>,
    /// What limits the speed as the machine is now; null if nothing is known that does.
    pub(crate) bound: Option<Bound>,
    /// What would limit it if the link were as fast as the device can make it; null where that is the same.
    pub(crate) bound_at_best: Option<Bound>,
    pub(crate) verdict: Verdict,
    /// Why it is slower than it should be: what can be shown, most important first.
    pub(crate) causes: Vec<Cause>,
    /// The links on the path, read while the copy ran.
    pub(crate) loaded: Vec<Hop>,
    /// Whether the host's cache holds the memory that the host reads or writes; null if the host touches none, or if
    /// that is not known.
    pub(crate) host_cached: Option<bool>,
    /// Null if the bytes were not compared.
    pub(crate) verified: Option<Verified>,
    pub(crate) counters: Option<Counters>,
    /// Why nothing was measured, or what a reader must know.
    pub(crate) note: Option<String>,
}

/// Times of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) samples: u64,
    pub(crate) rounds: u64,
    /// The median, and its 95 % interval.
    pub(crate) median_ns: f64,
    pub(crate) lo_ns: f64,
    pub(crate) hi_ns: f64,
    pub(crate) min_ns: f64,
    pub(crate) max_ns: f64,
    /// How far the medians of the rounds differ beyond what the samples within rounds explain, as a part of the median;
    /// null if they do not, or if there are too few rounds to tell.
    pub(crate) drift: Option<f64>,
}

/// Why the measurement of a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// The interval of the median was narrow enough.
    Narrow,
    /// The time for this cell was used.
    Time,
    /// The run was ended: a time limit, Ctrl-C, a lost device.
    Stopped,
}

/// A limit of the speed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) bytes_per_second: f64,
    pub(crate) source: BoundSource,
    /// Such as `PCIe 16 GT/s × 16 of 0000:01:00.0`.
    pub(crate) why: String,
}

/// Where a limit is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BoundSource {
    /// The width and the speed of a PCIe link.
    Link,
    /// The host's memory, as this run measured it.
    HostMemory,
    /// The device's own memory, as this run measured it.
    DeviceMemory,
}

/// Where the speed stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Bytes arrived that were not sent.
    WrongBytes,
    /// Faster than the bound: a fault of the benchmark.
    MoreThanPossible,
    /// Less than 80 % of the bound, and the causes say why.
    LessBecause,
    /// Less than 80 % of the bound, and nothing that can be seen says why.
    Less,
    /// At least 80 % of the bound.
    AsExpected,
    /// Measured, but no bound is known, or the copy is so small that its fixed cost counts most.
    NotJudged,
    /// Nothing was measured; the note says why.
    NotMeasured,
}

/// A reason for less speed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cause {
    pub(crate) kind: CauseKind,
    /// What was seen, such as `bridge 0000:00:01.1 has 4 lanes, and 0000:01:00.0 could use 16`.
    pub(crate) evidence: String,
    /// Whether it is shown to cost speed, or only may do so.
    pub(crate) certain: bool,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CauseKind {
    /// Fewer lanes than the device has.
    NarrowLink,
    /// A lower speed per lane than the device has.
    SlowLink,
    /// A bridge above the device has fewer lanes, or slower ones.
    NarrowBridge,
    /// The device was suspended while it should have copied.
    Asleep,
    /// The device and its partner are on different NUMA nodes.
    FarNode,
    /// The host sees only a part of the device's memory.
    SmallBar,
    /// The bytes cross two links and host memory.
    ThroughHost,
    /// The host's cache does not hold the memory that it reads.
    Uncached,
    /// Devices' addresses are translated.
    Iommu,
    /// A bridge sends what passes between two devices up to the root.
    AccessControl,
    /// Both directions ran, and one of them took the speed.
    Starved,
    /// The device is a program on the host.
    SoftwareDevice,
}

/// What a comparison of all bytes found, through the consumer and outside of the timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) bytes: u64,
    pub(crate) wrong_bytes: u64,
}

/// Exact counts of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Bytes that were copied, over bytes that arrived.
    pub(crate) copies_per_byte: Option<f64>,
    pub(crate) submissions: Option<u64>,
    pub(crate) allocations: Option<u64>,
}

//! What is varied, and so names a cell.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a cell measured: two cells with equal keys, of one run or of two, measured the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) from: End,
    pub(crate) to: End,
    /// How both ends reach the bytes: the name of a route, `local`, or that of another way.
    pub(crate) way: String,
    pub(crate) engine: CopyEngine,
    pub(crate) direction: Direction,
    /// Which end carries the copy out.
    pub(crate) actor: Actor,
    /// Bytes of one copy.
    pub(crate) size_bytes: u64,
    pub(crate) pattern: Pattern,
    /// How many processes take part.
    pub(crate) processes: u32,
}

/// One end of a copy. In JSON `host`, `all`, or `device0` with the device's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum End {
    Host,
    /// A device, by its index in the run.
    Device(u32),
    /// All other devices.
    All,
}

/// What carries a copy out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CopyEngine {
    /// A copy command on the queue for moves.
    TransferQueue,
    /// A copy command on the main queue.
    MainQueue,
    /// A compute pass on the main queue.
    Compute,
    /// Loads and stores of a host thread.
    Host,
    /// Those that pass the cache by.
    HostStreaming,
    /// Both devices, by way of a ring in host memory.
    Ring,
    /// Several of these, for copies that run at once.
    Several,
    /// Commands that another project's program chose.
    Other,
}

/// Which directions run at once. The way back alone is the cell whose ends are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// From `from` to `to`, and nothing else.
    There,
    /// The part from `from` to `to`, while both run.
    BothThere,
    /// The part from `to` to `from`, while both run.
    BothBack,
    /// Both together.
    BothSum,
}

/// Which end carries the copy out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Actor {
    /// The device whose memory it is; it writes to the other one's, or reads from it.
    Exporter,
    /// The device that imported the memory.
    Importer,
    Host,
    /// Both, one after the other.
    Both,
}

/// Which pairs are busy at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pattern {
    Pair,
    OneToAll,
    AllToOne,
    AllPairs,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Device(index) => write!(f, "device{index}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl From<End> for String {
    fn from(end: End) -> Self {
        end.to_string()
    }
}

impl TryFrom<String> for End {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "host" => Ok(Self::Host),
            "all" => Ok(Self::All),
            other => other
                .strip_prefix("device")
                .and_then(|index| index.parse().ok())
                .map(Self::Device)
                .ok_or_else(|| format!("{other:?} is not `host`, `all` or `device` and a number")),
        }
    }
}

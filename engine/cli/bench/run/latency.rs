//! How long operations take whose size does not matter.

use serde::{Deserialize, Serialize};

use super::key::End;

/// The times of one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    #[serde(flatten)]
    pub(crate) key: LatencyKey,
    /// Null if nothing was measured; the note says why.
    pub(crate) percentiles: Option<Percentiles>,
    pub(crate) note: Option<String>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct LatencyKey {
    /// `submit_and_wait`, `share`, `cached_share`, `migrate_4k`, `callback_fan_out`, …
    pub(crate) operation: String,
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) way: Option<String>,
    /// How many processes take part.
    pub(crate) processes: u32,
}

/// The distribution of the times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) samples: u64,
    pub(crate) p50_ns: f64,
    /// The 95 % interval of the median.
    pub(crate) p50_lo_ns: f64,
    pub(crate) p50_hi_ns: f64,
    pub(crate) p90_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) max_ns: f64,
}

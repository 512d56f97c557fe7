//! Which ways lead from one device to another.

use serde::{Deserialize, Serialize};

use super::key::End;

/// The ways from one device to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) from: End,
    pub(crate) to: End,
    /// The way that the engine chooses; null if there is none.
    pub(crate) chosen: Option<String>,
    /// How the second device's queue waits for the first one's work.
    pub(crate) wait: Option<String>,
    /// Every way, the best first.
    pub(crate) ways: Vec<AccessWay>,
}

/// One way, and what came of its proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AccessWay {
    pub(crate) way: String,
    pub(crate) state: WayState,
    /// Why it is not there; null if it is proved.
    pub(crate) reason: Option<String>,
    /// How fast the second device read the bytes of the proof.
    pub(crate) read_bytes_per_second: Option<f64>,
}

/// What came of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WayState {
    Proved,
    Refused,
    /// A device was busy or full.
    Untried,
}

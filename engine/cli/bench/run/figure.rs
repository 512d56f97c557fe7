//! A figure of the project: a number beside its baseline and its target.

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) value: f64,
    /// The 95 % interval; equal to the value for an exact count.
    pub(crate) lo: f64,
    pub(crate) hi: f64,
    pub(crate) unit: String,
    /// What it is compared with; null for counts.
    pub(crate) baseline: Option<String>,
    /// Null for a figure without a target.
    pub(crate) target: Option<f64>,
    pub(crate) direction: Target,
    /// Medians of one operation.
    pub(crate) seconds: Option<f64>,
    pub(crate) baseline_seconds: Option<f64>,
}

/// Which side of a target is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast,
    AtMost,
}

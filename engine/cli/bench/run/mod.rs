//! A run of a benchmark as data: what `peerbuf bench link` and the project's figures save, and what is shown and
//! compared.
//!
//! The unit of a number is in its name; what was not measured, or cannot be seen, is null. Within one `schema` fields
//! are added, never changed or removed. `docs/bench.schema.json` is the same as a JSON schema, and a test compares them.
//!
//! These files are plain data and have no functions: `benches/figures` compiles them as well.

mod access;
mod cell;
mod figure;
mod key;
mod latency;
mod machine;
mod pci;

use serde::{Deserialize, Serialize};

// All of each file: what one program does not use, another one does.
pub(crate) use access::*;
pub(crate) use cell::*;
pub(crate) use figure::*;
pub(crate) use key::*;
pub(crate) use latency::*;
pub(crate) use machine::*;
pub(crate) use pci::*;

/// The version of the format. Version 1 is that of the figures before `peerbuf bench` existed.
pub(crate) const SCHEMA: u32 = 2;

/// Everything that one run of a benchmark found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) schema: u32,
    pub(crate) program: Program,
    /// Whether few rounds were measured (`--quick`).
    pub(crate) quick: bool,
    /// Why the run ended before everything was measured; null if nothing was left out.
    pub(crate) ended_early: Option<String>,
    pub(crate) started_unix_seconds: Option<u64>,
    pub(crate) duration_seconds: Option<f64>,
    pub(crate) tool: Tool,
    pub(crate) machine: Machine,
    pub(crate) devices: Vec<Device>,
    /// One operation compared with itself, one line for each class of sizes.
    pub(crate) noise: Vec<Noise>,
    /// One for each ordered pair of devices.
    pub(crate) access: Vec<Access>,
    /// One for each combination of what was varied.
    pub(crate) cells: Vec<Cell>,
    pub(crate) latency: Vec<Latency>,
    pub(crate) figures: Vec<Figure>,
}

/// What was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    /// `peerbuf bench link`.
    Link,
    /// `cargo bench --bench figures`.
    Figures,
    /// Another project's program, whose cells were converted.
    Other,
}

/// The program, as it was built and started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The commit that it was built from; null where that is not known.
    pub(crate) commit: Option<String>,
    pub(crate) command: Vec<String>,
    /// `release` or `debug`.
    pub(crate) build: String,
}

/// One operation measured as both contenders of a comparison: without noise the ratio is 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noise {
    pub(crate) what: String,
    /// The size of the operation; null where it has none.
    pub(crate) size_bytes: Option<u64>,
    /// The median of the ratios, and its 95 % interval.
    pub(crate) ratio: f64,
    pub(crate) ratio_lo: f64,
    pub(crate) ratio_hi: f64,
    /// Of one operation.
    pub(crate) median_ns: f64,
}

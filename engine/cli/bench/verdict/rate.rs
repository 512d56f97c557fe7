//! The speed of a cell, and how it relates to its bound.

use super::super::run::{BoundSource, Cell};

/// The fixed cost of a smaller copy counts so much that its speed says little about a link.
pub(crate) const JUDGED_BYTES: u64 = 4 << 20;

/// Bytes per second of a cell, by its median; `None` if it was not measured.
pub(crate) fn speed(cell: &Cell) -> Option<f64> {
    speed_at(cell, cell.summary?.median_ns)
}

pub(super) fn speed_at(cell: &Cell, ns: f64) -> Option<f64> {
    // CAST: numbers of bytes are far below 2⁵³.
    cell.bytes.filter(|_| ns > 0.0).map(|bytes| bytes as f64 * 1e9 / ns)
}

/// The part of what the hardware can do; `None` if no bound is known.
pub(crate) fn share(cell: &Cell) -> Option<f64> {
    let bound = cell.bound_at_best.as_ref().or(cell.bound.as_ref())?;
    Some(speed(cell)? / bound.bytes_per_second)
}

/// How far above a bound a speed may be before that is a fault.
pub(super) fn slack(source: BoundSource) -> f64 {
    match source {
        // It is arithmetic.
        BoundSource::Link => 1.02,
        // It is a measurement, of memory that other programs use as well.
        BoundSource::HostMemory | BoundSource::DeviceMemory => 1.6,
    }
}

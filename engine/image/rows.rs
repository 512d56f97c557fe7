//! Proves images over rows between two devices, once for each format.

use std::sync::Arc;

use super::extent::Shape;
use super::fourcc::Fourcc;
use super::known_rows::Rows;
use super::negotiate::Rung;
use super::proofs::{ImageProofs, verdict};
use super::verdict::{ImageVerdict, ImageVerdictError, LayoutResult};
use crate::core::Core;
use crate::device::DeviceInner;
use crate::error::Error;

/// A size at which drivers that pad rows to 256 bytes place them as those that do not.
const ROWS_ALIKE: Shape = Shape::new(512, 64);

/// Which images over rows carry texels between two devices: written on one and read on the other, and back. `None` if that
/// could not be tried; the devices are then asked again after a while, and not at each call.
///
/// # Errors
///
/// [`Error::FdLimit`].
///
/// Locks: none may be held; the first call for a format and a pair of devices waits for devices.
pub(crate) fn prove_rows(
    core: &Core,
    proofs: &ImageProofs,
    [a, b]: [&Arc<DeviceInner>; 2],
    fourcc: Fourcc,
) -> Result<Option<Rows>, Error> {
    if a.id() == b.id() {
        return Ok(Some(Rows::ALL));
    }
    let ids = [a.id(), b.id()];
    if let Some(known) = proofs.rows.get(fourcc, ids, core.age()) {
        return Ok(known);
    }
    let mut said = Some(Rows::ALL);
    for pair in [(a, b), (b, a)] {
        let one = match verdict(core, proofs, pair, fourcc, ROWS_ALIKE) {
            Ok(verdict) => rows_of(&verdict),
            Err(ImageVerdictError::Engine(error @ Error::FdLimit { .. })) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, %fourcc, from = pair.0.name(), "rows are not tried");
                None
            }
        };
        said = said.zip(one).map(|(said, one)| said.and(one));
        if said.is_none_or(|said| said == Rows::NONE) {
            break;
        }
    }
    proofs.rows.note(fourcc, ids, (said, core.age()));
    Ok(said)
}

/// What a verdict says of rows; `None` if a way to share them could not be tried. A way that no probe was made of is
/// refused: a device does not offer it, or places rows elsewhere.
fn rows_of(verdict: &ImageVerdict) -> Option<Rows> {
    let mut rows = Rows::NONE;
    for layout in &verdict.layouts {
        let way = match layout.candidate.rung() {
            Rung::LinearTiling => &mut rows.linear,
            Rung::SharedLinear => &mut rows.stated,
            _ => continue,
        };
        match layout.result {
            LayoutResult::Proved(_) => *way = true,
            LayoutResult::Refused(_) => {}
            LayoutResult::Untried(_) => return None,
        }
    }
    Some(rows)
}

#[cfg(all(test, peerbuf_shuttle))]
impl ImageProofs {
    /// Takes images over rows for proved between two devices.
    pub(crate) fn assume_rows(&self, fourcc: Fourcc, pair: [crate::DeviceId; 2]) {
        self.rows.note(fourcc, pair, (Some(Rows::ALL), std::time::Duration::ZERO));
    }
}

//! Bytes in tiles, which no other domain has.

use std::sync::Arc;

use crate::device::{DeviceInner, Waits};
use crate::error::Result;
use crate::sync::Fence;
use crate::transfer::Span;

/// What has put the bytes of a buffer into tiles, and brings them back into rows. A move to another domain asks for rows,
/// since the tiles are for devices that use this one.
pub(crate) trait TiledBytes: Send + Sync {
    /// Submits a copy to the main queue of a device, behind `waits`: out of the tiles in the first span, to rows in the
    /// second one. With `zero`, all other bytes of that become zero. Called under the reservation.
    ///
    /// # Errors
    ///
    /// Those of creating an image, and of submitting. Then nothing was submitted, but by a lost device.
    fn copy_to_rows(
        &self,
        device: &Arc<DeviceInner>,
        waits: Waits,
        spans: [Span<'_>; 2],
        zero: bool,
    ) -> Result<Fence>;

    /// The bytes are, or will be, rows. Called under the reservation, after the copy was submitted.
    fn are_rows(&self);
}

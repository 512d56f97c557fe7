//! A device's seat at a buffer.

use std::fmt;
use std::sync::Arc;

use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::state::{AttachmentId, FirstCounter};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::observe::Object;

/// A device's seat at a [`SharedBuffer`], from [`SharedBuffer::attach`] or
/// [`SharedBuffer::attach_dynamic`].
///
/// A *static* one keeps the buffer where it is while it is mapped, and only then (the kernel pins for
/// importers without callbacks in `dma_buf_map_attachment`). A *dynamic* one has an [`crate::Importer`] that is
/// told when the buffer moves, and lets it move at any time.
///
/// Dropping it gives the seat up; mappings that are still alive stay valid and keep the seat until
/// they go, or are old.
#[doc(alias = "dma_buf_attachment")]
pub struct Attachment {
    pub(super) buffer: Arc<BufferInner>,
    pub(super) first_pins: FirstCounter,
    pub(super) seat: AttachmentId,
    pub(super) device: DeviceId,
    pub(super) dynamic: bool,
}

impl Attachment {
    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device(Arc::clone(self.device_inner()))
    }

    /// Whether it is told when the buffer moves.
    #[doc(alias = "dma_buf_attachment_is_dynamic")]
    pub fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    pub(in crate::buffer) fn buffer_inner(&self) -> &Arc<BufferInner> {
        &self.buffer
    }

    pub(in crate::buffer) fn device_inner(&self) -> &Arc<DeviceInner> {
        &self.buffer.core().member(self.device).device
    }

    pub(in crate::buffer) fn device_id(&self) -> DeviceId {
        self.device
    }

    pub(in crate::buffer) fn first_pins(&self) -> &FirstCounter {
        &self.first_pins
    }

    pub(in crate::buffer) fn seat(&self) -> AttachmentId {
        self.seat
    }

    /// Gives the seat up, if nobody has the buffer mapped by it where the buffer is now.
    ///
    /// Mappings of places that a move has left do not count: they stay valid until they are dropped,
    /// whatever becomes of the seat, and are in the report by their device
    /// ([`crate::observe::BufferReport::ghosts`]).
    ///
    /// # Errors
    ///
    /// [`Error::StillMapped`], with the attachment, which then still is one.
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_detach")]
    pub fn detach(self) -> Result<(), DetachError> {
        let mapped = self.buffer.lock().mapped_by(self.seat);
        if mapped == 0 {
            return Ok(());
        }
        let error = Error::StillMapped {
            buffer: self.buffer.name(),
            device: self.device_inner().name().to_owned(),
            mapped,
        };
        Err(DetachError { attachment: self, error: Box::new(error) })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let importer = self.buffer.lock().leave(self.seat);
        drop(importer);
        self.buffer.core().live.died(Object::Attachment);
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("buffer", &self.buffer.name())
            .field("device", &self.device_inner().name())
            .field("dynamic", &self.dynamic)
            .finish_non_exhaustive()
    }
}

/// Why an attachment could not be given up, with the attachment.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct DetachError {
    attachment: Attachment,
    // Boxed: the error is large, and the usual result is `Ok`.
    error: Box<Error>,
}

impl DetachError {
    /// The attachment, as it was.
    pub fn into_attachment(self) -> Attachment {
        self.attachment
    }
}

impl From<DetachError> for Error {
    fn from(error: DetachError) -> Self {
        *error.error
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Attachment>();
};

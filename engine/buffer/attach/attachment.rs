//! The attachment of a device to a buffer.

use std::fmt;
use std::sync::Arc;

use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::state::{AttachmentId, FirstCounter};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::observe::Object;

/// A device's attachment to a [`SharedBuffer`], from [`SharedBuffer::attach`] or
/// [`SharedBuffer::attach_dynamic`].
///
/// A *static* attachment keeps the buffer in its backing while it is mapped, and only then. The kernel does the
/// same for importers without callbacks: `dma_buf_map_attachment` pins. A *dynamic* attachment has a
/// [`crate::Importer`] that is notified when the buffer moves, so the buffer can move at any time.
///
/// Dropping the attachment detaches the device. Live mappings stay valid; while one of the current generation
/// is alive, the buffer keeps its entry for the device.
#[doc(alias = "dma_buf_attachment")]
pub struct Attachment {
    pub(super) buffer: Arc<BufferInner>,
    pub(super) first_pins: FirstCounter,
    pub(super) id: AttachmentId,
    pub(super) device: DeviceId,
    pub(super) dynamic: bool,
}

impl Attachment {
    /// Returns the buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        Device(Arc::clone(self.device_inner()))
    }

    /// Whether the attachment has an importer, which is notified when the buffer moves.
    #[doc(alias = "dma_buf_attachment_is_dynamic")]
    pub fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    pub(in crate::buffer) fn buffer_inner(&self) -> &Arc<BufferInner> {
        &self.buffer
    }

    pub(super) fn device_inner(&self) -> &Arc<DeviceInner> {
        &self.buffer.core().member(self.device).device
    }

    pub(super) fn device_id(&self) -> DeviceId {
        self.device
    }

    pub(super) fn first_pins(&self) -> &FirstCounter {
        &self.first_pins
    }

    pub(super) fn id(&self) -> AttachmentId {
        self.id
    }

    /// Detaches the device, if the attachment has no live mapping of the current generation.
    ///
    /// Mappings of earlier generations do not count: they stay valid until they are dropped, with or without
    /// the attachment. The report lists them by device ([`crate::observe::BufferReport::ghosts`]).
    ///
    /// # Errors
    ///
    /// [`Error::StillMapped`], with the attachment, which is unchanged.
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_detach")]
    pub fn detach(self) -> Result<(), DetachError> {
        let mapped = self.buffer.lock().mapped_by(self.id);
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
        let id = self.id;
        self.buffer.core().live.died(Object::Attachment);
        // The importer is the application's code, so it is dropped without the reservation.
        self.buffer.do_or_defer(move |_, state| state.detach(id).map(|it| Box::new(it) as _));
        self.buffer.core().give_back_many_views();
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

/// The error of [`Attachment::detach`], with the attachment that was not detached.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct DetachError {
    attachment: Attachment,
    // Boxed: the error is large, and the usual result is `Ok`.
    error: Box<Error>,
}

impl DetachError {
    /// Returns the attachment, which is unchanged.
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

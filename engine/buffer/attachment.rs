//! A device's seat at a buffer.

use std::fmt;
use std::sync::Arc;

use super::access::Access;
use super::mapping::Mapping;
use super::relocate::{self, Seats};
use super::shared::{BufferInner, SharedBuffer};
use super::state::{Seat, State};
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Result};
use crate::observe::Object;

/// A device's seat at a [`SharedBuffer`], from [`SharedBuffer::attach`].
///
/// It is *static* in the kernel's sense: the buffer may move while it is merely attached, and is kept
/// where it is while it is mapped (`dma_buf_map_attachment` pins for importers without callbacks).
///
/// Dropping it gives the seat up; mappings that are still alive stay valid and keep the seat until
/// they go.
#[doc(alias = "dma_buf_attachment")]
pub struct Attachment {
    buffer: Arc<BufferInner>,
    device: Arc<DeviceInner>,
}

impl Attachment {
    pub(super) fn new(buffer: &Arc<BufferInner>, device: &Arc<DeviceInner>) -> Result<Self> {
        buffer.core.check(device)?;
        let seated = {
            let mut state = buffer.lock();
            check_free(buffer, device, &mut state)?;
            // The usual case: somebody else's buffer in the same slab was here before.
            let known = state.backing.allocation().has_view(device.id());
            if known {
                sit(&mut state, device);
            }
            known
        };
        if !seated {
            Self::take_in(buffer, device)?;
        }
        buffer.core.live.born(Object::Attachment);
        Ok(Self { buffer: Arc::clone(buffer), device: Arc::clone(device) })
    }

    /// Makes the buffer reachable for `device`, moving it if need be, and sits down.
    #[cold]
    fn take_in(buffer: &Arc<BufferInner>, device: &Arc<DeviceInner>) -> Result<()> {
        // Each turn ends with a seat or an error, unless somebody else moved the buffer meanwhile.
        const TURNS: u32 = 100;
        for _ in 0..TURNS {
            let seats = Seats::gather(buffer, device)?;
            let mut state = buffer.lock();
            check_free(buffer, device, &mut state)?;
            if !seats.still_fit(&state) {
                continue;
            }
            let provider = state.backing.allocation().provider();
            if let Some(take) = seats.take(device.id(), provider) {
                state.backing.allocation().view(device, take)?;
                sit(&mut state, device);
                return Ok(());
            }
            drop(state);
            relocate::make_reachable(buffer, device, &seats)?;
        }
        Err(buffer.busy(&buffer.lock()))
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device(Arc::clone(&self.device))
    }

    /// Whether it is told when the buffer moves. No attachment is yet.
    #[doc(alias = "dma_buf_attachment_is_dynamic")]
    pub fn is_dynamic(&self) -> bool {
        false
    }

    /// Opens the buffer for the device: memory and `VkBuffer` at the place where it is now. The buffer
    /// stays there while the mapping lives.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], [`Error::FdLimit`], or what the import said.
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_map_attachment")]
    pub fn map(&self, access: Access) -> Result<Mapping> {
        let (buffer, device) = (&self.buffer, &self.device);
        loop {
            let mut state = buffer.lock();
            if let Some(view) = state.backing.allocation().existing_view(device.id()) {
                if let Some(seat) = state.seat(device.id()) {
                    seat.mapped += 1;
                }
                return Ok(Mapping::new(buffer, &mut state, view, access));
            }
            // Somebody moved it after this device sat down.
            let allocation = Arc::clone(state.backing.allocation());
            drop(state);
            allocation.view(device, buffer.take(allocation.provider(), device)?)?;
        }
    }

    /// Gives the seat up.
    ///
    /// # Errors
    ///
    /// [`Error::StillMapped`], with the attachment, which then still is one.
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_detach")]
    pub fn detach(self) -> Result<(), DetachError> {
        let mapped = self.buffer.lock().seat(self.device.id()).map_or(0, |seat| seat.mapped);
        if mapped == 0 {
            return Ok(());
        }
        let error = Error::StillMapped {
            buffer: self.buffer.name(),
            device: self.device.name().to_owned(),
            mapped,
        };
        Err(DetachError { attachment: self, error: Box::new(error) })
    }
}

fn check_free(buffer: &BufferInner, device: &DeviceInner, state: &mut State) -> Result<()> {
    match state.seat(device.id()) {
        Some(Seat { attached: true, .. }) => {
            Err(Error::AlreadyAttached { buffer: buffer.name(), device: device.name().to_owned() })
        }
        _ => Ok(()),
    }
}

fn sit(state: &mut State, device: &DeviceInner) {
    match state.seat(device.id()) {
        Some(seat) => seat.attached = true,
        None => state.seats.push(Seat { device: device.id(), attached: true, mapped: 0 }),
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        if let Some(seat) = state.seat(self.device.id()) {
            seat.attached = false;
        }
        state.sweep(self.device.id());
        drop(state);
        self.buffer.core.live.died(Object::Attachment);
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("buffer", &self.buffer.name())
            .field("device", &self.device.name())
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

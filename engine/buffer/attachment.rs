//! A device's seat at a buffer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::access::Access;
use super::attract::learn_prices;
use super::importer::Importer;
use super::mapping::Mapping;
use super::pin::Pin;
use super::pins::FirstLine;
use super::relief::with_relief;
use super::relocate::make_reachable;
use super::remap::open;
use super::seats::{Guest, Seats};
use super::shared::{BufferInner, SharedBuffer};
use super::state::{SeatId, State};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::observe::Object;
use crate::sync::Usage;

/// A device's seat at a [`SharedBuffer`], from [`SharedBuffer::attach`] or
/// [`SharedBuffer::attach_dynamic`].
///
/// A *static* one keeps the buffer where it is while it is mapped, and only then (the kernel pins for
/// importers without callbacks in `dma_buf_map_attachment`). A *dynamic* one has an [`Importer`] that is
/// told when the buffer moves, and lets it move at any time.
///
/// Dropping it gives the seat up; mappings that are still alive stay valid and keep the seat until
/// they go, or are old.
#[doc(alias = "dma_buf_attachment")]
pub struct Attachment {
    buffer: Arc<BufferInner>,
    first_pins: FirstLine,
    seat: SeatId,
    device: DeviceId,
    dynamic: bool,
}

impl Attachment {
    pub(super) fn new(
        buffer: &Arc<BufferInner>,
        device: &Arc<DeviceInner>,
        importer: Option<Arc<dyn Importer>>,
    ) -> Result<Self> {
        buffer.core.check(device)?;
        buffer.core.give_up_lost();
        let newcomer = Newcomer::new(buffer, device, importer);
        let seat = match newcomer.sit_where_known(buffer)? {
            Some(seat) => seat,
            None => {
                with_relief(&buffer.core, device.id(), [&**buffer], || newcomer.take_in(buffer))?
            }
        };
        buffer.core.live.born(Object::Attachment);
        Ok(Self {
            buffer: Arc::clone(buffer),
            first_pins: FirstLine::default(),
            seat,
            device: device.id(),
            dynamic: newcomer.importer.is_some(),
        })
    }

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

    /// Keeps the buffer where it is until the guard is dropped, because of `reason`. Waits, in bounds,
    /// for a move that is under way.
    ///
    /// Pins for the same reason as the attachment's first one are cheap: two atomic operations each.
    ///
    /// # Errors
    ///
    /// [`Error::PinQuota`]; [`Error::Revoked`]; [`Error::Purged`], [`Error::Poisoned`] if that was found
    /// before, or by a pin that takes the reservation; [`Error::Timeout`], [`Error::DeviceLost`].
    ///
    /// Locks: the reservation, but not while waiting; none for the same reason as the first time, unless
    /// somebody has moved, revoked or found poisoned the buffer since, or tried to move it.
    #[doc(alias = "dma_buf_pin")]
    pub fn pin(&self, reason: impl Into<Cow<'static, str>>) -> Result<Pin> {
        Pin::new(self, reason.into())
    }

    /// Opens the buffer for the device: memory and `VkBuffer` at the place where it is now. The mapping of
    /// a static attachment keeps it there. Waits, in bounds, for a move that is under way.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`], [`Error::Unreachable`],
    /// [`Error::Timeout`], [`Error::DeviceLost`], [`Error::FdLimit`], or what the import said.
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "dma_buf_map_attachment")]
    pub fn map(&self, access: Access) -> Result<Mapping> {
        self.buffer.core.give_up_lost();
        let mut allowance = self.buffer.core.throttle.submission();
        self.buffer.come_back(self.device, &mut allowance);
        self.buffer.attract(self.device, &mut allowance);
        let (mut state, seen) = open(&self.buffer, self.device_inner())?;
        Ok(Mapping::new(&self.buffer, &mut state, self.seat, &seen, access))
    }

    pub(super) fn buffer_inner(&self) -> &Arc<BufferInner> {
        &self.buffer
    }

    pub(super) fn device_inner(&self) -> &Arc<DeviceInner> {
        &self.buffer.core.member(self.device).device
    }

    pub(super) fn device_id(&self) -> DeviceId {
        self.device
    }

    pub(super) fn first_pins(&self) -> &FirstLine {
        &self.first_pins
    }

    pub(super) fn seat(&self) -> SeatId {
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

/// Somebody who wants a seat.
struct Newcomer<'a> {
    device: &'a Arc<DeviceInner>,
    importer: Option<Arc<dyn Importer>>,
    guest: Guest,
}

impl<'a> Newcomer<'a> {
    fn new(
        buffer: &BufferInner,
        device: &'a Arc<DeviceInner>,
        importer: Option<Arc<dyn Importer>>,
    ) -> Self {
        let offers = importer.as_ref().is_none_or(|importer| importer.allow_peer2peer());
        let peer_to_peer = offers && buffer.peer_to_peer();
        Self { device, importer, guest: Guest { device: device.id(), peer_to_peer } }
    }

    /// Sits down if nothing has to be found out. The usual case: somebody else's buffer in the same slab
    /// was here before.
    fn sit_where_known(&self, buffer: &BufferInner) -> Result<Option<SeatId>> {
        let mut state = buffer.lock();
        self.check_free(buffer, &mut state)?;
        let allocation = buffer.backing(&state)?.allocation();
        let known = allocation.has_view(self.device.id())
            && self.guest.may_be_given(allocation.provider())
            && state.moving().is_none();
        Ok(known.then(|| self.sit(&mut state)))
    }

    /// Makes the buffer reachable, moving it if need be, and sits down.
    #[cold]
    fn take_in(&self, buffer: &Arc<BufferInner>) -> Result<SeatId> {
        // Each turn ends with a seat or an error, unless somebody else moved the buffer meanwhile.
        const TURNS: u32 = 100;
        learn_prices(buffer, self.device);
        for _ in 0..TURNS {
            let kinds = buffer.placement().kinds();
            let home = buffer.home();
            let seats = Seats::gather(buffer, &home, kinds, Some(self.guest))?;
            let mut state = buffer.lock_idle(Usage::Move, |fence| fence.device().is_none())?;
            self.check_free(buffer, &mut state)?;
            if !seats.still_fit(buffer, &state) || !seats.were_at(&home) {
                continue;
            }
            let provider = state.place.provider();
            if let Some(take) = seats.take(self.guest, provider) {
                buffer.backing(&state)?.allocation().view(self.device, take)?;
                return Ok(self.sit(&mut state));
            }
            drop(state);
            make_reachable(buffer, &home, (self.device, self.guest), &seats)?;
        }
        Err(buffer.busy(&buffer.lock()))
    }

    fn check_free(&self, buffer: &BufferInner, state: &mut State) -> Result<()> {
        buffer.check_usable(state)?;
        if self.importer.is_none() && state.has_static_seat(self.device.id()) {
            return Err(Error::AlreadyAttached {
                buffer: buffer.name(),
                device: self.device.name().to_owned(),
            });
        }
        Ok(())
    }

    fn sit(&self, state: &mut State) -> SeatId {
        state.sit(self.guest, self.importer.clone())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let importer = self.buffer.lock().leave(self.seat);
        drop(importer);
        self.buffer.core.live.died(Object::Attachment);
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

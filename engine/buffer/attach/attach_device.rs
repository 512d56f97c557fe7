//! Attaching a device: reach the buffer, move it if need be, list the attachment last.

use std::sync::Arc;

use super::attachment::Attachment;
use crate::buffer::eviction::learn_access_costs;
use crate::buffer::migration::{MoveOutcome, MoveRequest, no_path, relocate};
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{ImportMatrix, retry_on_oom};
use crate::buffer::state::{AttachCaps, AttachmentId, FirstCounter, Importer, State};
use crate::core::BackingRequest;
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::Placement;
use crate::observe::{MoveCause, Object};
use crate::residency::Trigger;
use crate::sync::Usage;

impl Attachment {
    pub(in crate::buffer) fn new(
        buffer: &Arc<BufferInner>,
        device: &Arc<DeviceInner>,
        importer: Option<Arc<dyn Importer>>,
    ) -> Result<Self> {
        buffer.core().check(device)?;
        buffer.set.handle_lost_devices();
        let newcomer = PendingAttach::new(buffer, device, importer);
        let seat = match newcomer.sit_where_known(buffer)? {
            Some(seat) => seat,
            None => {
                retry_on_oom(&buffer.set, device.id(), [&**buffer], || newcomer.take_in(buffer))?
            }
        };
        buffer.core().live.born(Object::Attachment);
        Ok(Self {
            buffer: Arc::clone(buffer),
            first_pins: FirstCounter::default(),
            seat,
            device: device.id(),
            dynamic: newcomer.importer.is_some(),
        })
    }
}

/// Somebody who wants a seat.
struct PendingAttach<'a> {
    device: &'a Arc<DeviceInner>,
    importer: Option<Arc<dyn Importer>>,
    guest: AttachCaps,
}

impl<'a> PendingAttach<'a> {
    pub(in crate::buffer) fn new(
        buffer: &BufferInner,
        device: &'a Arc<DeviceInner>,
        importer: Option<Arc<dyn Importer>>,
    ) -> Self {
        let offers = importer.as_ref().is_none_or(|importer| importer.allow_peer2peer());
        let peer_to_peer = offers && buffer.peer_to_peer();
        Self { device, importer, guest: AttachCaps { device: device.id(), peer_to_peer } }
    }

    /// Sits down if nothing has to be found out. The usual case: somebody else's buffer in the same slab
    /// was here before.
    fn sit_where_known(&self, buffer: &BufferInner) -> Result<Option<AttachmentId>> {
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
    fn take_in(&self, buffer: &Arc<BufferInner>) -> Result<AttachmentId> {
        // Each turn ends with a seat or an error, unless somebody else moved the buffer meanwhile.
        const TURNS: u32 = 100;
        learn_access_costs(buffer, self.device);
        for _ in 0..TURNS {
            let kinds = buffer.placement().kinds();
            let home = buffer.home();
            let seats = ImportMatrix::gather(buffer, &home, kinds, Some(self.guest))?;
            let mut state = buffer.lock_idle(Usage::Move, |fence| fence.device().is_none())?;
            self.check_free(buffer, &mut state)?;
            if !seats.still_fit(buffer, &state) || !seats.were_at(&home) {
                continue;
            }
            let provider = state.location.provider();
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
        if self.importer.is_none() && state.has_static_attachment(self.device.id()) {
            return Err(Error::AlreadyAttached {
                buffer: buffer.name(),
                device: self.device.name().to_owned(),
            });
        }
        Ok(())
    }

    fn sit(&self, state: &mut State) -> AttachmentId {
        state.sit(self.guest, self.importer.clone())
    }
}

impl SharedBuffer {
    /// Gives `device` a seat.
    ///
    /// The buffer must live where every attached device can reach it. If this one cannot reach it
    /// where it is, it moves, within its placement, provided that nobody holds it; the first
    /// attachment of a pair of drivers also proves the routes between them, which takes some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyAttached`]; [`Error::Unreachable`] with every route that was considered;
    /// [`Error::Busy`] if it would have to move and is held; [`Error::Revoked`], [`Error::Purged`],
    /// [`Error::Poisoned`], [`Error::OutOfMemory`], [`Error::FdLimit`]. None of them changes anything.
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_attach")]
    pub fn attach(&self, device: &Device) -> Result<Attachment> {
        Attachment::new(&self.0, &device.0, None)
    }

    /// Gives `device` a seat with an importer that is told when the buffer moves, and so does not keep it
    /// from moving. A device may have several of these.
    ///
    /// Construct the importer fully first: it may be called back as soon as it is listed, before this
    /// returns (the kernel's CVE-2026-52951 was an attachment that was published too early).
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::attach`].
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_dynamic_attach")]
    pub fn attach_dynamic(
        &self,
        device: &Device,
        importer: Arc<dyn Importer>,
    ) -> Result<Attachment> {
        Attachment::new(&self.0, &device.0, Some(importer))
    }
}

/// Moves the buffer to where `newcomer` and everybody at it can reach it, within its placement.
pub(in crate::buffer) fn make_reachable(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    (newcomer, guest): (&Arc<DeviceInner>, AttachCaps),
    seats: &ImportMatrix,
) -> Result<()> {
    let unreachable = || buffer.unreachable(newcomer, seats);
    if !buffer.can_move() {
        return Err(unreachable());
    }
    let accept = |provider| seats.all_take(provider);
    // Nobody goes back to a device that was given up.
    let abandoned = buffer.core().member(home.id()).is_unplugged();
    let placement = if abandoned { Placement::System } else { buffer.placement() };
    let (size, group) = (buffer.size, buffer.group());
    let wish = BackingRequest { home, placement, size, dedicated: false, group };
    let limits = buffer.core().eviction_limits(buffer.trigger());
    let new = buffer.set.allocate(&wish, &limits, accept)?;
    let new = new.ok_or_else(unreachable)?;
    // Its view of the new place before anything moves: a newcomer that fails has moved nobody.
    let take = seats.take(guest, new.allocation().provider()).ok_or_else(unreachable)?;
    new.allocation().view(newcomer, take)?;
    match relocate(
        buffer,
        home,
        seats,
        new.into(),
        MoveRequest::to_new(MoveCause::Reach, Trigger::Device(newcomer.id())),
    )? {
        MoveOutcome::Moved | MoveOutcome::Retry | MoveOutcome::WouldBlock => Ok(()),
        MoveOutcome::NoPath => Err(no_path(home)),
    }
}

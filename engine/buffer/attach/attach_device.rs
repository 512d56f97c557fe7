//! Attaching a device: reach the buffer, move it if need be, list the attachment last.

use std::mem;
use std::sync::Arc;

use super::attachment::Attachment;
use crate::buffer::eviction::learn_access_costs;
use crate::buffer::migration::{MoveOutcome, MoveRequest, no_path, relocate};
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{Extent, ImportMatrix, home_at, retry_on_oom};
use crate::buffer::state::{AttachCaps, AttachmentId, FirstCounter, Importer, State};
use crate::core::BackingRequest;
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{DeviceSet, DomainId, DomainKind, ImportKind, Placement};
use crate::observe::{MoveCause, Object};
use crate::residency::{EvictionLimits, Trigger};
use crate::sync::Usage;

impl Attachment {
    fn new(
        buffer: &Arc<BufferInner>,
        device: &Arc<DeviceInner>,
        importer: Option<Arc<dyn Importer>>,
    ) -> Result<Self> {
        buffer.core().check(device)?;
        buffer.set.handle_lost_devices();
        let pending = PendingAttach::new(buffer, device, importer);
        let id = match pending.list_if_reachable(buffer)? {
            Some(id) => id,
            None => retry_on_oom(&buffer.set, device.id(), [&**buffer], || {
                pending.reach_and_list(buffer)
            })?,
        };
        buffer.core().live.born(Object::Attachment);
        Ok(Self {
            buffer: Arc::clone(buffer),
            first_pins: FirstCounter::default(),
            id,
            device: device.id(),
            dynamic: pending.importer.is_some(),
        })
    }
}

/// An attach that is in progress: the device, its importer, and what it can import.
struct PendingAttach<'a> {
    device: &'a Arc<DeviceInner>,
    importer: Option<Arc<dyn Importer>>,
    caps: AttachCaps,
}

impl<'a> PendingAttach<'a> {
    fn new(
        buffer: &BufferInner,
        device: &'a Arc<DeviceInner>,
        importer: Option<Arc<dyn Importer>>,
    ) -> Self {
        let offers = importer.as_ref().is_none_or(|importer| importer.allow_peer2peer());
        let peer_to_peer = offers && buffer.peer_to_peer();
        Self { device, importer, caps: AttachCaps { device: device.id(), peer_to_peer } }
    }

    /// Lists the attachment if the device can already reach the buffer. `None` if a route must be proved, an
    /// allocation imported, or the buffer moved, or if a move is in progress.
    ///
    /// In the usual case it can: the device has imported the slab before, for another buffer.
    fn list_if_reachable(&self, buffer: &BufferInner) -> Result<Option<AttachmentId>> {
        let mut state = buffer.lock();
        self.check_attachable(buffer, &mut state)?;
        let allocation = buffer.backing(&state)?.allocation();
        let may_be_used = !buffer.needs_restore(&state)
            && self.caps.accepts(allocation.provider())
            && state.moving().is_none();
        let Some(user) = may_be_used.then(|| allocation.use_view(self.device.id())).flatten()
        else {
            return Ok(None);
        };
        user.keep();
        let listed = self.list(&mut state);
        self.note_shared(buffer, None);
        Ok(Some(listed))
    }

    /// Makes the buffer reachable for the device, moving it if need be, and lists the attachment.
    #[cold]
    fn reach_and_list(&self, buffer: &Arc<BufferInner>) -> Result<AttachmentId> {
        // Each attempt ends with an attachment or an error, unless another thread moved the buffer meanwhile.
        const ATTEMPTS: u32 = 100;
        buffer.core().give_back_due_views();
        let _held = buffer.core().routes.hold_probes();
        learn_access_costs(buffer, self.device);
        let mut may_leave = true;
        // Whether the buffer's own provider, and its preferred domain, did not suit.
        let mut looks_further = false;
        // Whether the slab in which the attach has found the buffer was one of its sharers.
        let mut began_well = None;
        for _ in 0..ATTEMPTS {
            let allowed = buffer.placement().kinds();
            // Of a buffer that is kept elsewhere, its users have to reach the domain where they may use it.
            let (used_in, preferred, domain) = {
                let state = buffer.lock();
                let used_in = used_elsewhere(buffer, &state);
                (used_in, state.entry().preferred(), state.location().domain())
            };
            let home =
                used_in.map_or_else(|| Ok(buffer.home()), |domain| home_at(buffer, domain))?;
            let wanted = match used_in.is_some() || looks_further {
                true => (allowed, Extent::All),
                // A buffer that was evicted returns without a wait, so its way back is proved now.
                false if preferred != domain => (&[preferred.kind()][..], Extent::Enough),
                false => (&[][..], Extent::Enough),
            };
            let matrix = ImportMatrix::gather(buffer, &home, wanted, Some(self.caps))?;
            let mut state = buffer.lock_idle(Usage::Move, |fence| fence.device().is_none())?;
            self.check_attachable(buffer, &mut state)?;
            let is_current = matrix.is_current(buffer, &state)
                && used_in == used_elsewhere(buffer, &state)
                && (used_in.is_some() || matrix.home_was(&home));
            if !is_current {
                continue;
            }
            if let Some(domain) = used_in {
                if !matrix.all_can_import_in(domain.kind()) {
                    return Err(buffer.unreachable(self.device, &matrix));
                }
                if matrix.import_kind(self.caps, state.location().provider()).is_some() {
                    let allocation = buffer.backing(&state)?.allocation();
                    allocation.use_later_view(self.device.id()).keep();
                    return Ok(self.list(&mut state));
                }
                // Every attached device reaches the buffer where it is.
                drop(state);
                buffer.restore_for_use(self.device.id())?;
                continue;
            }
            let provider = state.location().provider();
            if let Some(kind) = matrix.import_kind(self.caps, provider) {
                let (backing, sharers) = (buffer.backing(&state)?, matrix.sharers());
                let is_known = backing.allocation().sharers().covers(sharers);
                let began_well = *began_well.get_or_insert(is_known);
                if may_leave && !backing.suits(sharers) && !is_held(&state) {
                    drop(state);
                    may_leave = leave_slab(buffer, &home, (self.device, kind), &matrix);
                    continue;
                }
                // Counted first, so that a view which the import makes, or finds, stays.
                let user = backing.allocation().use_later_view(self.device.id());
                buffer.core().view(backing.allocation(), self.device, kind)?;
                user.keep();
                let listed = self.list(&mut state);
                self.note_shared(buffer, (!began_well).then_some(sharers));
                return Ok(listed);
            }
            drop(state);
            if !mem::replace(&mut looks_further, true) {
                continue;
            }
            make_reachable(buffer, &home, (self.device, self.caps), &matrix)?;
        }
        Err(buffer.busy(&buffer.lock()))
    }

    /// Checks that the buffer may be used, and that the device has no static attachment yet if this one is
    /// static.
    fn check_attachable(&self, buffer: &BufferInner, state: &mut State) -> Result<()> {
        buffer.check_usable(state)?;
        // Under the reservation: a removal counts the attachments after it has set its mark.
        buffer.core().check(self.device)?;
        if self.importer.is_none() && state.has_static_attachment(self.device.id()) {
            return Err(Error::AlreadyAttached {
                buffer: buffer.name(),
                device: self.device.name().to_owned(),
            });
        }
        Ok(())
    }

    /// Notes, once for an attachment that is listed, whom the buffer is shared with. `wrong` are its sharers if it began
    /// in a slab of others.
    fn note_shared(&self, buffer: &BufferInner, wrong: Option<DeviceSet>) {
        let home = buffer.home_id();
        if self.device.id() != home {
            buffer.core().note_shared(home, (buffer.size, buffer.id()), wrong);
        }
    }

    /// Lists the attachment in the buffer's state. From then on its importer may be called at any time.
    fn list(&self, state: &mut State) -> AttachmentId {
        state.attach(self.caps, self.importer.clone())
    }
}

impl SharedBuffer {
    /// Attaches `device`, with a static attachment.
    ///
    /// Every attached device must be able to reach the backing that the buffer is in. If `device` cannot, the
    /// buffer moves within its placement, provided that no mapping, access or pin keeps it in place. If the device would
    /// import a slab of buffers that it does not share, the buffer moves to another slab, if it can
    /// ([`crate::SlabGrouping`]). A device that
    /// cannot reach a buffer where it may be used cannot attach, even while the buffer is evicted. The first
    /// attach of a pair of drivers also proves the route to the buffer's memory, and others if that one is refused
    /// ([`crate::Engine::route`]). That opens a device for each; [`crate::Engine::prove_routes`] does it earlier.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyAttached`]; [`Error::Unreachable`] with every route that was considered;
    /// [`Error::RoutesUnproved`] if no route is known to work and some could not be tried yet; [`Error::Busy`]
    /// if the buffer would have to move and is kept in place; [`Error::Revoked`], [`Error::Purged`],
    /// [`Error::Poisoned`], [`Error::OutOfMemory`], [`Error::FdLimit`]. None of them changes anything.
    ///
    /// Locks: the reservation.
    #[doc(alias = "dma_buf_attach")]
    pub fn attach(&self, device: &Device) -> Result<Attachment> {
        Attachment::new(&self.0, &device.0, None)
    }

    /// Attaches `device` with an importer that is notified when the buffer moves. Such an attachment does not
    /// keep the buffer in place. A device may have several of them.
    ///
    /// Construct the importer fully first: it may be called as soon as the attachment is listed, before this
    /// returns. (The kernel's CVE-2026-52951 was an attachment that was listed too early.)
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

/// The domain where alone the buffer may be used, if it is kept elsewhere. The reservation is held.
fn used_elsewhere(buffer: &BufferInner, state: &State) -> Option<DomainId> {
    buffer.needs_restore(state).then(|| state.entry().preferred())
}

/// Whether something keeps the buffer in place. The reservation is held.
fn is_held(state: &State) -> bool {
    state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0
}

/// Moves the buffer to a slab that `device` and the devices that are attached share, from the same provider, so that
/// `device` need not import a slab of other buffers. Returns whether it has moved, or another thread has moved it.
///
/// That costs no other buffer its memory, and waits for no device. If it fails, the buffer stays, and `device` imports
/// its slab: that is slower on some drivers, and right on all.
fn leave_slab(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    (device, kind): (&Arc<DeviceInner>, ImportKind),
    matrix: &ImportMatrix,
) -> bool {
    let provider = buffer.lock().location().provider();
    let placement = match provider.domain().kind() {
        DomainKind::Vram => Placement::Vram,
        DomainKind::System => Placement::System,
    };
    let request = BackingRequest { placement, ..request_for(buffer, home, matrix) };
    let limits = EvictionLimits {
        evict: false,
        wait: None,
        ..buffer.core().eviction_limits(buffer.trigger())
    };
    let moved = || {
        let Some(new) = buffer.set.allocate(&request, &limits, |other| other == provider)? else {
            return Ok(MoveOutcome::NoPath);
        };
        // Before the move, so that an error here leaves the buffer where it is.
        let _view = buffer.core().view(new.allocation(), device, kind)?;
        let trigger = Trigger::Device(device.id());
        let request = MoveRequest::to_new(MoveCause::Reach, trigger);
        relocate(buffer, home, matrix, new.into(), MoveRequest { may_wait: false, ..request })
    };
    match moved() {
        Ok(outcome) => matches!(outcome, MoveOutcome::Moved | MoveOutcome::Retry),
        Err(error) => {
            let (buffer, device) = (buffer.name(), device.name());
            tracing::debug!(%error, buffer, device, "imports a slab of other buffers");
            false
        }
    }
}

/// A request for memory that the devices of the matrix share.
fn request_for<'a>(
    buffer: &BufferInner,
    home: &'a DeviceInner,
    matrix: &ImportMatrix,
) -> BackingRequest<'a> {
    BackingRequest {
        home,
        placement: buffer.placement(),
        size: buffer.size,
        dedicated: buffer.usage.is_dedicated(),
        private: false,
        sparing: false,
        sharers: matrix.sharers(),
        priority: buffer.flags.priority(),
        group: buffer.group(),
    }
}

/// Moves the buffer, within its placement, to a backing that `device` and all attached devices can reach.
fn make_reachable(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    (device, caps): (&Arc<DeviceInner>, AttachCaps),
    matrix: &ImportMatrix,
) -> Result<()> {
    let unreachable = || buffer.unreachable(device, matrix);
    if !buffer.can_move() {
        return Err(unreachable());
    }
    let accept = |provider| matrix.all_can_import(provider);
    // An unplugged device cannot hold the new backing.
    let home_is_unplugged = buffer.core().member(home.id()).is_unplugged();
    let placement = if home_is_unplugged { Placement::System } else { buffer.placement() };
    let request = BackingRequest { placement, ..request_for(buffer, home, matrix) };
    let limits = buffer.core().eviction_limits(buffer.trigger());
    let new = buffer.set.allocate(&request, &limits, accept)?;
    let new = new.ok_or_else(unreachable)?;
    // Create the view of the new backing before anything moves, so that an error here leaves the buffer
    // unmoved.
    let kind = matrix.import_kind(caps, new.allocation().provider()).ok_or_else(unreachable)?;
    let _view = buffer.core().view(new.allocation(), device, kind)?;
    match relocate(
        buffer,
        home,
        matrix,
        new.into(),
        MoveRequest::to_new(MoveCause::Reach, Trigger::Device(device.id())),
    )? {
        MoveOutcome::Moved | MoveOutcome::Retry | MoveOutcome::WouldBlock => Ok(()),
        MoveOutcome::NoPath => Err(no_path(home)),
    }
}

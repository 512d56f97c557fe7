//! The shared buffer: identity, size, current backing, generation, reservation.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use ash::vk;

use super::abandon::check_not_abandoned;
use super::access::Access;
use super::attachment::Attachment;
use super::away::Away;
use super::berth::{Berth, preferred_domain};
use super::descriptor::BufferDescriptor;
use super::export::ForeignExport;
use super::host_access::HostAccess;
use super::importer::Importer;
use super::registry::SlotId;
use super::seats::Seats;
use super::standing::Standing;
use super::state::State;
use super::traits::Traits;
use crate::core::{Core, Wish};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{
    Backing, Content, DomainId, DomainKind, Placement, Provider, SLOT_ALIGN, Take, zero_by_host,
};
use crate::observe::{Object, StallCause};
use crate::residency::{Demand, Found};
use crate::sync::primitive::atomic::{AtomicU16, Ordering};
use crate::sync::{Fence, Fences, Guard, Reservation, Retired, Usage};
use crate::transfer::{self, Refusal, RefusalReason, Route, Span};

/// A buffer that several devices share: a name that outlives every place it lives in.
///
/// Made by [`crate::Engine::create_buffer`]. Cheap to clone; all clones are the same buffer, whose
/// memory goes to the next owner when the last clone, attachment, mapping and export is gone and the
/// last device has finished with it. Dropping never waits.
///
/// Kernel counterpart: `struct dma_buf`. Size is invariant over its life.
#[derive(Clone)]
#[doc(alias = "dma_buf")]
pub struct SharedBuffer(pub(crate) Arc<BufferInner>);

/// # Invariants
///
/// The state's backing holds at least `size` bytes.
// In this order: what a look-up reads lies together. An `Arc` begins with 16 bytes of its own and memory
// comes in multiples of 16, so the first 16 here are always on one cache line.
#[repr(C)]
pub(crate) struct BufferInner {
    // Constant after creation, but for the standing, the home and `away`.
    pub(super) size: u64,
    /// How often it has moved, and how it stands. Written under the reservation.
    pub(super) standing: Standing,
    /// Written under the reservation. Relaxed: whoever relies on it holds that.
    home: AtomicU16,
    traits: Traits,
    /// Whether it is elsewhere than it wants to be.
    pub(super) away: Away,
    pub(super) core: Arc<Core>,
    /// The reservation: the one lock of the buffer (kernel: `dma_resv`).
    pub(super) reservation: Reservation<State>,
    slot: SlotId,
    usage: vk::BufferUsageFlags,
    id: u64,
}

// With the 16 bytes of its `Arc` and the registry's slot of 8 that is 120 for each live buffer. What not all
// of them have is elsewhere: seats beyond two, decisions and all that is rare behind one pointer of the
// state, names in the registry.
#[cfg(not(all(test, peerbuf_shuttle)))]
const _: () = assert!(size_of::<BufferInner>() <= 96, "there may be a million of them");

impl SharedBuffer {
    pub(crate) fn create(
        core: &Arc<Core>,
        home: &Arc<DeviceInner>,
        descriptor: BufferDescriptor,
    ) -> Result<Self> {
        descriptor.check(home.name())?;
        core.check(home)?;
        core.give_up_lost();
        check_not_abandoned(core, home)?;
        core.retire.collect();
        let (size, placement) = (descriptor.size(), descriptor.placed());
        let id = core.next_buffer();
        let group = descriptor.account(core)?;
        let wish = Wish { home, placement, size, dedicated: false, group };
        let demand = Demand::Room { bytes: size, by: Some(id) };
        let found = core.find_backing(&wish, &core.terms(demand), |_| true)?;
        let Found { taken: backing, instead_of } = found.ok_or_else(|| Error::Unsupported {
            device: home.name().to_owned(),
            missing: "any memory that it could share".into(),
        })?;
        core.groups.entered(group);
        let buffer = Self::new(core, home.id(), descriptor, backing, Some(id));
        // Whoever gives the device up from now on finds the buffer.
        check_not_abandoned(core, home)?;
        buffer.0.decide_place(instead_of.as_ref());
        Ok(buffer)
    }

    /// A buffer with its backing; with its number if it is ours, and may go elsewhere.
    pub(super) fn new(
        core: &Arc<Core>,
        home: DeviceId,
        descriptor: BufferDescriptor,
        backing: Backing,
        ours: Option<u64>,
    ) -> Self {
        core.live.born(Object::Buffer);
        // INVARIANT: the backing was allocated for, or checked against, `size`.
        let now = backing.domain();
        Self(Arc::new_cyclic(|this| {
            let (size, usage) = (descriptor.size(), descriptor.usages());
            let traits = Traits::of(&descriptor);
            let wanted = preferred_domain(descriptor.placed(), home);
            let wanted = if ours.is_some() { wanted } else { now };
            let mut berth = Berth::none(wanted, descriptor.prioritised(), descriptor.may_be_lost());
            let slot = core.buffers.add(this.clone(), descriptor.into_name());
            if ours.is_some() {
                berth.join(core, slot, now, (backing.footprint(), backing.group()));
            }
            let away = ours.is_some() && now != wanted;
            BufferInner {
                slot,
                away: Away::new(u8::from(away)),
                core: Arc::clone(core),
                size,
                traits,
                usage,
                id: ours.unwrap_or_else(|| core.next_buffer()),
                home: AtomicU16::new(home.0),
                standing: Standing::default(),
                reservation: Reservation::new(State::new(backing, berth)),
            }
        }))
    }

    /// Its size in bytes; never changes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Its name, or a number if it was given none.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// The device it is at home on: whose memory is its VRAM, and which moves it.
    pub fn home(&self) -> Device {
        Device(Arc::clone(&self.0.core.member(self.0.home_id()).device))
    }

    /// Where it may live.
    pub fn placement(&self) -> Placement {
        self.0.placement()
    }

    /// What it was created as.
    pub fn descriptor(&self) -> BufferDescriptor {
        let traits = self.0.traits;
        let descriptor = BufferDescriptor::new(self.0.size).usage(self.0.usage);
        let descriptor = descriptor.placement(traits.placement()).priority(traits.priority());
        let descriptor = descriptor.peer_to_peer(traits.peer_to_peer());
        let descriptor =
            if traits.is_discardable() { descriptor.discardable() } else { descriptor };
        let descriptor = match self.client_group() {
            Some(group) => descriptor.client(&group),
            None => descriptor,
        };
        match self.0.given_name() {
            Some(name) => descriptor.name(&name),
            None => descriptor,
        }
    }

    /// Where its bytes are; of a purged buffer, where they were.
    ///
    /// Locks: the reservation.
    pub fn domain(&self) -> DomainId {
        self.0.lock().place.domain()
    }

    /// Who provides its memory; of a purged buffer, who did.
    ///
    /// Locks: the reservation.
    pub fn provider(&self) -> Provider {
        self.0.lock().place.provider()
    }

    /// How often it has moved. A [`crate::Mapping`] tells which generation it is of.
    pub fn generation(&self) -> u32 {
        self.0.generation()
    }

    /// Whether peerbuf can move it. A buffer that came in as a stranger's fd stays where it is.
    pub fn is_dynamic(&self) -> bool {
        !matches!(self.provider(), Provider::Foreign(_))
    }

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

    /// Opens the buffer for the host.
    ///
    /// Waits, in bounds, until no device does what `access` may not overlap with; brackets the access
    /// with `DMA_BUF_IOCTL_SYNC` or flush and invalidate where the memory needs it. Memory that the
    /// host cannot map is copied through staging memory. The buffer stays where it is while the guard
    /// lives.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`], [`Error::Timeout`], [`Error::DeviceLost`],
    /// [`Error::Staging`], or what the calls said.
    ///
    /// Locks: the reservation, but not while waiting and not while the guard lives.
    #[doc(alias = "dma_buf_begin_cpu_access")]
    pub fn host_access(&self, access: Access) -> Result<HostAccess> {
        HostAccess::begin(&self.0, access)
    }

    /// Hands out an fd, for somebody who is not part of this engine.
    ///
    /// A stranger's fd cannot be recalled, so the buffer is pinned until the guard is dropped; and it
    /// would expose the neighbours in a slab, so a buffer in a slab first moves into an allocation of
    /// its own. That memory never goes to another buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if it would have to move and is held; [`Error::Revoked`], [`Error::Purged`],
    /// [`Error::Poisoned`], [`Error::OutOfMemory`], [`Error::FdLimit`]; [`Error::Timeout`] or
    /// [`Error::DeviceLost`] of the wait until nobody writes to it any more; or what the calls said. None of
    /// them changes anything, except that a wait for the move may fail after the move.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn export_foreign(&self) -> Result<ForeignExport> {
        ForeignExport::new(&self.0)
    }

    /// Whether two handles are the same buffer.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl BufferInner {
    pub(super) fn name(&self) -> String {
        self.given_name().map_or_else(|| format!("buffer {}", self.id), String::from)
    }

    /// Its slot in the registry.
    pub(super) fn slot(&self) -> SlotId {
        self.slot
    }

    /// Its number in this engine.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The name that it was given.
    pub(super) fn given_name(&self) -> Option<Box<str>> {
        if self.traits.is_named() { self.core.buffers.name(self.slot) } else { None }
    }

    /// Where it may live.
    pub(super) fn placement(&self) -> Placement {
        self.traits.placement()
    }

    /// Whether it may be in a device's own memory while others are attached.
    pub(super) fn peer_to_peer(&self) -> bool {
        self.traits.peer_to_peer()
    }

    pub(super) fn home(&self) -> Arc<DeviceInner> {
        Arc::clone(&self.core.member(self.home_id()).device)
    }

    pub(super) fn home_id(&self) -> DeviceId {
        DeviceId(self.home.load(Ordering::Relaxed))
    }

    /// Takes the reservation.
    pub(super) fn lock(&self) -> Guard<'_, State> {
        self.reservation.lock(&self.core.queues)
    }

    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.standing.generation()
    }

    /// Checks that the buffer is still where a mapping of `mapped` shows it, and may be used.
    #[inline]
    pub(super) fn check_generation(&self, mapped: u32) -> Result<()> {
        if self.standing.is_good(mapped) { Ok(()) } else { self.why_not(mapped) }
    }

    #[cold]
    fn why_not(&self, mapped: u32) -> Result<()> {
        self.check_there()?;
        let current = self.generation();
        if current == mapped {
            return self.check_poisoned();
        }
        Err(Error::Stale { buffer: self.name(), mapped, current })
    }

    /// Says that the buffer is now elsewhere, and at home on `home`. The reservation is held.
    pub(super) fn next_generation(&self, home: DeviceId) {
        self.settle_at(home);
        self.standing.next_generation();
    }

    /// Says that the buffer, where it is, is now at home on `home`. The reservation is held.
    pub(super) fn settle_at(&self, home: DeviceId) {
        self.home.store(home.0, Ordering::Relaxed);
    }

    /// Gives up a place that the last mapping has left. Without the reservation: it may take a pool's lock.
    pub(super) fn retire(&self, left: Option<(Fences, Backing)>) {
        if let Some((fences, backing)) = left {
            self.core.retire.push(fences, Retired::Backing(backing));
        }
    }

    /// Checks a range of bytes.
    pub(super) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.size);
        if fits {
            return Ok(());
        }
        Err(Error::OutOfBounds { buffer: self.name(), offset, len, size: self.size })
    }

    /// The same for a range, which may end before it begins: then it has more bytes than fit anywhere.
    pub(super) fn check_part(&self, part: &Range<u64>) -> Result<()> {
        self.check_range(part.start, part.end.wrapping_sub(part.start))
    }

    /// Whether peerbuf may move it.
    pub(super) fn can_move(&self) -> bool {
        !matches!(self.lock().place.provider(), Provider::Foreign(_))
    }

    /// That `device` cannot reach it, with every reason that was found.
    pub(super) fn unreachable(&self, device: &DeviceInner, seats: &Seats) -> Error {
        let mut refused = seats.refused.clone();
        for (kind, route) in [(DomainKind::Vram, Route::DmaBuf), (DomainKind::System, Route::Memfd)]
        {
            if !self.placement().kinds().contains(&kind) {
                refused.retain(|refusal| refusal.route != route);
                refused.push(Refusal { route, reason: RefusalReason::Placement(kind) });
            }
        }
        Error::Unreachable { buffer: self.name(), device: device.name().to_owned(), refused }
    }

    pub(super) fn busy(&self, state: &State) -> Error {
        self.held_by(state, state.pinned())
    }

    fn held_by(&self, state: &State, pins: u64) -> Error {
        Error::Busy {
            buffer: self.name(),
            mapped: state.static_mappings(),
            host: state.host(),
            // CAST: nobody has 2^32 pins.
            pinned: pins as u32,
        }
    }

    /// Checks that nobody relies on the bytes being where they are. If so, nobody can pin them any more
    /// without the reservation, and then sees what has become of them: whoever moves asks this first.
    pub(super) fn check_not_held(&self, state: &State) -> Result<()> {
        let held = state.host() > 0 || state.static_mappings() > 0;
        // Counted once: a pin goes without the reservation, and the error tells of those that were met.
        let pins = if held { state.pinned() } else { state.close_pins() };
        if held || pins > 0 { Err(self.held_by(state, pins)) } else { Ok(()) }
    }

    /// Takes the reservation of a buffer that may be used, when no fence that `relevant` picks is pending,
    /// waiting without it.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`]; [`Error::Timeout`] when the engine's bound
    /// is over, [`Error::DeviceLost`].
    pub(super) fn lock_idle(
        &self,
        usage: Usage,
        relevant: impl Fn(&Fence) -> bool,
    ) -> Result<Guard<'_, State>> {
        self.lock_when(Instant::now() + self.core.timeout, |state| {
            let mut pending = state.fences.pending(usage);
            pending.retain(|fence| relevant(fence));
            pending
        })
    }

    /// Takes the reservation when nothing is pending that `waits` names, waiting without it, until `end`.
    ///
    /// # Errors
    ///
    /// As [`BufferInner::lock_idle`].
    pub(super) fn lock_when(
        &self,
        end: Instant,
        waits: impl Fn(&mut State) -> Vec<Fence>,
    ) -> Result<Guard<'_, State>> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let locked = self.reservation.lock_timeout(&self.core.queues, left);
            let Some(mut state) = locked else {
                let what = format!("the reservation of {}", self.name());
                return Err(Error::Timeout { what, after: self.core.timeout });
            };
            let pending = waits(&mut state);
            // After it: what is not pending any more may have failed.
            self.check_usable(&mut state)?;
            if pending.is_empty() {
                return Ok(state);
            }
            let moves = state.moving().is_some();
            let cause = if moves { StallCause::Move } else { StallCause::Work };
            drop(state);
            self.core.stalls.during(cause, || wait_all(&pending, end))?;
        }
    }

    /// Makes sure that nobody sees an earlier owner's bytes: what is stale is zeroed before its first
    /// use, by the host where it can, else by the home device, whose fence is then a `Move`.
    ///
    /// Lazily, as the kernel zeroes pages at first touch: whoever creates and drops buffers without
    /// using them pays nothing.
    pub(super) fn own(&self, state: &mut State) -> Result<()> {
        if self.backing(state)?.content() == Content::Stale {
            self.scrub(state)?;
        }
        self.backing_mut(state)?.own();
        Ok(())
    }

    #[cold]
    #[expect(unsafe_code, reason = "writing to mapped memory that nobody else uses yet")]
    fn scrub(&self, state: &mut State) -> Result<()> {
        let backing = self.backing(state)?;
        let (allocation, offset) = (backing.allocation(), backing.offset());
        let len = backing.extent(self.size);
        if allocation.host()?.is_some() {
            // SAFETY: by the buffer's invariant its backing has so many bytes. The slot was given to this
            // buffer after the last owner's fences had signalled, and nobody has seen it since; or what
            // was to fill it has failed, and all work on it is over (`accept_content`).
            return unsafe { zero_by_host((allocation, offset), len) };
        }
        let home = self.home();
        let view = allocation.view(&home, self.take_at_home(allocation.provider())?)?;
        let len = len.next_multiple_of(SLOT_ALIGN);
        let fence = transfer::zero(&home, Span { view: &view, offset, len })?;
        state.fences.add(Usage::Move, fence);
        Ok(())
    }

    /// How the home device takes in memory of `provider`. Asks only for what is already known: no
    /// route is proved under the reservation.
    pub(super) fn take_at_home(&self, provider: Provider) -> Result<Take> {
        self.take(provider, &self.home())
    }

    /// How `device` takes in memory of `provider`.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], or what kept a route from being proved.
    pub(super) fn take(&self, provider: Provider, device: &Arc<DeviceInner>) -> Result<Take> {
        let mut refused = Vec::new();
        let take = self.core.take(provider, &self.home(), device, &mut refused)?;
        take.ok_or_else(|| Error::Unreachable {
            buffer: self.name(),
            device: device.name().to_owned(),
            refused,
        })
    }
}

/// Waits until all are over, well or not: whoever waits looks again, and finds in the buffer what of it
/// concerns the bytes.
pub(super) fn wait_all(fences: &[Fence], end: Instant) -> Result<()> {
    let left = || end.saturating_duration_since(Instant::now());
    fences.iter().try_for_each(|fence| fence.wait_until_over(left()))
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        let state = self.reservation.get_mut();
        // Before its number in the registry is somebody else's.
        state.berth.leave(&self.core);
        self.core.ages.forget(self.slot);
        self.core.groups.left(state.place.group());
        self.core.buffers.vacate(self.slot, self.traits.is_named());
        if let Some(clean) = state.set_clean(None) {
            self.core.clean_copies.fetch_sub(1, Ordering::Relaxed);
            if let Some((fences, backing)) = clean.into_place() {
                self.core.retire.push(fences, Retired::Backing(backing));
            }
        }
        if !state.fences.is_idle() {
            // A device is still at work on it: its memory goes to the next owner when that has ended.
            let fences = std::mem::take(&mut state.fences);
            if let Some(backing) = state.place.take() {
                self.core.retire.push(fences, Retired::Backing(backing));
            }
        }
        self.core.live.died(Object::Buffer);
    }
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SharedBuffer");
        out.field("name", &self.name()).field("size", &self.size());
        out.field("generation", &self.generation());
        // Whoever prints may hold the reservation.
        match self.0.reservation.try_lock(&self.0.core.queues) {
            Some(state) => out.field("domain", &state.place.domain()),
            None => out.field("domain", &"(locked)"),
        };
        out.finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<SharedBuffer>();
};

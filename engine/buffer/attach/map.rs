//! Mapping: a device gets a view of the current generation, under the reservation.

use std::sync::Arc;

use smallvec::SmallVec;

use super::attachment::Attachment;
use super::mapping::Mapping;
use super::view_ref::{CurrentView, ViewRef};
use crate::access::Access;
use crate::buffer::object::BufferInner;
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::State;
use crate::device::{DeviceId, DeviceInner};
use crate::error::Result;
use crate::memory::Backing;
use crate::observe::StallCause;
use crate::sync::Guard;

impl Attachment {
    /// Maps the buffer for the device: returns the memory and the `VkBuffer` of its current backing. A mapping
    /// of a static attachment keeps the buffer in that backing.
    ///
    /// A buffer that may be used only in its device's memory, and was evicted, first returns there
    /// ([`crate::Placement::Vram`]).
    ///
    /// Waits, for at most the engine timeout, for a move in progress, and as long for evictions.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] with what could not be evicted, and [`crate::Error::Busy`] under host access, if
    /// the buffer cannot return; it is unchanged then.
    /// [`crate::Error::Revoked`], [`crate::Error::Purged`], [`crate::Error::Poisoned`],
    /// [`crate::Error::Unreachable`], [`crate::Error::Timeout`], [`crate::Error::DeviceLost`],
    /// [`crate::Error::FdLimit`], or the error of the import.
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "dma_buf_map_attachment")]
    pub fn map(&self, access: Access) -> Result<Mapping> {
        self.bring_back()?;
        self.map_only(access)
    }

    /// Maps as [`Attachment::map`] does, but moves the buffer only if the use requires it: without an opportunistic
    /// restore or an auto-migration.
    ///
    /// # Errors
    ///
    /// As [`Attachment::map`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub(crate) fn map_only(&self, access: Access) -> Result<Mapping> {
        let (mut state, current) = lock_current(&self.buffer, self.device_inner())?;
        Ok(Mapping::new(&self.buffer, &mut state, self.id, &current, access))
    }
}

/// How often a use moves a buffer back that other threads evict again, before it fails.
pub(super) const RESTORES: u32 = 100;

/// Locks the reservation of a buffer that is not moving, and returns it with `device`'s view of the current
/// backing. The device is attached to the buffer. Imports the backing if the device has no view of it yet.
///
/// A buffer that may be used only in its preferred domain is moved there first.
pub(super) fn lock_current<'a>(
    buffer: &'a Arc<BufferInner>,
    device: &Arc<DeviceInner>,
) -> Result<(Guard<'a, State>, CurrentView)> {
    let mut restores = 0..RESTORES;
    loop {
        let mut state = buffer.lock();
        buffer.check_usable(&mut state)?;
        if let Some(move_fence) = state.moving().cloned() {
            // A mapping of the old backing would be stale at once, and its importer was already notified.
            drop(state);
            let wait = || move_fence.wait_while_in_progress(buffer.core().timeout);
            buffer.core().counters.stalls.during(StallCause::Move, wait)?;
            continue;
        }
        if buffer.needs_restore(&state) {
            restores.next().ok_or_else(|| buffer.busy(&state))?;
            drop(state);
            buffer.restore_for_use(device.id())?;
            continue;
        }
        let backing = buffer.backing(&state)?;
        if let Some(current) = current_view(backing, device.id()) {
            return Ok((state, current));
        }
        // The buffer has moved since this device was attached.
        let allocation = Arc::clone(backing.allocation());
        drop(state);
        retry_on_oom(&buffer.set, device.id(), [&**buffer], || {
            let kind = buffer.import_kind(allocation.provider(), device)?;
            buffer.core().view(&allocation, device, kind)
        })?;
    }
}

/// The view of a device that is attached to the buffer with this backing, if it has one now. The reservation is held.
#[expect(unsafe_code, reason = "vouching for a view")]
fn current_view(backing: &Backing, device: DeviceId) -> Option<CurrentView> {
    let view = backing.allocation().held_view(device)?;
    // SAFETY: the attachment has an entry in the buffer's table. For that the device is counted as a user of its view,
    // as long as the buffer has the backing and so while the reservation is held. A mapping keeps the entry, or becomes
    // one of a ghost, which is counted too.
    let view = unsafe { ViewRef::new(view) };
    Some(CurrentView { view, offset: backing.offset() })
}

/// A locked reservation with the views of several devices.
type CurrentViews<'a> = (Guard<'a, State>, SmallVec<[CurrentView; 4]>);

/// Does what [`lock_current`] does, for several devices: the views are in the order of `devices`. `None` if
/// there are no devices.
pub(super) fn lock_current_all<'a>(
    buffer: &'a Arc<BufferInner>,
    devices: &[&Arc<DeviceInner>],
) -> Result<Option<CurrentViews<'a>>> {
    let Some((first, rest)) = devices.split_first() else { return Ok(None) };
    loop {
        let (state, current) = lock_current(buffer, first)?;
        let mut views = SmallVec::from_iter([current]);
        let backing = buffer.backing(&state)?;
        views.extend(rest.iter().map_while(|device| current_view(backing, device.id())));
        if let Some(missing) = devices.get(views.len()) {
            drop(state);
            // Imports the backing for the device, or fails. Then all views are looked up again.
            lock_current(buffer, missing)?;
            continue;
        }
        return Ok(Some((state, views)));
    }
}

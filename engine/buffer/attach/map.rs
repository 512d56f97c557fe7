//! Mapping: the view of the current generation, under the reservation.

use std::sync::Arc;

use smallvec::SmallVec;

use super::attachment::Attachment;
use super::mapping::Mapping;
use super::view_ref::CurrentView;
use crate::access::Access;
use crate::buffer::object::BufferInner;
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::observe::StallCause;
use crate::sync::Guard;

impl Attachment {
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
        self.buffer.set.handle_lost_devices();
        let mut allowance = self.buffer.core().throttle.submission();
        self.buffer.restore(self.device, &mut allowance);
        self.buffer.auto_migrate(self.device, &mut allowance);
        let (mut state, seen) = open(&self.buffer, self.device_inner())?;
        Ok(Mapping::new(&self.buffer, &mut state, self.seat, &seen, access))
    }
}

/// The reservation of a buffer that is not moving, and `device`'s view of where it is.
pub(in crate::buffer) fn open<'a>(
    buffer: &'a BufferInner,
    device: &Arc<DeviceInner>,
) -> Result<(Guard<'a, State>, CurrentView)> {
    loop {
        let mut state = buffer.lock();
        buffer.check_usable(&mut state)?;
        if let Some(gate) = state.moving().cloned() {
            // A mapping of the old place would be old at once, and nobody would say so.
            drop(state);
            let wait = || gate.wait_until_over(buffer.core().timeout);
            buffer.core().counters.stalls.during(StallCause::Move, wait)?;
            continue;
        }
        let backing = buffer.backing(&state)?;
        if let Some(view) = backing.allocation().existing_view(device.id()) {
            let offset = backing.offset();
            return Ok((state, CurrentView { view, offset }));
        }
        // Somebody moved it after this device sat down.
        let allocation = Arc::clone(backing.allocation());
        drop(state);
        retry_on_oom(&buffer.set, device.id(), [buffer], || {
            allocation.view(device, buffer.take(allocation.provider(), device)?)
        })?;
    }
}

/// The reservation with the views of many devices.
type CurrentViews<'a> = (Guard<'a, State>, SmallVec<[CurrentView; 4]>);

/// The same for many devices; `None` for none.
pub(in crate::buffer) fn open_all<'a>(
    buffer: &'a BufferInner,
    devices: &[&Arc<DeviceInner>],
) -> Result<Option<CurrentViews<'a>>> {
    let Some((first, rest)) = devices.split_first() else { return Ok(None) };
    loop {
        let (state, seen) = open(buffer, first)?;
        let offset = seen.offset;
        let mut opened = SmallVec::from_iter([seen]);
        let allocation = buffer.backing(&state)?.allocation();
        let others = rest.iter().map_while(|device| allocation.existing_view(device.id()));
        opened.extend(others.map(|view| CurrentView { view, offset }));
        if let Some(missing) = devices.get(opened.len()) {
            drop(state);
            // Imports it, or says why not.
            open(buffer, missing)?;
            continue;
        }
        return Ok(Some((state, opened)));
    }
}

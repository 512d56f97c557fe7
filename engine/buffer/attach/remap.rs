//! Taking up the place that a buffer has moved to: one mapping, or all that somebody has.

use std::sync::Arc;

use smallvec::SmallVec;

use super::attachment::Attachment;
use super::map::{open, open_all};
use super::mapping::Mapping;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::sync::Fences;

impl Attachment {
    /// Replaces a mapping that has become old by a current one, opened for the same access.
    ///
    /// # Errors
    ///
    /// As [`Attachment::map`], and [`Error::ForeignMapping`] for a mapping of another buffer or device.
    /// The mapping is then what it was.
    ///
    /// Locks: the reservation.
    pub fn remap(&self, mapping: &mut Mapping) -> Result<()> {
        self.check_ours(mapping)?;
        let buffer = self.buffer_inner();
        buffer.set.handle_lost_devices();
        let mut allowance = buffer.core().throttle.submission();
        buffer.restore(self.device_id(), &mut allowance);
        buffer.auto_migrate(self.device_id(), &mut allowance);
        self.follow(mapping)
    }

    /// The same, wherever the buffer is: nobody is to move for it.
    pub(in crate::buffer) fn follow(&self, mapping: &mut Mapping) -> Result<()> {
        self.check_ours(mapping)?;
        let (mut state, seen) = open(self.buffer_inner(), self.device_inner())?;
        let left = mapping.replace(&mut state, self.seat(), &seen);
        drop(state);
        self.buffer_inner().retire(left);
        Ok(())
    }

    fn check_ours(&self, mapping: &Mapping) -> Result<()> {
        let ours = Arc::ptr_eq(mapping.buffer_inner(), self.buffer_inner())
            && Arc::ptr_eq(mapping.device_inner(), self.device_inner());
        if ours { Ok(()) } else { Err(foreign(self.buffer_inner(), self.device_inner())) }
    }
}

impl SharedBuffer {
    /// [`Attachment::remap`] for many mappings of this buffer, each with its attachment, under one lock:
    /// for somebody with many importers, to whom the one lock and the one look-up make the difference.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remap`]. All mappings are then what they were.
    ///
    /// Locks: the reservation.
    pub fn remap_all(&self, seats: &mut [(&Attachment, &mut Mapping)]) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        let mut devices: SmallVec<[&Arc<DeviceInner>; 4]> = SmallVec::new();
        for (attachment, mapping) in &*seats {
            if !Arc::ptr_eq(attachment.buffer_inner(), buffer) {
                return Err(foreign(buffer, attachment.device_inner()));
            }
            attachment.check_ours(mapping)?;
            let device = attachment.device_inner();
            if !devices.iter().any(|known| Arc::ptr_eq(known, device)) {
                devices.push(device);
            }
        }
        let Some((mut state, opened)) = open_all(buffer, &devices)? else { return Ok(()) };
        let mut retired: SmallVec<[(Fences, Backing); 1]> = SmallVec::new();
        for (attachment, mapping) in seats {
            let device = attachment.device_inner();
            let seen = opened.iter().find(|seen| Arc::ptr_eq(seen.view.device(), device));
            let Some(seen) = seen else { unreachable!("every device was looked up") };
            if let Some(left) = mapping.replace(&mut state, attachment.seat(), seen) {
                retired.push(left);
            }
        }
        drop(state);
        retired.into_iter().for_each(|left| buffer.retire(Some(left)));
        Ok(())
    }
}

fn foreign(buffer: &BufferInner, device: &DeviceInner) -> Error {
    Error::ForeignMapping { buffer: buffer.name(), device: device.name().to_owned() }
}

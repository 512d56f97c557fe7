//! Remapping: stale mappings are replaced by views of the current generation, one at a time or all at once.

use std::sync::Arc;

use smallvec::SmallVec;

use super::attachment::Attachment;
use super::map::{lock_current, lock_current_all};
use super::mapping::Mapping;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::sync::Fences;

impl Attachment {
    /// Replaces a stale mapping by a current one, for the same access.
    ///
    /// # Errors
    ///
    /// As [`Attachment::map`], and [`Error::ForeignMapping`] for a mapping of another buffer or device. The
    /// mapping is then unchanged.
    ///
    /// Locks: the reservation.
    pub fn remap(&self, mapping: &mut Mapping) -> Result<()> {
        self.check_mapping(mapping)?;
        self.bring_back()?;
        self.remap_only(mapping)
    }

    /// Moves the buffer out of exported memory, back to its preferred domain, or to the device, if that is due.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::relocate`], except [`Error::Busy`].
    ///
    /// Locks: none may be held.
    pub(crate) fn bring_back(&self) -> Result<()> {
        let buffer = self.buffer_inner();
        buffer.set.handle_lost_devices();
        buffer.leave_exported()?;
        let mut allowance = buffer.core().throttle.submission();
        buffer.restore(self.device_id(), &mut allowance);
        buffer.auto_migrate(self.device_id(), &mut allowance);
        Ok(())
    }

    /// Replaces the mapping as [`Attachment::remap`] does, but moves the buffer only if the use requires it: without
    /// an opportunistic restore or an auto-migration.
    pub(in crate::buffer) fn remap_only(&self, mapping: &mut Mapping) -> Result<()> {
        self.check_mapping(mapping)?;
        let (mut state, current) = lock_current(self.buffer_inner(), self.device_inner())?;
        let left = mapping.replace(&mut state, self.id(), &current);
        drop(state);
        self.buffer_inner().retire(left);
        Ok(())
    }

    /// Checks that the mapping is of this buffer and of this device.
    pub(in crate::buffer) fn check_mapping(&self, mapping: &Mapping) -> Result<()> {
        let matches = Arc::ptr_eq(mapping.buffer_inner(), self.buffer_inner())
            && Arc::ptr_eq(mapping.device_inner(), self.device_inner());
        if matches {
            Ok(())
        } else {
            Err(foreign_mapping(self.buffer_inner(), self.device_inner()))
        }
    }
}

impl SharedBuffer {
    /// Remaps many mappings of this buffer, each with its attachment, under one lock.
    ///
    /// It does what [`Attachment::remap`] does for each of them, but locks once and looks up each device's view
    /// once. That matters to an application with many importers. As [`Attachment::remap`] does, it first restores
    /// the buffer to its preferred domain, or auto-migrates it to one of the devices, if that is due.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remap`]. All mappings are then unchanged.
    ///
    /// Locks: the reservation.
    pub fn remap_all(&self, mappings: &mut [(&Attachment, &mut Mapping)]) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        buffer.leave_exported()?;
        let mut devices: SmallVec<[&Arc<DeviceInner>; 4]> = SmallVec::new();
        for (attachment, mapping) in &*mappings {
            if !Arc::ptr_eq(attachment.buffer_inner(), buffer) {
                return Err(foreign_mapping(buffer, attachment.device_inner()));
            }
            attachment.check_mapping(mapping)?;
            let device = attachment.device_inner();
            if !devices.iter().any(|known| Arc::ptr_eq(known, device)) {
                devices.push(device);
            }
        }
        let Some(first) = devices.first() else { return Ok(()) };
        // Before the reservation is taken: a move takes it itself. If the buffer does not move, or moves again
        // meanwhile, the mappings follow it all the same.
        let mut allowance = buffer.core().throttle.submission();
        buffer.restore(first.id(), &mut allowance);
        devices.iter().for_each(|device| buffer.auto_migrate(device.id(), &mut allowance));
        let Some((mut state, views)) = lock_current_all(buffer, &devices)? else { return Ok(()) };
        let mut retired: SmallVec<[(Fences, Backing); 1]> = SmallVec::new();
        for (attachment, mapping) in mappings {
            let device = attachment.device_inner();
            let current =
                views.iter().find(|current| Arc::ptr_eq(current.view.get().device(), device));
            let Some(current) = current else { unreachable!("every device was looked up") };
            if let Some(left) = mapping.replace(&mut state, attachment.id(), current) {
                retired.push(left);
            }
        }
        drop(state);
        retired.into_iter().for_each(|left| buffer.retire(Some(left)));
        Ok(())
    }
}

fn foreign_mapping(buffer: &BufferInner, device: &DeviceInner) -> Error {
    Error::ForeignMapping { buffer: buffer.name(), device: device.name().to_owned() }
}

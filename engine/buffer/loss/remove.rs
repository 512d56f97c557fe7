//! Removing a device: the engine gives up everything that it has on the device, so that its `VkDevice` can be destroyed.
//!
//! Kernel counterpart: `drm_dev_unregister` and the removal of a driver (`pci_driver::remove`), which may end only
//! when no importer has the device's buffers.

use std::sync::Arc;

use super::device_lost::{is_in, rehome, unplug_in_turn};
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::device::{Device, DeviceInner};
use crate::error::{DeviceUsers, Error, Result};
use crate::memory::DomainId;
use crate::observe::MoveCause;

/// Removes a device. The contract is that of [`crate::Engine::remove_device`].
pub(crate) fn remove(set: &Buffers, device: Device) -> Result<()> {
    let Device(device) = device;
    // First without a mark, so that a removal that is refused disturbs nothing.
    check_unused(set, &device)?;
    let Some(leaving) = device.leave() else {
        return Err(Error::DeviceRemoved(device.name().to_owned()));
    };
    // An attachment that is listed from now on has seen the mark.
    check_unused(set, &device)?;
    if !device.is_lost() {
        move_out(set, &device);
        check_left(set, &device, false)?;
    }
    unplug_in_turn(set, &device)?;
    let_go(set, &device);
    check_left(set, &device, true)?;
    set.trim();
    set.core.wait_for_removal(&device)?;
    let homes = || {
        let (mut homes, mut buffers) = (0, vec![]);
        set.live.for_each(|buffer| {
            homes += u64::from(buffer.is_home(device.id()));
            buffers.push(Arc::clone(buffer));
        });
        (homes, buffers)
    };
    set.core.close(&device, leaving, || let_go(set, &device), homes)
}

/// Makes buffers forget the device, as far as their content is elsewhere: it is no longer the home device, and fences
/// of work that has ended are dropped. The unplug did that, but may have been long ago, or another thread may have
/// submitted work since.
fn let_go(set: &Buffers, device: &DeviceInner) {
    set.live.for_each(|buffer| {
        let mut state = buffer.lock();
        if !is_in(&state, DomainId::Vram(device.id())) {
            rehome(buffer, &state, device);
        }
        state.forget_ended();
    });
}

/// Checks that the device has neither attachments nor mappings.
fn check_unused(set: &Buffers, device: &DeviceInner) -> Result<()> {
    let mut users = DeviceUsers::of(device.name());
    set.live.for_each(|buffer| {
        let state = buffer.lock();
        let its = state.attachments().filter(|attachment| attachment.device == device.id());
        users.attachments += its.count() as u64;
        let mapped = state.mappings().into_iter().filter(|(of, _)| *of == device.id());
        users.mappings += mapped.map(|(_, mapped)| u64::from(mapped)).sum::<u64>();
    });
    users.check()
}

/// Moves buffers out of the memory that the device has exported. Those that cannot leave stay.
fn move_out(set: &Buffers, device: &DeviceInner) {
    let mut inside = vec![];
    set.live.for_each(|buffer| {
        if is_inside(buffer, device) {
            inside.push(SharedBuffer(Arc::clone(buffer)));
        }
    });
    for buffer in inside {
        if let Err(error) = buffer.move_to(MoveCause::Evicted, |_| Some(DomainId::System)) {
            tracing::debug!(%error, buffer = buffer.0.name(), device = device.name(), "not moved out");
        }
    }
}

/// Checks that no buffer is in memory that the device has exported or imported alone; nor, if `homes` is set, has it as
/// its home.
fn check_left(set: &Buffers, device: &DeviceInner, homes: bool) -> Result<()> {
    let mut users = DeviceUsers::of(device.name());
    set.live.for_each(|buffer| {
        let is_home = homes && buffer.home_id() == device.id();
        users.buffers += u64::from(is_home || is_inside(buffer, device));
    });
    users.check()
}

/// Whether the buffer is in memory that only the device can give away.
fn is_inside(buffer: &BufferInner, device: &DeviceInner) -> bool {
    let state = buffer.lock();
    let backing = state.location().backing();
    backing.is_some_and(|backing| backing.allocation().is_exported_by(device.id()))
}

//! The home device of a buffer, now and after a move.

use std::sync::Arc;

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::core::Core;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::DomainId;

/// The buffer's home device when it is in the domain `to`.
///
/// # Errors
///
/// [`Error::ForeignEngine`]; [`Error::DeviceLost`] for the memory of an unplugged device.
pub(in crate::buffer) fn home_at(buffer: &BufferInner, to: DomainId) -> Result<Arc<DeviceInner>> {
    match to {
        DomainId::Vram(device) => {
            let home = buffer.core().find(device)?;
            check_not_unplugged(buffer.core(), &home)?;
            Ok(home)
        }
        DomainId::System => Ok(buffer.home()),
    }
}

/// Checks that `home` can be a buffer's home device.
///
/// # Errors
///
/// [`Error::DeviceLost`] if it is unplugged.
pub(super) fn check_not_unplugged(core: &Core, home: &DeviceInner) -> Result<()> {
    if core.member(home.id()).is_unplugged() {
        return Err(Error::DeviceLost { device: home.name().into(), call: "unplug" });
    }
    Ok(())
}

/// A home device in place of a lost one: an attached device if there is one, else any working device of the
/// engine. Without one, the buffer keeps its home device.
pub(in crate::buffer) fn new_home(
    buffer: &BufferInner,
    state: &State,
    lost: &DeviceInner,
) -> Arc<DeviceInner> {
    let core = buffer.core();
    let is_working = |device: &DeviceId| {
        let member = core.member(*device);
        *device != lost.id() && !member.device.is_lost() && !member.is_unplugged()
    };
    let attached = state.attachments().map(|attachment| attachment.device);
    let any_device = core.devices.iter().map(|member| member.device.id());
    let mut working = attached.chain(any_device).filter(is_working);
    working.find_map(|found| core.devices.device(found)).unwrap_or_else(|| buffer.home())
}

/// The home device of a buffer that has moved: the one that the move was planned with, unless it is unplugged
/// meanwhile.
///
/// The reservation is held. A device is marked unplugged before its buffers are visited, so this check misses
/// none.
pub(in crate::buffer) fn home_after_move(
    buffer: &BufferInner,
    state: &State,
    home: &DeviceInner,
) -> DeviceId {
    if buffer.core().member(home.id()).is_unplugged() {
        return new_home(buffer, state, home).id();
    }
    home.id()
}

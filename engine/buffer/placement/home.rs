//! Which device is a buffer's home, now and after a move.

use std::sync::Arc;

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::core::Core;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::DomainId;

/// Where a buffer is at home when it is there.
///
/// # Errors
///
/// [`Error::ForeignEngine`]; [`Error::DeviceLost`] for the memory of a device that was given up.
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

/// That `home` can be at home to nobody any more.
///
/// # Errors
///
/// [`Error::DeviceLost`] if it was given up.
pub(in crate::buffer) fn check_not_unplugged(core: &Core, home: &DeviceInner) -> Result<()> {
    if core.member(home.id()).is_unplugged() {
        return Err(Error::DeviceLost { device: home.name().into(), call: "abandon" });
    }
    Ok(())
}

/// Somebody else at the buffer, if there is anybody, or any other device.
pub(in crate::buffer) fn new_home(
    buffer: &BufferInner,
    state: &State,
    lost: &DeviceInner,
) -> Arc<DeviceInner> {
    let core = buffer.core();
    let works = |device: &DeviceId| {
        let member = core.member(*device);
        *device != lost.id() && !member.device.is_lost() && !member.is_unplugged()
    };
    let seated = state.attachments().map(|seat| seat.device).find(works);
    let any = || core.devices.iter().map(|member| member.device.id()).find(works);
    seated
        .or_else(any)
        .map_or_else(|| buffer.home(), |found| Arc::clone(&core.member(found).device))
}

/// Where a buffer that has moved is at home: where its move was to make it, if that was not given up.
/// The reservation is held; whoever gives a device up says so before he looks at the buffer.
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

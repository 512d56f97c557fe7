//! The way through the host: read back on one device, copied by the host, uploaded on the other. It is always ready.
#![expect(unsafe_code, reason = "memory that the host and devices use in turn")]

use crate::Result;
use crate::host_buffer::HostBuffer;
use crate::in_use::InUse;
use ash::vk;
use peerbuf::{Device, Fence};

/// Memory of both devices for one frame.
pub(crate) struct Staged {
    down: InUse<HostBuffer>,
    up: InUse<HostBuffer>,
}

impl Staged {
    /// Memory for frames of a size.
    pub(crate) fn new([render, present]: [&Device; 2], [width, height]: [u32; 2]) -> Result<Self> {
        let bytes = width as usize * height as usize * 4;
        Ok(Self {
            down: InUse::new(render, HostBuffer::new(render, bytes, true)?),
            up: InUse::new(present, HostBuffer::new(present, bytes, false)?),
        })
    }

    /// Where the drawing device copies the frame to.
    pub(crate) fn down(&self) -> vk::Buffer {
        self.down.raw()
    }

    /// Carries a frame over, once the drawing device has copied it. Returns where it is now.
    pub(crate) fn carry(&mut self, copied: &Fence) -> Result<vk::Buffer> {
        self.down.used_by(copied);
        self.down.wait()?;
        self.up.wait()?;
        // SAFETY: the work that used either buffer has finished.
        unsafe { self.up.copy_from(&self.down) };
        Ok(self.up.raw())
    }

    /// Notes the work that reads what was carried.
    pub(crate) fn shown(&mut self, fence: &Fence) {
        self.up.used_by(fence);
    }
}

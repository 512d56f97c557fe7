//! The way through the host: read back on one device, copied by the host, uploaded on the other. It is always ready.
#![expect(unsafe_code, reason = "memory that the host and devices use in turn")]

use ash::vk;
use peerbuf::{Device, Fence};
use peerbuf_apps::host_buffer::HostBuffer;
use peerbuf_apps::{Result, TIMEOUT};

/// Memory of both devices for one frame.
pub(crate) struct Staged {
    down: HostBuffer,
    up: HostBuffer,
    /// The last work that uses each.
    used: [Fence; 2],
}

impl Staged {
    /// Memory for frames of a size.
    pub(crate) fn new([render, present]: [&Device; 2], [width, height]: [u32; 2]) -> Result<Self> {
        let bytes = width as usize * height as usize * 4;
        Ok(Self {
            down: HostBuffer::new(render, bytes, true)?,
            up: HostBuffer::new(present, bytes, false)?,
            used: [Fence::signalled(), Fence::signalled()],
        })
    }

    /// Where the drawing device copies the frame to.
    pub(crate) fn down(&self) -> vk::Buffer {
        self.down.raw()
    }

    /// Carries a frame over, once the drawing device has copied it. Returns where it is now.
    pub(crate) fn carry(&mut self, copied: &Fence) -> Result<vk::Buffer> {
        self.used[0] = copied.clone();
        for used in &self.used {
            used.wait(TIMEOUT)?;
        }
        // SAFETY: the work that used either buffer has finished.
        unsafe { self.up.copy_from(&self.down) };
        Ok(self.up.raw())
    }

    /// Notes the work that reads what was carried.
    pub(crate) fn shown(&mut self, fence: &Fence) {
        self.used[1] = fence.clone();
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for used in &self.used {
            // A lost device has nothing left to do.
            let _ = used.wait(TIMEOUT);
        }
    }
}

//! What the presented frames show: their numbers.
#![expect(unsafe_code, reason = "memory that devices write and the host reads")]

use std::collections::VecDeque;

use peerbuf::{Device, Fence};
use peerbuf_apps::host_buffer::HostBuffer;
use peerbuf_apps::{Result, TIMEOUT, stamp};

/// Frames that are checked behind the GPU.
const DEPTH: usize = 4;
/// Bytes of one line of cells.
const LINE: usize = (stamp::CELL * stamp::CELLS * 4) as usize;

/// The checks of one presenting device.
pub(crate) struct Checks {
    device: Device,
    free: Vec<HostBuffer>,
    pending: VecDeque<(HostBuffer, Fence, u32)>,
    /// Frames that were read back.
    pub(crate) checked: u64,
    /// What was wrong, of the first few frames.
    pub(crate) wrong: Vec<String>,
}

impl Checks {
    pub(crate) fn new(device: &Device) -> Self {
        let (free, pending) = (vec![], VecDeque::new());
        Self { device: device.clone(), free, pending, checked: 0, wrong: vec![] }
    }

    /// Memory for the lines of a frame.
    pub(crate) fn take(&mut self) -> Result<HostBuffer> {
        if self.pending.len() >= DEPTH {
            self.check_one()?;
        }
        self.free.pop().map_or_else(|| HostBuffer::new(&self.device, 2 * LINE, true), Ok)
    }

    /// Notes the work that copies the lines of a frame.
    pub(crate) fn submitted(&mut self, buffer: HostBuffer, fence: &Fence, frame: u32) {
        self.pending.push_back((buffer, fence.clone(), frame));
    }

    /// Checks everything that was submitted.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.check_one()?;
        }
        Ok(())
    }

    fn check_one(&mut self) -> Result<()> {
        let Some((buffer, fence, frame)) = self.pending.pop_front() else { return Ok(()) };
        if let Err(error) = fence.wait(TIMEOUT) {
            // A lost device may still write its memory.
            std::mem::forget(buffer);
            return Err(error.into());
        }
        // SAFETY: the work that wrote it has finished.
        let bytes = unsafe { buffer.bytes() };
        let [top, bottom] = [0, LINE].map(|at| stamp::number(&bytes[at..at + LINE]));
        self.free.push(buffer);
        self.checked += 1;
        if (top, bottom) != (frame, frame) && self.wrong.len() < 8 {
            let what = if top == bottom { "out of order" } else { "torn" };
            self.wrong.push(format!("frame {frame} is {what}: it shows {top} and {bottom}"));
        }
        Ok(())
    }
}

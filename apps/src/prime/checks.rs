//! What the presented frames show: their numbers.
#![expect(unsafe_code, reason = "memory that devices write and the host reads")]

use std::collections::VecDeque;

use crate::host_buffer::HostBuffer;
use crate::in_use::InUse;
use crate::{Result, stamp};
use peerbuf::{Device, Fence};

/// Frames that are checked behind the GPU.
const DEPTH: usize = 4;
/// Bytes of one line of cells.
const LINE: usize = (stamp::CELL * stamp::CELLS * 4) as usize;

/// The checks of one presenting device.
pub(crate) struct Checks {
    device: Device,
    free: Vec<InUse<HostBuffer>>,
    pending: VecDeque<(InUse<HostBuffer>, u32)>,
    /// Frames that were read back.
    pub(crate) checked: u64,
    /// What was wrong, of the first few frames.
    pub(crate) wrong: Vec<String>,
}

impl Checks {
    /// Goes on with what was checked on another device.
    pub(crate) fn new(device: &Device, checked: u64, wrong: Vec<String>) -> Self {
        let (free, pending) = (vec![], VecDeque::new());
        Self { device: device.clone(), free, pending, checked, wrong }
    }

    /// Memory for the lines of a frame.
    pub(crate) fn take(&mut self) -> Result<InUse<HostBuffer>> {
        if self.pending.len() >= DEPTH {
            self.check_one()?;
        }
        match self.free.pop() {
            Some(free) => Ok(free),
            None => Ok(InUse::new(&self.device, HostBuffer::new(&self.device, 2 * LINE, true)?)),
        }
    }

    /// Notes the work that copies the lines of a frame.
    pub(crate) fn submitted(&mut self, mut buffer: InUse<HostBuffer>, fence: &Fence, frame: u32) {
        buffer.used_by(fence);
        self.pending.push_back((buffer, frame));
    }

    /// Checks everything that was submitted.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.check_one()?;
        }
        Ok(())
    }

    /// Checks everything that was submitted, but for frames whose work failed with a device. Returns how many failed.
    pub(crate) fn give_up(&mut self) -> u64 {
        let mut failed = 0;
        while !self.pending.is_empty() {
            failed += u64::from(self.check_one().is_err());
        }
        failed
    }

    fn check_one(&mut self) -> Result<()> {
        let Some((buffer, frame)) = self.pending.pop_front() else { return Ok(()) };
        buffer.wait()?;
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

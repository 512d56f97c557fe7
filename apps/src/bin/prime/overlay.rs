//! What is shown over the scene: ways, layouts, times as a graph, memory, moves.
#![expect(unsafe_code, reason = "memory that the host writes and a device reads")]

use std::time::Duration;

use ash::vk;
use peerbuf::{Device, Fence};
use peerbuf_apps::Result;
use peerbuf_apps::canvas::{Canvas, Colour};
use peerbuf_apps::host_buffer::HostBuffer;

use crate::stats::{KEPT, Stats, Way};

const SIZE: [usize; 2] = [488, 176];
/// Lines of text begin so many texels below each other.
const LINE: usize = 11;
const EDGE: usize = 6;
/// The graph's height.
const GRAPH: usize = 48;

/// What it says.
pub(crate) struct Facts {
    pub(crate) lines: Vec<String>,
    /// Used, of so many, bytes of the drawing device's memory.
    pub(crate) memory: [u64; 2],
}

/// The overlay, in memory of the presenting device.
pub(crate) struct Overlay {
    canvas: Canvas,
    buffers: Vec<(HostBuffer, Fence)>,
    /// The one that has the newest picture.
    newest: Option<usize>,
}

impl Overlay {
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let bytes = SIZE[0] * SIZE[1] * 4;
        let one =
            || -> Result<_> { Ok((HostBuffer::new(device, bytes, false)?, Fence::signalled())) };
        let buffers = (0..3).map(|_| one()).collect::<Result<_>>()?;
        Ok(Self { canvas: Canvas::new(SIZE[0], SIZE[1]), buffers, newest: None })
    }

    /// Draws it anew, if a buffer is free. If none is, the old picture stays.
    pub(crate) fn draw(&mut self, facts: &Facts, stats: &Stats) {
        let is_free = |(_, used): &(HostBuffer, Fence)| used.is_signalled().unwrap_or(true);
        let Some(at) = self.buffers.iter().position(is_free) else { return };
        self.canvas.clear();
        for (line, text) in facts.lines.iter().enumerate() {
            self.canvas.text(EDGE, EDGE + line * LINE, text);
        }
        let width = SIZE[0] - 2 * EDGE;
        let [used, all] = facts.memory;
        // CAST: at most the width.
        let filled = (u128::from(used) * width as u128 / u128::from(all.max(1))) as usize;
        let below = EDGE + facts.lines.len() * LINE;
        self.canvas.bar([EDGE, below], [filled.clamp(1, width), 5], Colour::Amber);
        self.graph(SIZE[1] - EDGE, stats);
        // SAFETY: the work that read the buffer has finished.
        unsafe { self.buffers[at].0.write(self.canvas.texels()) };
        self.newest = Some(at);
    }

    /// The times of the last frames. The full height is twice the slowest way's median.
    fn graph(&mut self, bottom: usize, stats: &Stats) {
        let medians = [Way::Shared, Way::Staged].map(|way| stats.recent(way).unwrap_or_default());
        let full = medians.into_iter().max().unwrap_or_default().max(Duration::from_micros(50)) * 2;
        let step = (SIZE[0] - 2 * EDGE) / KEPT;
        for (at, (way, time)) in stats.last().iter().enumerate() {
            let part = time.as_secs_f64() / full.as_secs_f64();
            // CAST: between 1 and the height.
            let height = (part * GRAPH as f64).clamp(1.0, GRAPH as f64) as usize;
            let colour = if *way == Way::Shared { Colour::Green } else { Colour::Blue };
            self.canvas.bar([EDGE + at * step, bottom - height], [step - 1, height], colour);
        }
    }

    /// The newest picture, with its size.
    pub(crate) fn picture(&self) -> Option<(vk::Buffer, [u32; 2])> {
        self.newest.map(|at| (self.buffers[at].0.raw(), self.canvas.size()))
    }

    /// Notes the work that reads it.
    pub(crate) fn submitted(&mut self, fence: &Fence) {
        if let Some(at) = self.newest {
            self.buffers[at].1 = fence.clone();
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for (_, used) in &self.buffers {
            // A lost device has nothing left to do.
            let _ = used.wait(peerbuf_apps::TIMEOUT);
        }
    }
}

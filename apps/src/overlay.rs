//! What is shown over a picture: lines of text, a bar, times as a graph.
#![expect(unsafe_code, reason = "memory that the host writes and a device reads")]

use std::time::Duration;

use ash::vk;
use peerbuf::{Device, Fence};

use crate::Result;
use crate::canvas::{Canvas, Colour};
use crate::host_buffer::HostBuffer;
use crate::in_use::InUse;

/// Times in a graph, at most.
pub const KEPT: usize = 120;

const SIZE: [usize; 2] = [488, 176];
/// Lines of text begin so many texels below each other.
const LINE: usize = 11;
const EDGE: usize = 6;
/// The graph's height.
const GRAPH: usize = 48;

/// What it says.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// One below the other.
    pub lines: Vec<String>,
    /// How far a bar goes: so many of so many.
    pub bar: [u64; 2],
    /// The times of the last frames, oldest first, each with its colour; at most [`KEPT`].
    pub graph: Vec<(Colour, Duration)>,
    /// The time that has half of the graph's height.
    pub half: Duration,
}

/// The overlay, in memory of the presenting device.
pub struct Overlay {
    canvas: Canvas,
    buffers: Vec<InUse<HostBuffer>>,
    /// The one that has the newest picture.
    newest: Option<usize>,
}

impl Overlay {
    /// Memory for it.
    ///
    /// # Errors
    ///
    /// The error of a call.
    pub fn new(device: &Device) -> Result<Self> {
        let bytes = SIZE[0] * SIZE[1] * 4;
        let one =
            || -> Result<_> { Ok(InUse::new(device, HostBuffer::new(device, bytes, false)?)) };
        let buffers = (0..3).map(|_| one()).collect::<Result<_>>()?;
        Ok(Self { canvas: Canvas::new(SIZE[0], SIZE[1]), buffers, newest: None })
    }

    /// Draws it anew, if a buffer is free. If none is, the old picture stays.
    pub fn draw(&mut self, facts: &Facts) {
        let Some(at) = self.buffers.iter().position(InUse::is_free) else { return };
        self.canvas.clear();
        for (line, text) in facts.lines.iter().enumerate() {
            self.canvas.text(EDGE, EDGE + line * LINE, text);
        }
        let width = SIZE[0] - 2 * EDGE;
        let [used, all] = facts.bar;
        // CAST: at most the width.
        let filled = (u128::from(used) * width as u128 / u128::from(all.max(1))) as usize;
        let below = EDGE + facts.lines.len() * LINE;
        self.canvas.bar([EDGE, below], [filled.clamp(1, width), 5], Colour::Amber);
        self.graph(SIZE[1] - EDGE, facts);
        // SAFETY: the work that read the buffer has finished.
        unsafe { self.buffers[at].write(self.canvas.texels()) };
        self.newest = Some(at);
    }

    fn graph(&mut self, bottom: usize, facts: &Facts) {
        let full = facts.half.max(Duration::from_micros(50)) * 2;
        let step = (SIZE[0] - 2 * EDGE) / KEPT;
        for (at, (colour, time)) in facts.graph.iter().take(KEPT).enumerate() {
            let part = time.as_secs_f64() / full.as_secs_f64();
            // CAST: between 1 and the height.
            let height = (part * GRAPH as f64).clamp(1.0, GRAPH as f64) as usize;
            self.canvas.bar([EDGE + at * step, bottom - height], [step - 1, height], *colour);
        }
    }

    /// The newest picture, with its size.
    pub fn picture(&self) -> Option<(vk::Buffer, [u32; 2])> {
        self.newest.map(|at| (self.buffers[at].raw(), self.canvas.size()))
    }

    /// Notes the work that reads it.
    pub fn submitted(&mut self, fence: &Fence) {
        if let Some(at) = self.newest {
            self.buffers[at].used_by(fence);
        }
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").finish_non_exhaustive()
    }
}

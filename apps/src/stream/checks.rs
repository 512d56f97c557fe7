//! Compares what is on the screen with what must be there.

use std::collections::VecDeque;

use crate::Result;
use crate::picture::Shot;
use peerbuf::{Device, Fence};

use super::view::Part;
use super::world::{TILE, World};

/// Frames that are checked behind the GPU.
const DEPTH: usize = 3;

/// What a frame shows: parts of tiles, in a picture of a size.
#[derive(Debug)]
pub struct Shown {
    /// The parts.
    pub parts: Vec<Part>,
    /// The size of the picture.
    pub size: [u32; 2],
    /// The number of the frame.
    pub frame: u32,
}

/// The checks of all frames.
#[derive(Debug)]
pub struct Checks {
    world: World,
    is_rgba: bool,
    pending: VecDeque<(Shot, Shown)>,
    /// Parts of tiles that were compared.
    pub checked: u64,
    /// What was wrong, of the first few.
    pub wrong: Vec<String>,
}

impl Checks {
    /// Goes on with what was checked on another device.
    pub fn new(world: World, is_rgba: bool, (checked, wrong): (u64, Vec<String>)) -> Self {
        Self { world, is_rgba, pending: VecDeque::new(), checked, wrong }
    }

    /// Memory for a picture without the overlay.
    ///
    /// # Errors
    ///
    /// The error of a call, or of earlier work.
    pub fn take(&mut self, device: &Device, size: [u32; 2]) -> Result<Shot> {
        if self.pending.len() >= DEPTH {
            self.check_one()?;
        }
        Shot::new(device, size)
    }

    /// Notes the work that copies the picture of a frame.
    pub fn submitted(&mut self, mut shot: Shot, fence: &Fence, shown: Shown) {
        shot.submitted(fence);
        self.pending.push_back((shot, shown));
    }

    /// Checks everything that was submitted.
    ///
    /// # Errors
    ///
    /// The work of a frame has failed, or does not end.
    pub fn finish(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.check_one()?;
        }
        Ok(())
    }

    /// As [`Checks::finish`], but for frames whose work failed with a device. Returns how many failed.
    pub fn give_up(&mut self) -> u64 {
        let mut failed = 0;
        while !self.pending.is_empty() {
            failed += u64::from(self.check_one().is_err());
        }
        failed
    }

    fn check_one(&mut self) -> Result<()> {
        let Some((shot, shown)) = self.pending.pop_front() else {
            return Ok(());
        };
        let Shown { parts, size, frame } = shown;
        let texels = shot.texels()?;
        for part in &parts {
            self.checked += 1;
            let [left, top, right, bottom] = part.target;
            let (across, down) = ((left + right) / 2, (top + bottom) / 2);
            for [x, y] in [
                [left, top],
                [right - 1, top],
                [across, down],
                [left, bottom - 1],
                [right - 1, bottom - 1],
            ] {
                // CAST: within the picture.
                let at = (y as usize * size[0] as usize + x as usize) * 4;
                let mut seen = [texels[at], texels[at + 1], texels[at + 2]];
                if self.is_rgba {
                    seen.swap(0, 2);
                }
                if !self.may_be(*part, [x, y], seen) && self.wrong.len() < 8 {
                    self.wrong.push(format!(
                        "frame {frame}: {seen:?} at {x}, {y} is no texel of {part:?} there"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a colour is that of the texel which a blit shows at a place, or of one beside it: drivers round differently.
    fn may_be(&self, part: Part, place: [i32; 2], seen: [u8; 3]) -> bool {
        let [u, v] = part.texel_at(place);
        let beside = |at: u32| [at.saturating_sub(1), at, (at + 1).min(TILE - 1)];
        beside(v).into_iter().any(|v| {
            beside(u).into_iter().any(|u| self.world.texel(part.tile, [u, v])[..3] == seen)
        })
    }
}

//! What is known of one buffer: who draws it, and how strongly.

use super::{Price, Used};
use crate::device::DeviceId;
use crate::memory::DomainId;

/// How many devices may draw one buffer at once. Of more, the weakest is forgotten.
const PULLS: usize = 4;

/// One buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its number plus 1; 0 is nobody.
    pub(super) buffer: u64,
    /// What counts, counts since it is at this generation.
    pub(super) generation: u32,
    /// When it was aged last, in periods.
    pub(super) period: u32,
    /// Uses by anybody.
    pub(super) uses: u32,
    /// How often it was drawn, less what was forgotten.
    pub(super) moves: u8,
    pub(super) pulls: [Pull; PULLS],
}

/// A device that draws a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    pub(super) by: DeviceId,
    /// Uses by it; 0 is nobody.
    pub(super) times: u32,
    /// What would have been saved, in picoseconds.
    pub(super) gain: u64,
}

impl Pull {
    pub(super) const NONE: Self = Self { by: DeviceId(0), times: 0, gain: 0 };
}

impl Entry {
    pub(super) const NONE: Self =
        Self { buffer: 0, generation: 0, period: 0, uses: 0, moves: 0, pulls: [Pull::NONE; PULLS] };

    pub(super) fn is_of(&self, buffer: u64) -> bool {
        self.buffer == buffer + 1
    }

    pub(super) fn pulls(&self) -> impl Iterator<Item = &Pull> {
        self.pulls.iter().filter(|pull| pull.times > 0)
    }

    /// What speaks for keeping it.
    pub(super) fn weight(&self) -> u32 {
        self.uses.saturating_add(u32::from(self.moves))
    }

    pub(super) fn note(
        &mut self,
        used: &Used,
        draws: bool,
        price: impl Fn(DeviceId, DomainId) -> Option<Price>,
    ) {
        let Used { at, by, bytes, .. } = *used;
        self.uses = self.uses.saturating_add(1);
        if draws && !self.pulls().any(|pull| pull.by == by) {
            let weakest = self.pulls.iter_mut().min_by_key(|pull| (pull.times > 0, pull.gain));
            weakest.into_iter().for_each(|pull| *pull = Pull { by, times: 0, gain: 0 });
        }
        let here = price(by, at);
        for pull in &mut self.pulls {
            let is_own = pull.by == by && (draws || pull.times > 0);
            if is_own {
                pull.times = pull.times.saturating_add(1);
            }
            if pull.times == 0 {
                continue;
            }
            pull.gain = match (here, price(by, DomainId::Vram(pull.by))) {
                (Some(here), Some(there)) if here > there => {
                    pull.gain.saturating_add(here.of(bytes) - there.of(bytes))
                }
                (Some(here), Some(there)) => {
                    pull.gain.saturating_sub(there.of(bytes) - here.of(bytes))
                }
                // Nobody knows what he would lose.
                _ => 0,
            };
        }
    }

    /// It has moved: what it was used for elsewhere says nothing any more.
    pub(super) fn restart(&mut self, generation: u32) {
        (self.generation, self.uses, self.pulls) = (generation, 0, [Pull::NONE; PULLS]);
    }

    pub(super) fn age(&mut self, period: u32) {
        let periods = period.saturating_sub(self.period);
        if periods > 0 {
            self.period = period;
            // CAST: at most a byte.
            self.moves = self.moves.saturating_sub(periods.min(255) as u8);
            self.halve(periods);
        }
    }

    /// What counts is worth half, so many times.
    pub(super) fn halve(&mut self, times: u32) {
        self.uses = self.uses.checked_shr(times).unwrap_or(0);
        for pull in &mut self.pulls {
            pull.times = pull.times.checked_shr(times).unwrap_or(0);
            pull.gain = pull.gain.checked_shr(times).unwrap_or(0);
        }
        self.vacate_if_idle();
    }

    /// Nobody draws it any more, and that it was moved is forgotten.
    pub(super) fn vacate_if_idle(&mut self) {
        if self.moves == 0 && self.pulls.iter().all(|pull| pull.times == 0 || pull.gain == 0) {
            *self = Self { period: self.period, ..Self::NONE };
        }
    }
}

//! The access counters of one buffer.

use super::access_costs::AccessCost;
use crate::device::DeviceId;
use crate::memory::DomainId;

/// The number of counters per buffer. If more devices use it, the counter with the least gain is replaced.
const COUNTERS: usize = 4;

/// A use of a buffer by a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferUse {
    /// The buffer's number.
    pub(crate) buffer: u64,
    pub(crate) generation: u32,
    pub(crate) at: DomainId,
    pub(crate) by: DeviceId,
    pub(crate) bytes: u64,
}

/// The counters of one buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferCounters {
    /// The buffer's number plus 1; 0 if the entry is vacant.
    pub(super) buffer: u64,
    /// The generation at which counting began: a move starts it anew.
    pub(super) generation: u32,
    /// The period in which the counters were halved last.
    pub(super) period: u32,
    /// Uses by all devices.
    pub(super) uses: u32,
    /// How often the buffer was migrated for a device. One is subtracted per period.
    pub(super) moves: u8,
    pub(super) counters: [Counter; COUNTERS],
}

/// The access counter of one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    pub(super) by: DeviceId,
    /// Uses by this device; 0 if the counter is vacant.
    pub(super) times: u32,
    /// The time that would have been saved with the buffer in this device's memory, in picoseconds.
    pub(super) gain: u64,
}

impl Counter {
    pub(super) const NONE: Self = Self { by: DeviceId(0), times: 0, gain: 0 };
}

impl BufferCounters {
    pub(super) const NONE: Self = Self {
        buffer: 0,
        generation: 0,
        period: 0,
        uses: 0,
        moves: 0,
        counters: [Counter::NONE; COUNTERS],
    };

    pub(super) fn is_of(&self, buffer: u64) -> bool {
        self.buffer == buffer + 1
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.counters.iter().filter(|counter| counter.times > 0)
    }

    /// How much the entry is worth keeping when the table is full.
    pub(super) fn weight(&self) -> u32 {
        self.uses.saturating_add(u32::from(self.moves))
    }

    /// Counts a use. With `counts` the using device gets a counter if it has none.
    pub(super) fn note(
        &mut self,
        used: &BufferUse,
        counts: bool,
        access_cost: impl Fn(DeviceId, DomainId) -> Option<AccessCost>,
    ) {
        let BufferUse { at, by, bytes, .. } = *used;
        self.uses = self.uses.saturating_add(1);
        if counts && !self.counters().any(|counter| counter.by == by) {
            let weakest =
                self.counters.iter_mut().min_by_key(|counter| (counter.times > 0, counter.gain));
            weakest.into_iter().for_each(|counter| *counter = Counter { by, times: 0, gain: 0 });
        }
        let here = access_cost(by, at);
        for counter in &mut self.counters {
            let is_own = counter.by == by && (counts || counter.times > 0);
            if is_own {
                counter.times = counter.times.saturating_add(1);
            }
            if counter.times == 0 {
                continue;
            }
            counter.gain = match (here, access_cost(by, DomainId::Vram(counter.by))) {
                (Some(here), Some(there)) if here > there => {
                    counter.gain.saturating_add(here.of(bytes) - there.of(bytes))
                }
                (Some(here), Some(there)) => {
                    counter.gain.saturating_sub(there.of(bytes) - here.of(bytes))
                }
                // It is unknown what the using device would lose.
                _ => 0,
            };
        }
    }

    /// Starts counting anew, because the buffer has moved.
    pub(super) fn restart(&mut self, generation: u32) {
        (self.generation, self.uses, self.counters) = (generation, 0, [Counter::NONE; COUNTERS]);
    }

    /// Halves the counters once for each period since the last time.
    pub(super) fn age(&mut self, period: u32) {
        let periods = period.saturating_sub(self.period);
        if periods > 0 {
            self.period = period;
            // CAST: at most a byte.
            self.moves = self.moves.saturating_sub(periods.min(255) as u8);
            self.halve(periods);
        }
    }

    /// Halves the counters, `times` times.
    pub(super) fn halve(&mut self, times: u32) {
        self.uses = self.uses.checked_shr(times).unwrap_or(0);
        for counter in &mut self.counters {
            counter.times = counter.times.checked_shr(times).unwrap_or(0);
            counter.gain = counter.gain.checked_shr(times).unwrap_or(0);
        }
        self.vacate_if_idle();
    }

    /// Makes the entry vacant if no counter has a gain and past moves are forgotten.
    pub(super) fn vacate_if_idle(&mut self) {
        if self.moves == 0
            && self.counters.iter().all(|counter| counter.times == 0 || counter.gain == 0)
        {
            *self = Self { period: self.period, ..Self::NONE };
        }
    }
}

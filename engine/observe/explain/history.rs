//! The last decisions about a buffer, in few bytes.

use super::bits::Bits;
use super::decision::{Decision, Pick, Reason, What};
use crate::device::DeviceId;
use crate::memory::DomainId;

/// The number of decisions that a buffer keeps.
const KEPT: usize = 4;
/// Bits of the moment, of what was decided, and of the kind of reason.
const WHEN: u32 = 35;
const WHAT: u32 = 4;
const KIND: u32 = 5;

/// The last decisions about a buffer. Without a decision after the creation of the buffer, it takes eight
/// bytes and no allocation.
#[derive(Debug, Default)]
pub(crate) struct History(Option<Box<[Packed; KEPT]>>);

/// A decision without the buffer's size, which never changes. All zeros means no decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Packed([u64; 2]);

impl History {
    /// Adds a decision, and drops the oldest one if there are too many.
    ///
    /// A new buffer that got its first choice is not recorded. A decision to stay for the same reason as
    /// before, which every walk makes again, replaces the previous one.
    pub(crate) fn record(&mut self, decision: &Decision) {
        if self.0.is_none() && decision.is_ordinary() {
            return;
        }
        let kept = self.0.get_or_insert_default();
        let newest = kept[0].decision(decision.bytes);
        if !newest.is_some_and(|newest| newest.is_repeated_by(decision)) {
            kept.copy_within(..KEPT - 1, 1);
        }
        kept[0] = Packed::new(decision);
    }

    /// The decisions about a buffer of `bytes`, latest first.
    pub(crate) fn decisions(&self, bytes: u64) -> impl Iterator<Item = Decision> + '_ {
        self.0.iter().flat_map(|kept| kept.iter()).map_while(move |packed| packed.decision(bytes))
    }

    /// Bytes that it takes on the heap.
    #[cfg(test)]
    pub(crate) fn footprint(&self) -> usize {
        self.0.as_deref().map_or(0, size_of_val)
    }
}

impl Decision {
    /// Whether it is not recorded: a new buffer got its first choice.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.what == What::Placed && self.reason == Reason::FirstChoice
    }

    fn is_repeated_by(&self, other: &Self) -> bool {
        let about = |decision: &Self| (decision.what, decision.from, decision.to);
        let kind = |decision: &Self| std::mem::discriminant(&decision.reason);
        self.what == What::Stayed && about(self) == about(other) && kind(self) == kind(other)
    }
}

impl Packed {
    fn new(decision: &Decision) -> Self {
        let mut bits = Bits::default();
        bits.put(1 + number_of(decision.what), WHAT);
        bits.put(decision.when, WHEN);
        bits.put_device(device_of(decision.from));
        bits.put_device(device_of(decision.to));
        put_reason(&mut bits, decision.reason);
        Self(bits.words())
    }

    /// The decision; `None` if there is none.
    fn decision(self, bytes: u64) -> Option<Decision> {
        let mut bits = Bits::read(self.0);
        let what = what_of(bits.take(WHAT).checked_sub(1)?)?;
        let when = bits.take(WHEN);
        let (from, to) = (domain_of(bits.device()), domain_of(bits.device()));
        let reason = reason(&mut bits)?;
        Some(Decision { what, when, from, to, bytes, reason })
    }
}

fn device_of(domain: DomainId) -> Option<DeviceId> {
    match domain {
        DomainId::Vram(device) => Some(device),
        DomainId::System => None,
    }
}

fn domain_of(device: Option<DeviceId>) -> DomainId {
    device.map_or(DomainId::System, DomainId::Vram)
}

const WHATS: [What; 10] = [
    What::Placed,
    What::Evicted,
    What::Restored,
    What::Migrated,
    What::AutoMigrated,
    What::FellBack,
    What::Stayed,
    What::Purged,
    What::Lost,
    What::Promoted,
];

fn number_of(what: What) -> u64 {
    // CAST: below ten.
    what as u64
}

fn what_of(number: u64) -> Option<What> {
    // CAST: four bits.
    WHATS.get(number as usize).copied()
}

const PICKS: [Pick; 7] = [
    Pick::Rule,
    Pick::LeastRecent,
    Pick::MostRecent,
    Pick::FurthestUse,
    Pick::NextInLine,
    Pick::LowestPriority,
    Pick::Cheapest,
];

/// Bits of the number of a buffer. All ones means no buffer.
const BUFFER: u32 = 34;
const NO_BUFFER: u64 = (1 << BUFFER) - 1;

/// Writes the kind of a reason and its numbers: at most 64 bits.
fn put_reason(bits: &mut Bits, reason: Reason) {
    let mut kind = |number: u32| bits.put(number, KIND);
    match reason {
        Reason::FirstChoice => kind(0),
        Reason::Asked => kind(1),
        Reason::Wanted { bytes, by, pick, of } => {
            kind(2);
            bits.put_size(bytes);
            bits.put(by.map_or(NO_BUFFER, |by| by.min(NO_BUFFER - 1)), BUFFER);
            // CAST: below seven.
            bits.put(pick as u64, 3);
            bits.put(of, 11);
        }
        Reason::NoRoom { budget, used, pinned, by, pins } => {
            kind(3);
            [budget, used, pinned].into_iter().for_each(|bytes| bits.put_size(bytes));
            bits.put_device(by);
            bits.put(pins, 6);
        }
        Reason::DriverOutOfMemory { device } => {
            kind(4);
            bits.put_device(Some(device));
        }
        Reason::DriverFailed { device } => {
            kind(9);
            bits.put_device(Some(device));
        }
        Reason::NotShareable => kind(16),
        Reason::Pinned { by, pins } => {
            kind(5);
            bits.put_device(by);
            bits.put(pins, 12);
        }
        Reason::Mapped { by } => {
            kind(6);
            bits.put_device(Some(by));
        }
        Reason::HostAccess => kind(7),
        Reason::Busy { by } => {
            kind(8);
            bits.put_device(by);
        }
        Reason::Throttled { moved, allowed } => {
            kind(10);
            [moved, allowed].into_iter().for_each(|bytes| bits.put_size(bytes));
        }
        Reason::Hysteresis { uses, needed } => {
            kind(11);
            [uses, needed].into_iter().for_each(|uses| bits.put(uses, 12));
        }
        Reason::UsedLess => kind(19),
        Reason::Used { by } => {
            kind(12);
            bits.put_device(Some(by));
        }
        Reason::UsedMore { by, times, others } => {
            kind(13);
            bits.put_device(Some(by));
            [times, others].into_iter().for_each(|times| bits.put(times, 16));
        }
        Reason::Reach { by } => {
            kind(14);
            bits.put_device(Some(by));
        }
        Reason::Exported => kind(15),
        Reason::All => kind(17),
        Reason::DeviceLost { device } => {
            kind(18);
            bits.put_device(Some(device));
        }
        Reason::Rearranged => kind(20),
    }
}

fn reason(bits: &mut Bits) -> Option<Reason> {
    Some(match bits.take(KIND) {
        0 => Reason::FirstChoice,
        1 => Reason::Asked,
        2 => Reason::Wanted {
            bytes: bits.size(),
            by: Some(bits.take(BUFFER)).filter(|&by| by != NO_BUFFER),
            // CAST: three bits.
            pick: PICKS.get(bits.take(3) as usize).copied()?,
            of: bits.count(11),
        },
        3 => Reason::NoRoom {
            budget: bits.size(),
            used: bits.size(),
            pinned: bits.size(),
            by: bits.device(),
            pins: bits.count(6),
        },
        4 => Reason::DriverOutOfMemory { device: bits.device()? },
        5 => Reason::Pinned { by: bits.device(), pins: bits.count(12) },
        6 => Reason::Mapped { by: bits.device()? },
        7 => Reason::HostAccess,
        8 => Reason::Busy { by: bits.device() },
        10 => Reason::Throttled { moved: bits.size(), allowed: bits.size() },
        11 => Reason::Hysteresis { uses: bits.count(12), needed: bits.count(12) },
        12 => Reason::Used { by: bits.device()? },
        13 => {
            Reason::UsedMore { by: bits.device()?, times: bits.count(16), others: bits.count(16) }
        }
        14 => Reason::Reach { by: bits.device()? },
        15 => Reason::Exported,
        17 => Reason::All,
        18 => Reason::DeviceLost { device: bits.device()? },
        20 => Reason::Rearranged,
        9 => Reason::DriverFailed { device: bits.device()? },
        16 => Reason::NotShareable,
        19 => Reason::UsedLess,
        _ => return None,
    })
}

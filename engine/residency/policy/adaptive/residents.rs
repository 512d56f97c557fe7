//! The buffers that may be chosen, by size.

use crate::residency::policy::random::Random;
use crate::residency::policy::size::{Size, grow};

/// The number of size classes, which are two doublings wide: the first one is below 16 KiB, the last one begins at
/// 64 MiB.
pub(super) const CLASSES: usize = 8;

/// The size class of a buffer.
pub(super) fn class(bytes: u64) -> usize {
    // CAST: below 64.
    ((bytes.max(1).ilog2().saturating_sub(12) / 2) as usize).min(CLASSES - 1)
}

/// Slots by size class, in no order. A slot's position is that in its class.
#[derive(Clone, Debug, Default)]
pub(super) struct Residents {
    slots: [Vec<u32>; CLASSES],
    all: Eligible,
}

/// The residents that a walk has not passed yet: the first ones of each class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Eligible {
    len: usize,
    count: [u32; CLASSES],
    bytes: [u64; CLASSES],
}

impl Eligible {
    pub(super) fn contains(&self, position: u32, bytes: Size) -> bool {
        // A position that is nowhere is larger than all counts.
        position < self.count[class(bytes.bytes())]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The mean size of those that are left; 0 if none is.
    pub(super) fn mean_bytes(&self) -> u64 {
        let all = self.bytes.iter().fold(0u64, |sum, &bytes| sum.saturating_add(bytes));
        all.checked_div(self.len as u64).unwrap_or(0)
    }

    /// Takes the last one of this size away, and returns its position.
    pub(super) fn shrink(&mut self, bytes: Size) -> u32 {
        let class = class(bytes.bytes());
        self.len -= 1;
        self.count[class] -= 1;
        self.bytes[class] -= bytes.bytes();
        self.count[class]
    }

    /// How often a class is drawn: by its bytes, and by its number of buffers, each of which counts as a quarter of the
    /// mean size. So a fifth of the draws is by number. Also buffers without bytes are drawn.
    fn weight(&self, class: usize, mean: u64) -> u64 {
        let by_number = u64::from(self.count[class]).saturating_mul(mean / 4 + 1);
        self.bytes[class].saturating_add(by_number)
    }
}

impl Residents {
    pub(super) fn eligible(&self) -> Eligible {
        self.all
    }

    /// The last position in the class of this size, which is not empty.
    pub(super) fn last(&self, bytes: Size) -> u32 {
        self.all.count[class(bytes.bytes())] - 1
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds a slot, and returns its position.
    pub(super) fn push(&mut self, slot: u32, bytes: Size) -> u32 {
        let class = class(bytes.bytes());
        let position = self.all.count[class];
        // CAST: there is no platform with less than 32 bits.
        let at = position as usize;
        grow(&mut self.slots[class], at);
        self.slots[class][at] = slot;
        self.all.len += 1;
        self.all.count[class] += 1;
        self.all.bytes[class] += bytes.bytes();
        position
    }

    /// Removes the last slot of the class of this size.
    pub(super) fn pop(&mut self, bytes: Size) {
        let position = self.all.shrink(bytes);
        // CAST: as above.
        self.slots[class(bytes.bytes())].truncate(position as usize);
    }

    /// Swaps the slots at two positions of the class of this size, and returns them in their new order.
    pub(super) fn swap(&mut self, bytes: Size, one: u32, other: u32) -> [u32; 2] {
        let slots = &mut self.slots[class(bytes.bytes())];
        // CAST: as above.
        let (one, other) = (one as usize, other as usize);
        slots.swap(one, other);
        [slots[one], slots[other]]
    }

    /// All that are eligible.
    pub(super) fn each(&self, eligible: &Eligible) -> impl Iterator<Item = u32> {
        let counts = eligible.count;
        // CAST: as above.
        self.slots.iter().zip(counts).flat_map(|(slots, count)| &slots[..count as usize]).copied()
    }

    /// Draws eligible slots into `drawn`, in the order of size. At least one is eligible. Classes are drawn evenly by
    /// their weights, slots of a class at random. Large buffers are drawn by their bytes, and many small ones beside them
    /// by their number.
    pub(super) fn draw(&self, eligible: &Eligible, random: &mut Random, drawn: &mut [u32]) {
        let mean = eligible.mean_bytes();
        let weights: [u64; CLASSES] = std::array::from_fn(|class| eligible.weight(class, mean));
        let total = weights.iter().fold(0u64, |sum, &weight| sum.saturating_add(weight));
        let stride = total / drawn.len() as u64;
        // CAST: the upper half of a product is below `stride`.
        let mut at = ((u128::from(random.next()) * u128::from(stride)) >> 64) as u64;
        let mut drawn = drawn.iter_mut();
        for (class, slots) in self.slots.iter().enumerate().filter(|(_, slots)| !slots.is_empty()) {
            // CAST: as above.
            let slots = &slots[..eligible.count[class] as usize];
            let weight = weights[class];
            while at < weight {
                let Some(slot) = drawn.next() else { return };
                *slot = slots[random.below(slots.len())];
                at = at.saturating_add(stride);
            }
            at -= weight;
        }
    }

    pub(super) fn footprint(&self) -> usize {
        self.slots.iter().map(|slots| slots.capacity() * size_of::<u32>()).sum()
    }
}

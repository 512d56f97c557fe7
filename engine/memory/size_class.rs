//! Size classes of slots: at most an eighth of a slot is wasted.

/// Slot sizes are multiples of this many bytes, so that every offset suits every use of a buffer: the
/// specification limits `minStorageBufferOffsetAlignment`, `minUniformBufferOffsetAlignment` and
/// `nonCoherentAtomSize` at 256 (Vulkan, "Required Limits").
pub(crate) const SLOT_ALIGN: u64 = 256;

/// Buffers larger than this get an allocation of their own.
pub(super) const MAX_SLOT: u64 = 8 << 20;

/// Steps per doubling.
const STEPS: u64 = 8;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// The number of classes.
pub(super) const CLASSES: usize = class_of(MAX_SLOT) + 1;

/// The class of the smallest slot that holds `size` bytes (`size` from 1 to [`MAX_SLOT`]).
pub(super) const fn class_of(size: u64) -> usize {
    let units = size.div_ceil(SLOT_ALIGN);
    if units <= STEPS {
        return (units - 1) as usize;
    }
    // The top bit and the three below it, rounded up, like the mantissa of a floating-point number.
    let shift = (units - 1).ilog2() - STEP_BITS;
    let mantissa = (units - 1) >> shift;
    // CAST: a few hundred at most.
    (shift as u64 * STEPS + mantissa) as usize
}

/// Size in bytes of the slots of a class.
pub(super) const fn slot_size(class: usize) -> u64 {
    let class = class as u64;
    let units = if class < STEPS {
        class + 1
    } else {
        let shift = class / STEPS - 1;
        (class % STEPS + STEPS + 1) << shift
    };
    units * SLOT_ALIGN
}

/// Where the memory of a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A slot of this class.
    Slot(usize),
    /// An allocation of its own, of this many bytes.
    Own(u64),
}

/// Where a buffer of `size` bytes lies, if no allocation should exceed `limit` bytes. `None` if its size overflows.
///
/// An allocation of its own is rounded up in the same steps, so that unused ones can be reused. It is rounded less if
/// it would exceed the limit: the largest allocation of some drivers is no round number (4 GiB − 4,
/// ggml-org/llama.cpp#5441). Only a buffer that is itself larger than the limit exceeds it.
pub(super) fn fit(size: u64, dedicated: bool, limit: u64) -> Option<Fit> {
    if !dedicated && size <= MAX_SLOT {
        let class = class_of(size);
        if slot_size(class) <= limit {
            return Some(Fit::Slot(class));
        }
    }
    let step = (1u64 << (size.max(MAX_SLOT) - 1).ilog2()) / STEPS;
    let rounded = size.checked_next_multiple_of(step.max(SLOT_ALIGN))?;
    // Whole words, since memory is zeroed by words.
    Some(Fit::Own(rounded.min(limit & !3).max(size)))
}

/// Bytes that a buffer of `size` bytes uses: its slot, or the whole of its own allocation ([`fit`]).
pub(crate) fn footprint(size: u64, dedicated: bool, limit: u64) -> Option<u64> {
    fit(size, dedicated, limit).map(|fit| match fit {
        Fit::Slot(class) => slot_size(class),
        Fit::Own(bytes) => bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_none_smaller() {
        let mut previous = 0;
        for class in 0..CLASSES {
            let slot = slot_size(class);
            assert!(slot > previous && slot.is_multiple_of(SLOT_ALIGN));
            assert_eq!(class_of(slot), class, "slot of {slot} bytes");
            assert_eq!(class_of(previous + 1), class, "first size above {previous}");
            previous = slot;
        }
        assert_eq!(previous, MAX_SLOT);
    }

    #[test]
    fn no_more_than_an_eighth_is_wasted() {
        for size in (1..64).map(|i| i * 4093).chain([2049, 4096, 4097, 65_537, MAX_SLOT - 1]) {
            let slot = slot_size(class_of(size));
            assert!(slot - size <= slot / 8 + SLOT_ALIGN, "{size} in {slot}");
        }
        for size in [MAX_SLOT + 1, 64 << 20, (64 << 20) + 1, 1 << 40] {
            let rounded = footprint(size, false, u64::MAX).expect("no overflow");
            assert!(rounded >= size && rounded - size <= rounded / 8, "{size} in {rounded}");
        }
        assert_eq!(footprint(64 << 20, false, u64::MAX), Some(64 << 20));
        assert_eq!(footprint(u64::MAX, false, u64::MAX), None);
    }

    #[test]
    fn nothing_is_rounded_beyond_the_limit() {
        // The largest allocations of NVIDIA and of AMD under Windows, and one smaller than a slot.
        for limit in [(4 << 30) - 4, 0xffe0_0000, (100 << 20) - 4, (3 << 20) - 4] {
            for size in [limit, limit - 1, limit - 4096, limit / 2, 5, 4096] {
                for dedicated in [false, true] {
                    let used = footprint(size, dedicated, limit).expect("no overflow");
                    assert!(size <= used && used <= limit, "{size} in {used}, limit {limit}");
                    assert!(used == size || used.is_multiple_of(4), "{size} in {used}");
                }
            }
            assert!(footprint(limit + 1, false, limit).is_some_and(|used| used > limit));
        }
        assert_eq!(fit(4 << 20, false, (4 << 20) - 4), Some(Fit::Own(4 << 20)), "itself too large");
        assert_eq!(fit(4097, true, u64::MAX), Some(Fit::Own(512 << 10)));
    }

    #[test]
    fn the_usual_sizes_have_slots_of_exactly_their_size() {
        for size in [256, 4096, 64 << 10, 1 << 20, MAX_SLOT] {
            assert_eq!(slot_size(class_of(size)), size);
        }
    }
}

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

/// The size of a dedicated allocation for a buffer of `size` bytes: rounded up in the same steps, so that unused
/// ones can be reused. `None` if it overflows.
pub(super) fn dedicated_size(size: u64) -> Option<u64> {
    let step = (1u64 << (size.max(MAX_SLOT) - 1).ilog2()) / STEPS;
    size.checked_next_multiple_of(step.max(SLOT_ALIGN))
}

/// Whether a buffer of `size` bytes gets an allocation of its own.
pub(super) fn is_dedicated(size: u64, asked_for: bool) -> bool {
    asked_for || size > MAX_SLOT
}

/// Bytes that a buffer of `size` bytes uses: its slot, or the whole of its own allocation. `None` if that
/// overflows.
pub(crate) fn footprint(size: u64, dedicated: bool) -> Option<u64> {
    if is_dedicated(size, dedicated) {
        dedicated_size(size)
    } else {
        Some(slot_size(class_of(size)))
    }
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
            let rounded = dedicated_size(size).expect("no overflow");
            assert!(rounded >= size && rounded - size <= rounded / 8, "{size} in {rounded}");
        }
        assert_eq!(dedicated_size(64 << 20), Some(64 << 20));
        assert_eq!(dedicated_size(u64::MAX), None);
    }

    #[test]
    fn the_usual_sizes_have_slots_of_exactly_their_size() {
        for size in [256, 4096, 64 << 10, 1 << 20, MAX_SLOT] {
            assert_eq!(slot_size(class_of(size)), size);
        }
    }
}

//! A logarithmic scale for lengths of time, like a floating-point number with few bits.

/// A scale with `2^FINE` steps per doubling. Numbers below `2^FINE` have a step each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale<const FINE: u32>;

/// Ages have four steps per doubling.
pub(super) type Ages = Scale<2>;
/// The number of age steps: enough for 2²⁴ uses of other buffers. Older buffers count as this old.
pub(super) const AGES: usize = 96;

impl<const FINE: u32> Scale<FINE> {
    /// The step that `length` is in.
    pub(super) const fn step(length: u32) -> u32 {
        if length < 1 << FINE {
            return length;
        }
        // The top bit as an exponent, the bits below it as they are; the top bit itself adds one to it.
        let shift = length.ilog2() - FINE;
        (shift << FINE) + (length >> shift)
    }

    /// The shortest length in `step`.
    pub(super) const fn shortest(step: u32) -> u64 {
        if step < 1 << FINE {
            return step as u64;
        }
        let shift = (step >> FINE) - 1;
        (((step & ((1 << FINE) - 1)) | 1 << FINE) as u64) << shift
    }
}

#[cfg(test)]
mod tests {
    use super::Scale;

    #[test]
    fn every_length_is_in_its_step() {
        fn check<const FINE: u32>() {
            let lengths =
                (0..5000).chain((12..32).flat_map(|bit| (0..9).map(move |n| (1 << bit) - 5 + n)));
            for length in lengths.chain([u32::MAX]) {
                let step = Scale::<FINE>::step(length);
                assert!(Scale::<FINE>::shortest(step) <= u64::from(length), "{length}");
                assert!(Scale::<FINE>::shortest(step + 1) > u64::from(length), "{length}");
            }
        }
        check::<0>();
        check::<2>();
        check::<6>();
    }
}

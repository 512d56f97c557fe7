//! The byte ranges of a buffer that were written since its clean copy was made.

use std::ops::Range;

use smallvec::SmallVec;

/// The size in bytes from which on a buffer is tracked by ranges. A smaller one is tracked as a whole,
/// because copying it again costs less than a submission.
const RANGED: u64 = 256 << 10;

/// Ranges are rounded outwards to multiples of this.
const GRAIN: u64 = 64 << 10;

/// The most ranges that are kept apart. Beyond it, the two closest ones are joined.
const RANGES: usize = 8;

/// Written bytes, as ordered ranges that neither overlap nor touch, rounded outwards.
///
/// The ranges may contain bytes that were not written. They always contain all that were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::buffer) struct DirtyRanges(SmallVec<[Range<u64>; 2]>);

impl DirtyRanges {
    /// The dirty ranges of a buffer of `size` bytes of which only `range` was written.
    pub(in crate::buffer) fn of(range: Range<u64>, size: u64) -> Self {
        if range.is_empty() {
            return Self::default();
        }
        let mut ranges = SmallVec::new();
        ranges.push(rounded(range, size));
        Self(ranges)
    }

    /// Marks `range` of a buffer of `size` bytes as written, or about to be.
    pub(in crate::buffer) fn mark(&mut self, range: Range<u64>, size: u64) {
        if range.is_empty() {
            return;
        }
        let mut new = rounded(range, size);
        // A range that overlaps or touches the new one is merged into it.
        self.0.retain(|old| {
            let apart = old.end < new.start || new.end < old.start;
            if !apart {
                new = old.start.min(new.start)..old.end.max(new.end);
            }
            apart
        });
        let index = self.0.partition_point(|old| old.start < new.start);
        self.0.insert(index, new);
        if self.0.len() > RANGES {
            self.join_closest();
        }
    }

    fn join_closest(&mut self) {
        let gap = |index: &usize| self.0[index + 1].start - self.0[*index].end;
        if let Some(index) = (0..self.0.len() - 1).min_by_key(gap) {
            let next = self.0.remove(index + 1);
            self.0[index].end = next.end;
        }
    }

    /// The ranges, in order.
    pub(in crate::buffer) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    pub(in crate::buffer) fn is_clean(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is marked for a range that is not empty, of a buffer of `size` bytes.
fn rounded(range: Range<u64>, size: u64) -> Range<u64> {
    if size < RANGED {
        return 0..size;
    }
    let end = range.end.checked_next_multiple_of(GRAIN).unwrap_or(size);
    range.start / GRAIN * GRAIN..end.min(size)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges, some with one element")]
mod tests {
    use super::*;

    const LARGE: u64 = 64 << 20;
    const KIB: u64 = 1 << 10;

    fn dirty(marks: &[Range<u64>], size: u64) -> DirtyRanges {
        let mut dirty = DirtyRanges::default();
        marks.iter().for_each(|mark| dirty.mark(mark.clone(), size));
        dirty
    }

    #[test]
    fn a_small_buffer_is_dirty_as_a_whole() {
        assert_eq!(dirty(&[3..4], 5000).ranges(), [0..5000]);
        assert!(dirty(&[3..3], 5000).is_clean());
    }

    #[test]
    fn ranges_are_rounded_outwards_and_end_with_the_buffer() {
        assert_eq!(dirty(&[70 * KIB..71 * KIB], LARGE).ranges(), [64 * KIB..128 * KIB]);
        let odd = LARGE + 5;
        assert_eq!(dirty(&[LARGE + 1..odd], odd).ranges(), [LARGE..odd]);
        assert_eq!(dirty(&[0..u64::MAX], LARGE).ranges(), [0..LARGE]);
    }

    #[test]
    fn ranges_that_touch_are_joined() {
        let [a, b, c] = [0..GRAIN, GRAIN..2 * GRAIN, 3 * GRAIN..4 * GRAIN];
        assert_eq!(dirty(&[a.clone(), c.clone()], LARGE).ranges(), [a.clone(), c.clone()]);
        assert_eq!(dirty(&[c.clone(), a.clone(), b.clone()], LARGE).ranges(), [0..2 * GRAIN, c]);
        assert_eq!(dirty(&[a, b, 0..LARGE], LARGE).ranges(), [0..LARGE]);
    }

    #[test]
    fn beyond_the_limit_the_closest_ranges_are_joined() {
        // Gaps of 1, 2, 3, … grains: the first two are the closest.
        let starts = (0..=RANGES as u64).map(|n| n * (n + 3) / 2 * GRAIN);
        let marks: Vec<_> = starts.map(|start| start..start + GRAIN).collect();
        let joined = dirty(&marks, LARGE);
        assert_eq!(joined.ranges().len(), RANGES);
        assert_eq!(joined.ranges()[0], 0..marks[1].end);
        let bytes: u64 = joined.ranges().iter().map(|range| range.end - range.start).sum();
        assert_eq!(bytes, (RANGES as u64 + 2) * GRAIN);
    }

    /// Compares the ranges with a list of all grains.
    #[test]
    fn every_written_byte_is_in_a_range() {
        let grains = (LARGE / GRAIN) as usize;
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for _ in 0..200 {
            let mut written = vec![false; grains];
            let mut dirty = DirtyRanges::default();
            for _ in 0..next(20) + 1 {
                let start = next(LARGE - 1);
                let end = (start + 1 + next(1 << 20)).min(LARGE);
                dirty.mark(start..end, LARGE);
                let touched = start / GRAIN..end.div_ceil(GRAIN);
                touched.for_each(|grain| written[grain as usize] = true);
                let mut last = None;
                for range in dirty.ranges() {
                    assert!(range.start < range.end && last.is_none_or(|end| end < range.start));
                    last = Some(range.end);
                }
                for (grain, _) in written.iter().enumerate().filter(|(_, written)| **written) {
                    let start = grain as u64 * GRAIN;
                    assert!(dirty.ranges().iter().any(|range| range.contains(&start)), "{start}");
                }
            }
        }
    }
}

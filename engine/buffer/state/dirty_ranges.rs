//! Which bytes of a buffer were written since its clean copy was made.

use std::ops::Range;

use smallvec::SmallVec;

/// Buffers of at least so many bytes are tracked by ranges, smaller ones as a whole: copying them again
/// costs less than a submission.
const RANGED: u64 = 256 << 10;

/// What ranges are rounded to.
const GRAIN: u64 = 64 << 10;

/// How many ranges are told apart. With more, the two that are closest become one.
const RANGES: usize = 8;

/// Written bytes, as disjoint ranges in order, neither overlapping nor touching, rounded outwards.
///
/// It may name more than was written, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::buffer) struct DirtyRanges(SmallVec<[Range<u64>; 2]>);

impl DirtyRanges {
    /// Bytes `range` of a buffer of `size` bytes, and no others.
    pub(in crate::buffer) fn of(range: Range<u64>, size: u64) -> Self {
        let mut dirty = Self::default();
        dirty.mark(range, size);
        dirty
    }

    /// Bytes `range` of a buffer of `size` bytes were written, or are about to be.
    pub(in crate::buffer) fn mark(&mut self, range: Range<u64>, size: u64) {
        if range.is_empty() {
            return;
        }
        let mut new = if size < RANGED {
            0..size
        } else {
            let end = range.end.checked_next_multiple_of(GRAIN).unwrap_or(size);
            range.start / GRAIN * GRAIN..end.min(size)
        };
        // Whoever overlaps or touches it becomes a part of it.
        self.0.retain(|old| {
            let apart = old.end < new.start || new.end < old.start;
            if !apart {
                new = old.start.min(new.start)..old.end.max(new.end);
            }
            apart
        });
        let at = self.0.partition_point(|old| old.start < new.start);
        self.0.insert(at, new);
        if self.0.len() > RANGES {
            self.join_closest();
        }
    }

    fn join_closest(&mut self) {
        let gap = |at: &usize| self.0[at + 1].start - self.0[*at].end;
        if let Some(at) = (0..self.0.len() - 1).min_by_key(gap) {
            let next = self.0.remove(at + 1);
            self.0[at].end = next.end;
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

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges, some of them of one")]
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
    fn what_touches_becomes_one() {
        let [a, b, c] = [0..GRAIN, GRAIN..2 * GRAIN, 3 * GRAIN..4 * GRAIN];
        assert_eq!(dirty(&[a.clone(), c.clone()], LARGE).ranges(), [a.clone(), c.clone()]);
        assert_eq!(dirty(&[c.clone(), a.clone(), b.clone()], LARGE).ranges(), [0..2 * GRAIN, c]);
        assert_eq!(dirty(&[a, b, 0..LARGE], LARGE).ranges(), [0..LARGE]);
    }

    #[test]
    fn with_too_many_the_closest_are_joined() {
        // Gaps of 1, 2, 3, … grains: the first two are the closest.
        let starts = (0..=RANGES as u64).map(|n| n * (n + 3) / 2 * GRAIN);
        let marks: Vec<_> = starts.map(|start| start..start + GRAIN).collect();
        let joined = dirty(&marks, LARGE);
        assert_eq!(joined.ranges().len(), RANGES);
        assert_eq!(joined.ranges()[0], 0..marks[1].end);
        let bytes: u64 = joined.ranges().iter().map(|range| range.end - range.start).sum();
        assert_eq!(bytes, (RANGES as u64 + 2) * GRAIN);
    }

    /// Against a list of all grains.
    #[test]
    fn nothing_that_was_written_is_missed() {
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
                    let at = grain as u64 * GRAIN;
                    assert!(dirty.ranges().iter().any(|range| range.contains(&at)), "{at}");
                }
            }
        }
    }
}

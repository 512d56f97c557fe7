//! Rows that move to another pitch: what is between them.
#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges, of which some have one")]

use std::ops::Range;

use ash::vk;

/// Parts in the order of their new places, each with the bytes behind it up to the next one, if these are few and within
/// the old bytes; and what is then between them. One command with larger regions is faster than many that zero, and the
/// bytes are of the same buffer.
pub(super) fn closed_up(
    parts: &[vk::BufferCopy],
    [from, to]: [u64; 2],
) -> (Vec<vk::BufferCopy>, Vec<Range<u64>>) {
    /// With more gaps than these, all of it is zeroed.
    const MOST_GAPS: usize = 64;
    let mut parts = parts.to_vec();
    parts.sort_unstable_by_key(|part| part.dst_offset);
    let first = parts.first().map_or(to, |part| part.dst_offset);
    let mut gaps = Vec::from([0..first]);
    for at in 0..parts.len() {
        let next = parts.get(at + 1).map_or(to, |next| next.dst_offset);
        let part = &mut parts[at];
        let gap = next - (part.dst_offset + part.size);
        if gap <= part.size && part.src_offset + part.size + gap <= from {
            part.size += gap;
        } else {
            gaps.push(next - gap..next);
        }
    }
    gaps.retain(|gap| !gap.is_empty());
    if gaps.len() > MOST_GAPS {
        gaps = Vec::from([0..to]);
    }
    (parts, gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(src_offset: u64, dst_offset: u64, size: u64) -> vk::BufferCopy {
        vk::BufferCopy { src_offset, dst_offset, size }
    }

    fn shown(parts: &[vk::BufferCopy]) -> Vec<(u64, u64, u64)> {
        parts.iter().map(|part| (part.src_offset, part.dst_offset, part.size)).collect()
    }

    #[test]
    fn rows_are_copied_with_the_bytes_between_them() {
        let rows = [part(0, 0, 60), part(62, 64, 60), part(124, 128, 60)];
        let (parts, gaps) = closed_up(&rows, [200, 256]);
        assert_eq!(shown(&parts), [(0, 0, 64), (62, 64, 64), (124, 128, 60)]);
        assert_eq!(gaps, [188..256], "more than a row: it is zeroed");
    }

    #[test]
    fn nothing_is_read_behind_the_old_bytes_and_the_order_is_that_of_the_new_places() {
        let rows = [part(100, 200, 60), part(0, 16, 60)];
        let (parts, gaps) = closed_up(&rows, [160, 260]);
        assert_eq!(shown(&parts), [(0, 16, 60), (100, 200, 60)]);
        assert_eq!(gaps, [0..16, 76..200]);
        let (parts, gaps) = closed_up(&[part(100, 0, 60)], [160, 64]);
        assert_eq!((shown(&parts), gaps.as_slice()), (vec![(100, 0, 60)], &[60..64][..]));
    }

    #[test]
    fn of_many_gaps_all_is_zeroed() {
        let rows: Vec<_> = (0..100).map(|row| part(row * 4, row * 64, 4)).collect();
        let (parts, gaps) = closed_up(&rows, [400, 6400]);
        assert_eq!((parts.len(), gaps.as_slice()), (100, &[0..6400][..]));
    }
}

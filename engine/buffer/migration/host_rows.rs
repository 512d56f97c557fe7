//! Which rows of a move to other places the host copies: the first ones of a long copy, while the device copies the others.

use std::ops::Range;

use ash::vk;

use super::copier::Copier;
use crate::buffer::object::BufferInner;
use crate::error::Result;
use crate::memory::{Allocation, Backing, HostWait, copy_parts_by_host};
use crate::transfer::path;

/// A copy of parts to other places, in the order of the new places; and what becomes zero, of new memory that is not.
pub(super) struct PlacedParts {
    pub(super) parts: Vec<vk::BufferCopy>,
    pub(super) zeros: Vec<Range<u64>>,
}

impl PlacedParts {
    /// Takes the first parts, up to that many bytes. The last one is cut, so that the host's new bytes end at a multiple of
    /// [`path::PART`]: host and device write no unit of a cache both. Takes none if the device zeroes bytes among them, or
    /// would have no part left.
    fn take_first(&mut self, bytes: u64) -> Vec<vk::BufferCopy> {
        let first = self.parts.first().map_or(0, |part| part.dst_offset);
        let border = (first + bytes) / path::PART * path::PART;
        // The device zeroes whole words.
        let is_zeroed = self.zeros.iter().any(|range| range.start & !3 < border);
        let end = self.parts.last().map_or(0, |part| part.dst_offset + part.size);
        if is_zeroed || border <= first || border >= end {
            return vec![];
        }
        let cut = self.parts.partition_point(|part| part.dst_offset < border);
        let rest = self.parts.split_off(cut);
        let mut taken = std::mem::replace(&mut self.parts, rest);
        if let Some(last) = taken.last_mut()
            && let Some(behind) =
                (last.dst_offset + last.size).checked_sub(border).filter(|bytes| *bytes > 0)
        {
            last.size -= behind;
            let (src_offset, dst_offset) = (last.src_offset + last.size, border);
            self.parts.insert(0, vk::BufferCopy { src_offset, dst_offset, size: behind });
        }
        taken
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }
}

impl Copier {
    /// Takes the parts that the host copies while the device copies the others, of a buffer that has no work to end if it is
    /// `idle`. None where the host sees one of the backings slowly, or where that does not pay.
    pub(super) fn take_host_rows(
        &self,
        buffer: &BufferInner,
        (copy, new): (&mut PlacedParts, &Backing),
        idle: bool,
    ) -> Vec<vk::BufferCopy> {
        // Of memory that is not coherent, a flush would have to know the host's part. Of a dma-buf, the kernel tracks
        // accesses to all of it.
        let suits = |allocation: &Allocation| {
            allocation.is_coherent_and_fast_for_host() && !allocation.is_dma_buf()
        };
        if !idle || !suits(&self.way.old) || !suits(new.allocation()) {
            return vec![];
        }
        let (bytes, time) = (copy.bytes(), self.request.host_time());
        let host = path::host_share(bytes, self.speeds(buffer), time);
        copy.take_first(host.min(bytes.saturating_sub(path::PART)))
    }

    /// Copies parts by the host, in its own order. `Ok(false)` if the host does not see both backings.
    ///
    /// The reservation is held. No work is pending on these parts, nor on their new places.
    #[expect(unsafe_code, reason = "copying between mapped memory that no other thread uses")]
    pub(super) fn copy_by_rows(
        &self,
        buffer: &BufferInner,
        parts: &[vk::BufferCopy],
        new: &Backing,
    ) -> Result<bool> {
        let (from, to) = ((&*self.way.old, self.offset), (&**new.allocation(), new.offset()));
        let lens = (buffer.size, new.extent(buffer.size));
        let rows = parts.iter().map(|part| (part.src_offset, part.dst_offset, part.size));
        // SAFETY: as in `copy_by_host`. All parts are within the buffer, and a device that copies others meanwhile writes
        // other bytes. Of memory that is not coherent there are no other parts.
        unsafe { copy_parts_by_host(from, to, lens, (rows, false), HostWait::Never) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of so many bytes, which move from one pitch to another one.
    fn rows(count: u64, (row, from, to): (u64, u64, u64)) -> Vec<vk::BufferCopy> {
        let part = |at| vk::BufferCopy { src_offset: at * from, dst_offset: at * to, size: row };
        (0..count).map(part).collect()
    }

    /// Every byte of the old places by the new place of it.
    fn placed(parts: &[vk::BufferCopy]) -> Vec<(u64, u64)> {
        let bytes = |part: &vk::BufferCopy| {
            let vk::BufferCopy { src_offset, dst_offset, size } = *part;
            (0..size).map(move |at| (dst_offset + at, src_offset + at))
        };
        parts.iter().flat_map(bytes).collect()
    }

    #[test]
    fn host_and_device_copy_all_parts_and_meet_at_a_border() {
        for (row, from, to) in [(15400, 15424, 15400), (15400, 15400, 15424), (100, 128, 256)] {
            let all = rows(1000, (row, from, to));
            let mut rest = PlacedParts { parts: all.clone(), zeros: vec![] };
            let taken = rest.take_first(3 * path::PART + 17);
            let border = 3 * path::PART;
            assert!(taken.iter().all(|part| part.dst_offset + part.size <= border), "{taken:?}");
            assert!(rest.parts.iter().all(|part| part.dst_offset >= border), "{:?}", rest.parts);
            assert!(taken.iter().chain(&rest.parts).all(|part| part.size > 0));
            let both: Vec<_> = taken.into_iter().chain(rest.parts).collect();
            assert_eq!(placed(&both), placed(&all));
        }
    }

    #[test]
    fn the_host_takes_nothing_that_the_device_zeroes_and_never_all() {
        let parts = rows(1000, (1000, 1000, 1024));
        let take = |bytes, zeros: &[Range<u64>]| {
            let mut copy = PlacedParts { parts: parts.clone(), zeros: zeros.to_vec() };
            copy.take_first(bytes).len()
        };
        let behind = 1000 * 1024 - 24;
        let behind = behind..1 << 20;
        assert_eq!(take(path::PART, std::slice::from_ref(&behind)), 64);
        let among = 5000..5010;
        assert_eq!(take(path::PART, std::slice::from_ref(&among)), 0);
        // A word of the host's has the first byte that becomes zero.
        let beside = path::PART - 1..path::PART + 8;
        assert_eq!(take(path::PART, std::slice::from_ref(&beside)), 0);
        assert_eq!(take(path::PART - 1, &[]), 0, "less than a part");
        assert_eq!(take(1 << 30, &[]), 0, "all of it");
        assert_eq!(PlacedParts { parts: vec![], zeros: vec![] }.take_first(1 << 20).len(), 0);
    }
}

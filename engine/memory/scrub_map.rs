//! Which parts of a large backing have been zeroed or written, while the host alone uses it.
//!
//! A large buffer whose first user is the host is not zeroed as a whole. Each part is zeroed when the host first reads
//! it, or writes some of it; a part that is written whole is not zeroed at all. Before any other use the rest is
//! zeroed ([`super::Backing::finish_scrub`]).
//!
//! Kernel counterpart: the first touch of a page of a `shmem` file (`shmem_fault`).
#![expect(unsafe_code, reason = "zeroing mapped memory that nothing else uses yet")]

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::volatile::HostPtr;

/// Bytes that are zeroed at once: a page.
const PART: u64 = 4 << 10;

/// The most bytes that are written or zeroed at once with the lock held; a multiple of [`PART`]. A use by a device waits
/// for the lock with its reservations held.
const AT_ONCE: u64 = 256 << 10;

/// Parts per word of the map.
const BITS: u64 = 64;

/// Which parts of a backing are valid: zeroed, or written whole by the host.
///
/// **Invariant:** bytes of a part that is not valid are accessed under the lock only, by the methods here. So zeroing
/// races with no other access, and bytes of an earlier owner are never copied out.
#[derive(Debug)]
pub(crate) struct ScrubMap {
    start: HostPtr,
    len: u64,
    /// A bit for each part. It is set under the lock, with release ordering, after the bytes were written.
    valid: Box<[AtomicU64]>,
    lock: Mutex<()>,
    /// Held while a thread waits for the lock, so that threads get it in turn: a write of many pieces would otherwise take
    /// it again before a waiting thread wakes up.
    turn: Mutex<()>,
}

impl ScrubMap {
    /// Creates the map of `len` bytes from `start` on, none of them valid.
    pub(super) fn new(start: HostPtr, len: u64) -> Self {
        let words = len.div_ceil(PART).div_ceil(BITS);
        let valid = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { start, len, valid, lock: Mutex::default(), turn: Mutex::default() }
    }

    /// Whether all parts of `range` are valid: an access of it then needs nothing of the map.
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        self.are_valid(&parts_of(range))
    }

    /// Zeroes those parts of `range` that are not valid, before the host reads it. Returns how many bytes were zeroed.
    ///
    /// # Safety
    ///
    /// The memory that the map was created for is mapped, and `range` lies within it.
    pub(crate) unsafe fn before_read(&self, range: Range<u64>) -> u64 {
        if self.covers(&range) {
            return 0;
        }
        let zero = |piece: Range<u64>| {
            let _locked = self.lock();
            // SAFETY: the caller's contract.
            unsafe { self.zero(parts_of(&piece)) }
        };
        pieces_of(range).map(zero).sum()
    }

    /// Calls `write` for pieces of `range`, in order, each of which it writes as a whole, and makes their parts valid.
    /// Zeroes the bytes beside `range` in its first and last part if they are not valid. Returns how many bytes were
    /// zeroed.
    ///
    /// Locks: that of the map, during each call of `write`, for at most [`AT_ONCE`] bytes.
    ///
    /// # Safety
    ///
    /// As for [`ScrubMap::before_read`].
    pub(crate) unsafe fn write(&self, range: Range<u64>, mut write: impl FnMut(Range<u64>)) -> u64 {
        if self.covers(&range) {
            write(range);
            return 0;
        }
        // SAFETY: the caller's contract.
        pieces_of(range).map(|piece| unsafe { self.write_piece(piece, &mut write) }).sum()
    }

    /// As [`ScrubMap::write`], at once.
    ///
    /// # Safety
    ///
    /// As for [`ScrubMap::before_read`].
    unsafe fn write_piece(&self, range: Range<u64>, write: &mut impl FnMut(Range<u64>)) -> u64 {
        let parts = parts_of(&range);
        let _locked = self.lock();
        let mut zeroed = 0;
        if !range.start.is_multiple_of(PART) {
            // SAFETY: the caller's contract; the part begins before the range and is not behind the memory's end.
            zeroed += unsafe { self.zero(parts.start..parts.start + 1) };
        }
        if !range.end.is_multiple_of(PART) && range.end != self.len {
            // SAFETY: as above.
            zeroed += unsafe { self.zero(parts.end - 1..parts.end) };
        }
        write(range);
        self.mark(parts);
        zeroed
    }

    /// All bytes.
    pub(super) fn all(&self) -> Range<u64> {
        0..self.len
    }

    /// How many bytes [`ScrubMap::finish`] would zero. Accesses of the host may make it less.
    pub(super) fn left(&self) -> u64 {
        let parts = words(&parts_of(&(0..self.len)));
        let missing = |(word, mask): (usize, u64)| {
            let valid = self.valid.get(word).map_or(0, |bits| bits.load(Relaxed));
            u64::from((!valid & mask).count_ones())
        };
        // The last part may be shorter.
        (parts.map(missing).sum::<u64>() * PART).min(self.len)
    }

    /// Zeroes at most [`AT_ONCE`] bytes from the first part on that is not valid. Returns how many bytes these were: none if all
    /// are valid.
    ///
    /// # Safety
    ///
    /// As for [`ScrubMap::finish`].
    pub(super) unsafe fn zero_some(&self) -> u64 {
        let _locked = self.lock();
        let end = self.len.div_ceil(PART);
        let Some(first) = (0..end).find(|&part| !self.is_valid(part)) else { return 0 };
        // SAFETY: the caller's contract; these are parts of the memory.
        unsafe { self.zero(first..(first + AT_ONCE / PART).min(end)) }
    }

    /// Zeroes all parts that are not valid. Returns how many bytes these were.
    ///
    /// # Safety
    ///
    /// The memory that the map was created for is mapped.
    pub(super) unsafe fn finish(&self) -> u64 {
        let parts = parts_of(&(0..self.len));
        if self.are_valid(&parts) {
            return 0;
        }
        let _locked = self.lock();
        // SAFETY: the caller's contract; these are all parts.
        unsafe { self.zero(parts) }
    }

    /// Zeroes those of `parts` that are not valid, as few runs as there are, and marks them. The lock is held.
    ///
    /// # Safety
    ///
    /// The memory is mapped, and has these parts.
    unsafe fn zero(&self, parts: Range<u64>) -> u64 {
        let (mut next, mut zeroed) = (parts.start, 0);
        while let Some(first) = (next..parts.end).find(|&part| !self.is_valid(part)) {
            let end = (first..parts.end).find(|&part| self.is_valid(part)).unwrap_or(parts.end);
            let (from, to) = (first * PART, (end * PART).min(self.len));
            // CAST: the memory is mapped, so it fits the address space.
            // SAFETY: within the memory, as the caller says.
            let at = unsafe { self.start.at(from as usize) };
            // CAST: as above.
            // SAFETY: as above. Nothing else accesses these parts: by the type's invariant all accesses of the host
            // take the lock, and no device uses a backing before the rest was zeroed. The host caches it, as
            // `Backing::scrub_in_parts` has checked.
            unsafe { at.fill_quickly(0, (to - from) as usize) };
            self.mark(first..end);
            zeroed += to - from;
            next = end;
        }
        zeroed
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that panicked has marked no part that it had not written.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_valid(&self, part: u64) -> bool {
        self.are_valid(&(part..part + 1))
    }

    fn are_valid(&self, parts: &Range<u64>) -> bool {
        words(parts).all(|(word, mask)| {
            self.valid.get(word).is_some_and(|bits| bits.load(Acquire) & mask == mask)
        })
    }

    fn mark(&self, parts: Range<u64>) {
        for (word, mask) in words(&parts) {
            if let Some(bits) = self.valid.get(word) {
                // Set under the lock alone, so no bit is lost.
                bits.store(bits.load(Relaxed) | mask, Release);
            }
        }
    }
}

/// The parts that a range of bytes touches.
fn parts_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / PART..range.end.div_ceil(PART) }
}

/// A range in pieces of at most [`AT_ONCE`] bytes. All but the last end where a part ends.
fn pieces_of(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { mut start, end } = range;
    std::iter::from_fn(move || {
        let next = ((start / AT_ONCE + 1) * AT_ONCE).min(end);
        let piece = start..next;
        start = next;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The words of the map that have bits of `parts`, each with these bits.
fn words(parts: &Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let (start, end) = (parts.start, parts.end);
    (start / BITS..end.div_ceil(BITS)).map(move |word| {
        let low = start.saturating_sub(word * BITS);
        let high = (end - word * BITS).min(BITS);
        let below = |bit: u64| if bit == BITS { u64::MAX } else { (1 << bit) - 1 };
        // CAST: an index into memory of this process.
        (word as usize, below(high) & !below(low))
    })
}

/// The maps of a slab's slots that are zeroed by parts: few, and most often none.
#[derive(Debug, Default)]
pub(super) struct ScrubMaps(Mutex<Vec<(u32, Arc<ScrubMap>)>>);

impl ScrubMaps {
    pub(super) fn get(&self, slot: u32) -> Option<Arc<ScrubMap>> {
        self.lock().iter().find(|(of, _)| *of == slot).map(|(_, map)| Arc::clone(map))
    }

    pub(super) fn insert(&self, slot: u32, map: Arc<ScrubMap>) {
        self.lock().push((slot, map));
    }

    pub(super) fn take(&self, slot: u32) -> Option<Arc<ScrubMap>> {
        let mut maps = self.lock();
        let found = maps.iter().position(|(of, _)| *of == slot)?;
        Some(maps.swap_remove(found).1)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u32, Arc<ScrubMap>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    // CAST: a page.
    const STEP: usize = PART as usize;
    const LEN: usize = 70 * STEP + 512;

    /// Memory that holds an earlier owner's bytes, and its map.
    fn stale(memory: &mut Vec<u8>) -> (HostPtr, ScrubMap) {
        *memory = vec![0xee; LEN];
        let start = HostPtr::new(NonNull::new(memory.as_mut_ptr()).expect("not null"));
        (start, ScrubMap::new(start, LEN as u64))
    }

    fn write(start: HostPtr, map: &ScrubMap, range: Range<usize>) -> u64 {
        let mut written = range.start as u64;
        let write = |piece: Range<u64>| {
            assert!(piece.start == written && piece.end - piece.start <= AT_ONCE, "{piece:?}");
            written = piece.end;
            // CAST: within the memory.
            let bytes = vec![7; (piece.end - piece.start) as usize];
            // CAST: as above.
            // SAFETY: all ranges lie within the memory.
            let at = unsafe { start.at(piece.start as usize) };
            // SAFETY: as above.
            unsafe { at.write(&bytes) };
        };
        // SAFETY: as above.
        let zeroed = unsafe { map.write(range.start as u64..range.end as u64, write) };
        assert_eq!(written, range.end as u64);
        zeroed
    }

    #[test]
    fn a_write_zeroes_the_rest_of_its_first_and_last_part_and_no_others() {
        for (range, zeroed) in [
            (0..STEP, 0),
            (0..1, STEP),
            (1..STEP, STEP),
            (STEP - 1..STEP + 1, 2 * STEP),
            (STEP..3 * STEP + 1, STEP),
            (63 * STEP + 5..66 * STEP, STEP),
            (70 * STEP..LEN, 0),
            (70 * STEP + 1..LEN, 512),
            (0..LEN, 0),
            (5..5, 0),
        ] {
            let mut memory = Vec::new();
            let (start, map) = stale(&mut memory);
            assert_eq!(write(start, &map, range.clone()), zeroed as u64, "{range:?}");
            for (at, &byte) in memory.iter().enumerate() {
                let touched = !range.is_empty()
                    && (range.start / STEP..range.end.div_ceil(STEP)).contains(&(at / STEP));
                let expected = match (range.contains(&at), touched) {
                    (true, _) => 7,
                    (false, true) => 0,
                    (false, false) => 0xee,
                };
                assert_eq!(byte, expected, "byte {at} after a write of {range:?}");
            }
        }
    }

    #[test]
    fn each_byte_is_zeroed_once_and_what_was_written_stays() {
        let mut memory = Vec::new();
        let (start, map) = stale(&mut memory);
        assert_eq!(write(start, &map, 0..8), STEP as u64);
        assert_eq!(write(start, &map, 8..16), 0);
        assert_eq!(write(start, &map, 2 * STEP..66 * STEP), 0);
        // SAFETY: within the memory.
        let read = |range| unsafe { map.before_read(range) };
        assert_eq!(read(0..PART), 0);
        assert_eq!(read(PART..PART + 1), PART);
        assert_eq!(read(PART..3 * PART), 0);
        let left = LEN as u64 - 66 * PART;
        assert_eq!(map.left(), left.next_multiple_of(PART), "in whole parts");
        // SAFETY: as above.
        assert_eq!(unsafe { map.finish() }, left);
        // SAFETY: as above.
        assert_eq!(unsafe { map.finish() }, 0);
        assert_eq!(map.left(), 0);
        let own = |at: usize| at < 16 || (2 * STEP..66 * STEP).contains(&at);
        for (at, &byte) in memory.iter().enumerate() {
            assert_eq!(byte, if own(at) { 7 } else { 0 }, "byte {at}");
        }
    }
}

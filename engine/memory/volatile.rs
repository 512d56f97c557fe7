//! Access to bytes that a GPU, another process or another thread may write at any time: copies by relaxed atomic
//! operations, never references.
//!
//! A `&[u8]` promises the compiler that no other thread writes, which does not hold for shared memory (the rule of
//! rust-vmm's `vm-memory`). So this is a pointer, with copies from and to it. The operations are atomic, because two
//! threads may write the same bytes through two host accesses: a race of plain or volatile writes is undefined
//! behaviour, one of relaxed stores leaves one of the values. On every target they are the plain instructions.
#![expect(unsafe_code, reason = "access by raw pointer to shared memory")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use super::wide;

/// The address of mapped memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPtr(NonNull<u8>);

// SAFETY: an address only; accesses are made by the unsafe functions below.
unsafe impl Send for HostPtr {}
// SAFETY: as above.
unsafe impl Sync for HostPtr {}

/// The unit of bulk copies. The compiler does not merge atomic accesses, so the unit determines the speed.
type Word = u64;
const WORD: usize = size_of::<Word>();

impl HostPtr {
    pub(crate) fn new(pointer: NonNull<u8>) -> Self {
        Self(pointer)
    }

    pub(crate) fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// The pointer `offset` bytes on.
    ///
    /// # Safety
    ///
    /// `offset` lies within the mapping that `self` points to.
    pub(crate) unsafe fn at(self, offset: usize) -> Self {
        // SAFETY: within the mapping, as the caller says.
        Self(unsafe { self.0.add(offset) })
    }

    /// Copies `out.len()` bytes from here.
    ///
    /// # Safety
    ///
    /// That many bytes from here on are mapped and readable.
    pub(crate) unsafe fn read(self, out: &mut [u8]) {
        let head = self.head(out.len());
        let (first, rest) = out.split_at_mut(head);
        // SAFETY: `head` is at most the length.
        let aligned = unsafe { self.at(head) };
        let (words, tail) = rest.as_chunks_mut::<WORD>();
        // SAFETY: the words' length is at most the rest's.
        let end = unsafe { aligned.at(words.len() * WORD) };
        for (index, byte) in first.iter_mut().enumerate() {
            // SAFETY: readable, as the caller says.
            *byte = unsafe { self.byte(index) }.load(Relaxed);
        }
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: readable, and aligned by the choice of `head`.
            *word = unsafe { aligned.word(index) }.load(Relaxed).to_ne_bytes();
        }
        for (index, byte) in tail.iter_mut().enumerate() {
            // SAFETY: readable, as the caller says.
            *byte = unsafe { end.byte(index) }.load(Relaxed);
        }
    }

    /// Copies `bytes` to here.
    ///
    /// # Safety
    ///
    /// That many bytes from here on are mapped and writable.
    pub(crate) unsafe fn write(self, bytes: &[u8]) {
        let head = self.head(bytes.len());
        let (first, rest) = bytes.split_at(head);
        // SAFETY: `head` is at most the length.
        let aligned = unsafe { self.at(head) };
        let (words, tail) = rest.as_chunks::<WORD>();
        // SAFETY: the words' length is at most the rest's.
        let end = unsafe { aligned.at(words.len() * WORD) };
        for (index, &byte) in first.iter().enumerate() {
            // SAFETY: writable, as the caller says.
            unsafe { self.byte(index) }.store(byte, Relaxed);
        }
        for (index, &word) in words.iter().enumerate() {
            // SAFETY: writable, and aligned by the choice of `head`.
            unsafe { aligned.word(index) }.store(Word::from_ne_bytes(word), Relaxed);
        }
        for (index, &byte) in tail.iter().enumerate() {
            // SAFETY: writable, as the caller says.
            unsafe { end.byte(index) }.store(byte, Relaxed);
        }
    }

    /// Copies `len` bytes from `source` to here, while others may write either range.
    ///
    /// # Safety
    ///
    /// Both ranges are mapped, the one here is writable, and they do not overlap.
    pub(crate) unsafe fn copy_shared_from(self, source: Self, len: usize) {
        let mut part = [0; 4096];
        let mut done = 0;
        while done < len {
            let part = &mut part[..(len - done).min(4096)];
            // SAFETY: within the range that the caller names, as `done` is less than `len`.
            let from = unsafe { source.at(done) };
            // SAFETY: as above.
            let to = unsafe { self.at(done) };
            // SAFETY: as above; the part ends at `len` at the latest.
            unsafe { from.read(part) };
            // SAFETY: as above.
            unsafe { to.write(part) };
            done += part.len();
        }
    }

    /// Sets `len` bytes from here on to `value`.
    ///
    /// Not atomic: nothing is read, so a concurrent write cannot be misread. Besides, this is used only for
    /// memory that has no other user yet (scrubbing), or that is overwritten as a whole.
    ///
    /// # Safety
    ///
    /// That many bytes from here on are mapped and writable.
    pub(crate) unsafe fn fill(self, value: u8, len: usize) {
        // SAFETY: writable, as the caller says.
        unsafe { self.as_ptr().write_bytes(value, len) };
    }

    /// Copies `len` bytes from `source` to here.
    ///
    /// # Safety
    ///
    /// Both ranges are mapped and do not overlap. Nothing writes either of them meanwhile: the caller
    /// holds both reservations and has waited for their fences.
    pub(crate) unsafe fn copy_from(self, source: Self, len: usize) {
        // SAFETY: as the caller says.
        unsafe { self.as_ptr().copy_from_nonoverlapping(source.as_ptr(), len) };
    }

    /// Like [`HostPtr::fill`], with the kernel that was measured to be fastest for this size.
    ///
    /// # Safety
    ///
    /// As for [`HostPtr::fill`]; and the memory is cached by the processor.
    pub(crate) unsafe fn fill_quickly(self, value: u8, len: usize) {
        // SAFETY: the caller's contract.
        unsafe { wide::fill(self.as_ptr(), value, len) };
    }

    /// Like [`HostPtr::copy_from`], with the kernel that was measured to be fastest for this size.
    ///
    /// # Safety
    ///
    /// As for [`HostPtr::copy_from`]; and both ranges are cached by the processor.
    pub(crate) unsafe fn copy_quickly_from(self, source: Self, len: usize) {
        // SAFETY: the caller's contract.
        unsafe { wide::copy(self.as_ptr(), source.as_ptr(), len) };
    }

    /// The byte `index` bytes from here.
    ///
    /// # Safety
    ///
    /// It is mapped, and stays so while the result lives.
    unsafe fn byte<'a>(self, index: usize) -> &'a AtomicU8 {
        // SAFETY: mapped, as the caller says; a byte is aligned. All accesses by the host that may race are atomic:
        // plain ones are made only where the callers know that nothing else writes.
        unsafe { AtomicU8::from_ptr(self.as_ptr().wrapping_add(index)) }
    }

    /// The word `index` words from here, which is a word boundary.
    ///
    /// # Safety
    ///
    /// As for [`HostPtr::byte`], and `self` is aligned to a word.
    unsafe fn word<'a>(self, index: usize) -> &'a AtomicU64 {
        // SAFETY: mapped and aligned, as the caller says; as in `byte`.
        unsafe { AtomicU64::from_ptr(self.as_ptr().cast::<Word>().wrapping_add(index)) }
    }

    /// Bytes up to the next word boundary, at most `len`.
    fn head(self, len: usize) -> usize {
        self.as_ptr().align_offset(WORD).min(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_alignment_and_length() {
        let mut memory = [0u8; 64];
        let base = HostPtr::new(NonNull::new(memory.as_mut_ptr()).expect("not null"));
        for start in 0..16 {
            for len in 0..40 {
                let bytes: Vec<u8> = (0..len).map(|i| (start * 41 + i * 7 + 1) as u8).collect();
                let mut back = vec![0; len];
                let mut around = [0; 64];
                // SAFETY: all ranges lie within `memory`.
                unsafe { base.fill(0xee, 64) };
                // SAFETY: as above.
                let here = unsafe { base.at(start) };
                // SAFETY: as above.
                unsafe { here.write(&bytes) };
                // SAFETY: as above.
                unsafe { here.read(&mut back) };
                // SAFETY: as above.
                unsafe { base.read(&mut around) };
                assert_eq!(back, bytes);
                assert!(around[..start].iter().all(|&b| b == 0xee));
                assert!(around[start + len..].iter().all(|&b| b == 0xee));
            }
        }
    }

    #[test]
    fn quick_copies_and_fills_are_exact() {
        const SIZE: usize = (1 << 20) + 3;
        let mut source: Vec<u8> = (0..SIZE).map(|index| (index * 7 % 251) as u8).collect();
        let mut target = vec![0xee; SIZE];
        let [from, to] = [&mut source, &mut target]
            .map(|bytes| HostPtr::new(NonNull::new(bytes.as_mut_ptr()).expect("not null")));
        // SAFETY: two `Vec`s of `SIZE` bytes.
        unsafe { to.copy_quickly_from(from, SIZE) };
        assert!(target == source);
        // SAFETY: as above.
        let second = unsafe { to.at(1) };
        // SAFETY: as above; the first byte and the last stay.
        unsafe { second.fill_quickly(0, SIZE - 2) };
        assert_eq!([target[0], target[SIZE - 1]], [source[0], source[SIZE - 1]]);
        assert!(target[1..SIZE - 1].iter().all(|&byte| byte == 0));
    }
}

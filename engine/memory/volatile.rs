//! Access to bytes that a GPU, another process or another thread may write at any time: copies by relaxed atomic
//! operations, never references.
//!
//! A `&[u8]` promises the compiler that no other thread writes, which does not hold for shared memory (the rule of
//! rust-vmm's `vm-memory`). So this is a pointer, with copies from and to it. The operations are atomic, because two
//! threads may write the same bytes through two host accesses: a race of plain or volatile writes is undefined
//! behaviour, one of relaxed stores leaves one of the values.
//!
//! All of them are accesses of one byte, because a race of atomic accesses of different sizes is undefined behaviour
//! as well (`std::sync::atomic`, "Memory model for atomic accesses"), and two ranges may overlap in a part of a word.
//! The compiler does not merge accesses of bytes, so whole words are copied in assembly. Such a block may do what a
//! foreign function may do, and it does relaxed accesses of bytes: the processor does several in one instruction, in
//! an order that relaxed accesses leave open.
#![expect(unsafe_code, reason = "access by raw pointer to shared memory")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::wide;

/// The address of mapped memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPtr(NonNull<u8>);

// SAFETY: an address only; accesses are made by the unsafe functions below.
unsafe impl Send for HostPtr {}
// SAFETY: as above.
unsafe impl Sync for HostPtr {}

/// Bytes of the words that [`copy_words`] copies.
const WORD: usize = 8;

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
        // SAFETY: readable, as the caller says; `words` is borrowed exclusively.
        unsafe { copy_words(words.as_mut_ptr().cast(), aligned.as_ptr(), words.len()) };
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
        // SAFETY: writable, as the caller says; `words` is borrowed.
        unsafe { copy_words(aligned.as_ptr(), words.as_ptr().cast(), words.len()) };
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

    /// Bytes up to the next word boundary, at most `len`.
    fn head(self, len: usize) -> usize {
        self.as_ptr().align_offset(WORD).min(len)
    }
}

/// Copies words, by relaxed atomic accesses of bytes. On a processor whose instructions are not known here each byte
/// is an access of its own, which is slow.
///
/// # Safety
///
/// Both ranges are mapped, the first is writable, and they do not overlap.
unsafe fn copy_words(to: *mut u8, from: *const u8, words: usize) {
    if words == 0 {
        return;
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's contract; the loops end at the last whole block of 64 bytes, and at the last word. Every
    // x86-64 processor has SSE2.
    unsafe {
        std::arch::asm!(
            "cmp {at}, {blocks}",
            "jae 3f",
            "2:",
            "movdqu {a}, [{from} + {at}]",
            "movdqu {b}, [{from} + {at} + 16]",
            "movdqu {c}, [{from} + {at} + 32]",
            "movdqu {d}, [{from} + {at} + 48]",
            "movdqu [{to} + {at}], {a}",
            "movdqu [{to} + {at} + 16], {b}",
            "movdqu [{to} + {at} + 32], {c}",
            "movdqu [{to} + {at} + 48], {d}",
            "add {at}, 64",
            "cmp {at}, {blocks}",
            "jb 2b",
            "3:",
            "cmp {at}, {len}",
            "jae 5f",
            "4:",
            "mov {word}, qword ptr [{from} + {at}]",
            "mov qword ptr [{to} + {at}], {word}",
            "add {at}, 8",
            "cmp {at}, {len}",
            "jb 4b",
            "5:",
            to = in(reg) to,
            from = in(reg) from,
            len = in(reg) words * WORD,
            blocks = in(reg) words * WORD / 64 * 64,
            at = inout(reg) 0usize => _,
            word = out(reg) _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: the caller's contract; there is at least one word.
    unsafe {
        std::arch::asm!(
            "2:",
            "ldr {word}, [{from}], #8",
            "str {word}, [{to}], #8",
            "subs {words}, {words}, #1",
            "b.ne 2b",
            to = inout(reg) to => _,
            from = inout(reg) from => _,
            words = inout(reg) words => _,
            word = out(reg) _,
            options(nostack),
        );
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    for at in 0..words * WORD {
        // SAFETY: within the range that the caller names; a byte is aligned.
        let from = unsafe { AtomicU8::from_ptr(from.wrapping_add(at).cast_mut()) };
        // SAFETY: as above.
        let to = unsafe { AtomicU8::from_ptr(to.wrapping_add(at)) };
        to.store(from.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_alignment_and_length() {
        const SIZE: usize = 240;
        let mut memory = [0u8; SIZE];
        let base = HostPtr::new(NonNull::new(memory.as_mut_ptr()).expect("not null"));
        for start in 0..16 {
            for len in 0..216 {
                let bytes: Vec<u8> = (0..len).map(|i| (start * 41 + i * 7 + 1) as u8).collect();
                let mut back = vec![0; len];
                let mut around = [0; SIZE];
                // SAFETY: all ranges lie within `memory`.
                unsafe { base.fill(0xee, SIZE) };
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

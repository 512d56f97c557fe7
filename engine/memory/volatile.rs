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
//! The compiler does not merge accesses of bytes, so words and vectors are copied in assembly. Such a block may do what a
//! foreign function may do, and it does relaxed accesses of bytes: the processor does several in one instruction, in
//! an order that relaxed accesses leave open.
#![expect(unsafe_code, reason = "access by raw pointer to shared memory")]

mod copy_bytes;

use std::ptr::NonNull;

use self::copy_bytes::{IN, OUT, WORD, copy_bytes};
use super::wide::{self, Stores};

/// The address of mapped memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPtr(NonNull<u8>);

// SAFETY: an address only; accesses are made by the unsafe functions below.
unsafe impl Send for HostPtr {}
// SAFETY: as above.
unsafe impl Sync for HostPtr {}

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
        // SAFETY: readable, as the caller says; `out` is borrowed exclusively.
        unsafe {
            copy_bytes::<OUT>(out.as_mut_ptr(), self.as_ptr(), out.len(), self.head(out.len()));
        };
    }

    /// Copies `bytes` to here.
    ///
    /// # Safety
    ///
    /// That many bytes from here on are mapped and writable.
    pub(crate) unsafe fn write(self, bytes: &[u8]) {
        // SAFETY: writable, as the caller says; `bytes` is borrowed.
        unsafe {
            copy_bytes::<IN>(self.as_ptr(), bytes.as_ptr(), bytes.len(), self.head(bytes.len()));
        };
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
        unsafe { self.copy_by_stores_from(source, len, Stores::Fastest) };
    }

    /// Like [`HostPtr::copy_quickly_from`], with the given stores.
    ///
    /// # Safety
    ///
    /// As for [`HostPtr::copy_quickly_from`].
    pub(super) unsafe fn copy_by_stores_from(self, source: Self, len: usize, stores: Stores) {
        // SAFETY: the caller's contract.
        unsafe { wide::copy(self.as_ptr(), source.as_ptr(), len, stores) };
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
        const SIZE: usize = 1200;
        let mut memory = [0u8; SIZE];
        let base = HostPtr::new(NonNull::new(memory.as_mut_ptr()).expect("not null"));
        for start in 0..16 {
            for len in (0..300).chain((300..1100).step_by(61)) {
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

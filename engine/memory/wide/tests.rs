//! Tests of every kernel that this processor supports.

use super::kernel::{BLOCK, Kernel, PLAIN};
use super::kernels::available;
use super::*;

/// Bytes around the written range, which must stay unchanged.
const GUARD: usize = 2 * BLOCK;
const UNTOUCHED: u8 = 0xee;

/// Runs `write` on `len` bytes at `offset` from an aligned address, and returns those bytes.
fn written(len: usize, offset: usize, write: impl FnOnce(*mut u8)) -> Vec<u8> {
    let mut room = vec![UNTOUCHED; GUARD + offset + len + GUARD + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK) + GUARD + offset;
    write(room[start..].as_mut_ptr());
    let end = start + len;
    assert!(room[..start].iter().all(|&byte| byte == UNTOUCHED), "before: {len} at {offset}");
    assert!(room[end..].iter().all(|&byte| byte == UNTOUCHED), "after: {len} at {offset}");
    room.truncate(end);
    room.split_off(start)
}

/// Bytes that differ at any two positions closer than an iteration of a kernel, and are never [`UNTOUCHED`].
fn source(len: usize) -> Vec<u8> {
    // CAST: below 199.
    (0..len).map(|index| ((index * 7 + index / 199) % 199) as u8).collect()
}

fn check_copy(kernel: &Kernel, bytes: &[u8], offset: usize) {
    let len = bytes.len();
    let copied = written(len, offset, |to| {
        // SAFETY: two `Vec`s with room for that many bytes; this processor supports the kernel.
        unsafe { kernel.copy(to, bytes.as_ptr(), len) };
    });
    assert!(copied == bytes, "{kernel}: {len} bytes from {:?} to +{offset}", bytes.as_ptr());
}

fn check_fill(kernel: &Kernel, value: u8, len: usize, offset: usize) {
    let filled = written(len, offset, |to| {
        // SAFETY: a `Vec` with room for that many bytes; this processor supports the kernel.
        unsafe { kernel.fill(to, value, len) };
    });
    let right = filled.iter().all(|&byte| byte == value);
    assert!(right && filled.len() == len, "{kernel}: {len} times {value} at +{offset}");
}

/// Marsaglia's xorshift, with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // CAST: the remainder is less than `end`.
        ((self.0 >> 11) % end as u64) as usize
    }
}

#[test]
fn every_kernel_copies_every_small_length_exactly() {
    let bytes = source(1024 + BLOCK);
    for kernel in available() {
        for len in 0..=1024 {
            for (offset, skipped) in [(0, 0), (0, 1), (1, 0), (1, 1), (127, 64), (64, 63)] {
                check_copy(kernel, &bytes[skipped..][..len], offset);
            }
        }
    }
}

#[test]
fn every_kernel_fills_every_small_length_exactly() {
    for kernel in available() {
        for len in 0..=1024 {
            for (offset, value) in [(0, 0), (1, 0), (127, 0xa5), (64, 0xff)] {
                check_fill(kernel, value, len, offset);
            }
        }
    }
}

#[test]
fn every_kernel_copies_and_fills_at_random() {
    const MOST: usize = 4 << 20;
    let bytes = source(MOST + BLOCK);
    for kernel in available() {
        let mut random = Random(2026);
        for _ in 0..24 {
            let (len, offset) = (random.below(MOST + 1), random.below(BLOCK));
            check_copy(kernel, &bytes[random.below(BLOCK)..][..len], offset);
            // CAST: below 256.
            check_fill(kernel, random.below(256) as u8, len, offset);
        }
    }
}

/// Tests sizes around each one at which the choice of the kernel changes.
#[test]
fn the_chosen_kernels_copy_and_fill_exactly() {
    let bytes = source(STREAMED + 2);
    for len in [0, 1, WIDE - 1, WIDE, WIDE + 1, STREAMED - 1, STREAMED, STREAMED + 1] {
        for stores in [Stores::Fastest, Stores::Cached, Stores::PastCache] {
            let copied = written(len, 3, |to| {
                // SAFETY: two `Vec`s with room for that many bytes.
                unsafe { copy(to, bytes[1..].as_ptr(), len, stores) };
            });
            assert!(copied == bytes[1..][..len], "{len} bytes, {stores:?}");
        }
        let filled = written(len, 3, |to| {
            // SAFETY: a `Vec` with room for that many bytes.
            unsafe { fill(to, 0, len) };
        });
        assert!(filled.iter().all(|&byte| byte == 0), "{len} bytes");
    }
}

#[test]
fn stores_are_those_that_were_asked_for() {
    for len in [1, WIDE, STREAMED] {
        assert!(Stores::Cached.kernel(len).is_cached, "{len} bytes");
        let past = Stores::PastCache.kernel(len);
        assert!(!has_stores_past_cache() || !past.is_cached, "{len} bytes by {past}");
    }
}

#[test]
fn supported_kernels_are_chosen_once() {
    let measured = measured();
    for choice in [measured.copy, measured.fill] {
        for kernel in [choice.cached, choice.streamed] {
            assert!((kernel.is_available)(), "{kernel}");
        }
        // Copies that fit a cache are left there for the next reader.
        assert!(choice.cached.is_cached, "{}", choice.cached);
    }
    assert!(std::ptr::eq(measured, super::measured()));
}

#[test]
fn few_bytes_are_copied_without_measuring() {
    for len in [0, 1, WIDE - 1] {
        let kernel = choose(len, |_| unreachable!("{len} bytes need no choice"));
        assert_eq!(kernel.name, PLAIN.name);
    }
}

#[test]
fn the_plain_kernel_is_always_there() {
    assert_eq!(available()[0].name, PLAIN.name);
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "overlap")]
fn an_overlap_is_detected() {
    let mut bytes = source(64);
    let start = bytes.as_mut_ptr();
    // SAFETY: none: the assertion under test fails before the first access.
    unsafe { PLAIN.copy(start.wrapping_add(1), start, 63) };
}

//! Copies of bytes that other threads, devices or processes may access meanwhile.
//!
//! Each is in assembly, which does relaxed atomic accesses of bytes, several in one instruction: see the parent's
//! documentation.

#[cfg(any(miri, not(target_arch = "x86_64")))]
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Bytes of a word, at whose multiples words are accessed.
pub(super) const WORD: usize = 8;

/// The direction of a copy out of shared memory, into bytes that this thread has alone.
pub(super) const OUT: bool = true;
/// The direction of a copy into shared memory, from bytes that nothing writes meanwhile.
pub(super) const IN: bool = false;

/// Copies bytes, by relaxed atomic accesses of bytes: with vectors of 16 or 32 bytes, at any alignment. The last vector
/// may overlap the one before. Its bytes are then stored twice, which leaves one of the values that were read.
///
/// # Safety
///
/// Both ranges are mapped, the first is writable, and they do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(super) unsafe fn copy_bytes<const DIRECTION: bool>(
    to: *mut u8,
    from: *const u8,
    len: usize,
    _head: usize,
) {
    use std::arch::is_x86_feature_detected;

    match len {
        // SAFETY: the caller's contract, for each of these.
        0..16 => unsafe { copy_few(to, from, len) },
        // SAFETY: as above; the processor has AVX2.
        256.. if is_x86_feature_detected!("avx2") => unsafe { copy_by_32(to, from, len) },
        // SAFETY: as above; every x86-64 processor has SSE2.
        _ => unsafe { copy_by_16(to, from, len) },
    }
}

/// Copies less than 16 bytes, by two accesses that may overlap.
///
/// # Safety
///
/// As for [`copy_bytes`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy_few(to: *mut u8, from: *const u8, len: usize) {
    /// Copies the first and the last `$width` bytes.
    macro_rules! both_ends {
        ($width:literal, $first:literal, $last:literal, $store_first:literal, $store_last:literal) => {
            // SAFETY: the caller's contract; there are at least so many bytes.
            unsafe {
                std::arch::asm!(
                    $first, $last, $store_first, $store_last,
                    to = in(reg) to,
                    from = in(reg) from,
                    last = in(reg) len - $width,
                    a = out(reg) _,
                    b = out(reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    match len {
        8.. => both_ends!(
            8,
            "mov {a}, qword ptr [{from}]",
            "mov {b}, qword ptr [{from} + {last}]",
            "mov qword ptr [{to}], {a}",
            "mov qword ptr [{to} + {last}], {b}"
        ),
        4..8 => both_ends!(
            4,
            "mov {a:e}, dword ptr [{from}]",
            "mov {b:e}, dword ptr [{from} + {last}]",
            "mov dword ptr [{to}], {a:e}",
            "mov dword ptr [{to} + {last}], {b:e}"
        ),
        2..4 => both_ends!(
            2,
            "movzx {a:e}, word ptr [{from}]",
            "movzx {b:e}, word ptr [{from} + {last}]",
            "mov word ptr [{to}], {a:x}",
            "mov word ptr [{to} + {last}], {b:x}"
        ),
        1 => both_ends!(
            1,
            "movzx {a:e}, byte ptr [{from}]",
            "movzx {b:e}, byte ptr [{from} + {last}]",
            "mov byte ptr [{to}], {a:l}",
            "mov byte ptr [{to} + {last}], {b:l}"
        ),
        0 => {}
    }
}

/// Copies at least 16 bytes.
///
/// # Safety
///
/// As for [`copy_bytes`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy_by_16(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract. The loops end at the last whole block of 64 bytes, and before the last 16 bytes,
    // which are copied at the end.
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
            "cmp {at}, {last}",
            "jae 5f",
            "4:",
            "movdqu {a}, [{from} + {at}]",
            "movdqu [{to} + {at}], {a}",
            "add {at}, 16",
            "cmp {at}, {last}",
            "jb 4b",
            "5:",
            "movdqu {a}, [{from} + {last}]",
            "movdqu [{to} + {last}], {a}",
            to = in(reg) to,
            from = in(reg) from,
            last = in(reg) len - 16,
            blocks = in(reg) len / 64 * 64,
            at = inout(reg) 0usize => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Copies at least 128 bytes.
///
/// # Safety
///
/// As for [`copy_bytes`]; and the processor supports AVX2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy_by_32(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract. The loop ends before the last 128 bytes, which are copied at the end, or is one
    // iteration over them. All vector registers are named as clobbered, since `vzeroupper` changes all.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovdqu ymm0, [{from} + rcx]",
            "vmovdqu ymm1, [{from} + rcx + 32]",
            "vmovdqu ymm2, [{from} + rcx + 64]",
            "vmovdqu ymm3, [{from} + rcx + 96]",
            "vmovdqu [{to} + rcx], ymm0",
            "vmovdqu [{to} + rcx + 32], ymm1",
            "vmovdqu [{to} + rcx + 64], ymm2",
            "vmovdqu [{to} + rcx + 96], ymm3",
            "add rcx, 128",
            "cmp rcx, {last}",
            "jb 2b",
            "vmovdqu ymm0, [{from} + {last}]",
            "vmovdqu ymm1, [{from} + {last} + 32]",
            "vmovdqu ymm2, [{from} + {last} + 64]",
            "vmovdqu ymm3, [{from} + {last} + 96]",
            "vmovdqu [{to} + {last}], ymm0",
            "vmovdqu [{to} + {last} + 32], ymm1",
            "vmovdqu [{to} + {last} + 64], ymm2",
            "vmovdqu [{to} + {last} + 96], ymm3",
            "vzeroupper",
            to = in(reg) to,
            from = in(reg) from,
            last = in(reg) len - 128,
            inout("rcx") 0usize => _,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
}

/// Copies bytes: `head` bytes first, then words, then the rest. Those of shared memory are accessed by relaxed atomic
/// operations.
///
/// # Safety
///
/// Both ranges are mapped, the first is writable, and they do not overlap. `DIRECTION` is [`OUT`] or [`IN`], and says which
/// of the two is shared; it is readable and writable. Nothing accesses the other one meanwhile, or, for [`IN`], writes it.
#[cfg(any(miri, not(target_arch = "x86_64")))]
pub(super) unsafe fn copy_bytes<const DIRECTION: bool>(
    to: *mut u8,
    from: *const u8,
    len: usize,
    head: usize,
) {
    let words = (len - head) / WORD;
    // SAFETY: the caller's contract, for the first part.
    unsafe { copy_each::<DIRECTION>(to, from, head) };
    let rest = head + words * WORD;
    // SAFETY: as above, for the words.
    unsafe { copy_words::<DIRECTION>(to.wrapping_add(head), from.wrapping_add(head), words) };
    // SAFETY: as above, for what is left.
    unsafe { copy_each::<DIRECTION>(to.wrapping_add(rest), from.wrapping_add(rest), len - rest) };
}

/// Copies one byte after the other. Bytes that are not shared are accessed plainly: they may be in memory that is not
/// writable, for which there is no `AtomicU8` ([`AtomicU8::from_ptr`]).
///
/// # Safety
///
/// As for [`copy_bytes`].
#[cfg(any(miri, not(target_arch = "x86_64")))]
unsafe fn copy_each<const DIRECTION: bool>(to: *mut u8, from: *const u8, len: usize) {
    for at in 0..len {
        let (to, from) = (to.wrapping_add(at), from.wrapping_add(at));
        if DIRECTION == OUT {
            // SAFETY: shared, as the caller says, and within its range; a byte is aligned.
            let byte = unsafe { AtomicU8::from_ptr(from.cast_mut()) }.load(Relaxed);
            // SAFETY: this thread has it alone.
            unsafe { to.write(byte) };
        } else {
            // SAFETY: nothing writes it.
            let byte = unsafe { from.read() };
            // SAFETY: as for the other direction.
            unsafe { AtomicU8::from_ptr(to) }.store(byte, Relaxed);
        }
    }
}

/// Copies words. On a processor whose instructions are not known here each byte is an access of its own, which is
/// slow.
///
/// # Safety
///
/// As for [`copy_bytes`].
#[cfg(any(miri, not(target_arch = "x86_64")))]
unsafe fn copy_words<const DIRECTION: bool>(to: *mut u8, from: *const u8, words: usize) {
    if words == 0 {
        return;
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
    #[cfg(any(miri, not(target_arch = "aarch64")))]
    // SAFETY: the caller's contract.
    unsafe {
        copy_each::<DIRECTION>(to, from, words * WORD);
    }
}

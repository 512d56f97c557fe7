//! Kernels for x86-64: string instructions, and non-temporal stores of 16, 32 and 64 bytes, which bypass the
//! caches.
//!
//! They are in assembly, so that each is one opaque access to the compiler, like a volatile one, and is equally
//! fast in a debug build. Non-temporal stores are not ordered with others until an `sfence`
//! (Intel, Software Developer's Manual, volume 1, 12.10.3; AMD, Programmer's Manual, volume 2, 7.1), so
//! each kernel ends with one. So do the string kernels, whose stores are unordered among themselves.

use std::arch::asm;
use std::arch::is_x86_feature_detected;

use super::kernel::{BLOCK, Kernel};

/// One string instruction (`rep movsb`, `rep stosb`). Measured to be faster than loops of loads and stores, with
/// the bytes in the cache and without.
pub(super) static STRING: Kernel = Kernel {
    name: "string",
    is_cached: true,
    is_available: || is_x86_feature_detected!("ermsb"),
    copy: copy_string,
    fill: fill_string,
};

pub(super) static STREAM_16: Kernel = Kernel {
    name: "stream-16",
    is_cached: false,
    is_available: || is_x86_feature_detected!("sse2"),
    copy: copy_16,
    fill: fill_16,
};

pub(super) static STREAM_32: Kernel = Kernel {
    name: "stream-32",
    is_cached: false,
    is_available: || is_x86_feature_detected!("avx2"),
    copy: copy_32,
    fill: fill_32,
};

pub(super) static STREAM_64: Kernel = Kernel {
    name: "stream-64",
    is_cached: false,
    is_available: || is_x86_feature_detected!("avx512f"),
    copy: copy_64,
    fill: fill_64,
};

unsafe fn copy_string(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the contract of `Kernel`; on entry of an `asm!` the direction is upwards.
    unsafe {
        asm!(
            "rep movsb",
            "sfence",
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") len => _,
            options(nostack, preserves_flags),
        );
    }
}

unsafe fn fill_string(to: *mut u8, value: u8, len: usize) {
    // SAFETY: as for `copy_string`.
    unsafe {
        asm!(
            "rep stosb",
            "sfence",
            inout("rdi") to => _,
            in("al") value,
            inout("rcx") len => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Defines a pair of loops that copy and fill a block at a time.
///
/// Registers in which a caller may have values are named as clobbered, the first sixteen as a whole: `vzeroupper`,
/// which avoids a dependency of later code on their upper halves, clears those of all of them.
macro_rules! kernel {
    (
        $copy:ident: $($line:literal)+;
        $fill:ident: $($broadcast:literal)+, $($store:literal)+;
        $last:literal
    ) => {
        unsafe fn $copy(to: *mut u8, from: *const u8, len: usize) {
            const { assert!(BLOCK == 128, "bytes per iteration of the loop") };
            if len == 0 {
                return;
            }
            // SAFETY: the contract of `Kernel`: that many bytes are mapped at both ends, in whole blocks,
            // and the processor supports these instructions.
            unsafe {
                asm!(
                    "2:",
                    $($line,)+
                    "add rcx, 128",
                    "cmp rcx, {len}",
                    "jb 2b",
                    "sfence",
                    $last,
                    to = in(reg) to,
                    from = in(reg) from,
                    len = in(reg) len,
                    inout("rcx") 0usize => _,
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
        }

        unsafe fn $fill(to: *mut u8, value: u8, len: usize) {
            if len == 0 {
                return;
            }
            // SAFETY: as for the copy.
            unsafe {
                asm!(
                    $($broadcast,)+
                    "2:",
                    $($store,)+
                    "add rcx, 128",
                    "cmp rcx, {len}",
                    "jb 2b",
                    "sfence",
                    $last,
                    to = in(reg) to,
                    eight = in(reg) u64::from_ne_bytes([value; 8]),
                    len = in(reg) len,
                    inout("rcx") 0usize => _,
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
        }
    };
}

kernel! {
    copy_16:
        "movdqu xmm0, [{from} + rcx]"
        "movdqu xmm1, [{from} + rcx + 16]"
        "movdqu xmm2, [{from} + rcx + 32]"
        "movdqu xmm3, [{from} + rcx + 48]"
        "movdqu xmm4, [{from} + rcx + 64]"
        "movdqu xmm5, [{from} + rcx + 80]"
        "movdqu xmm6, [{from} + rcx + 96]"
        "movdqu xmm7, [{from} + rcx + 112]"
        "movntdq [{to} + rcx], xmm0"
        "movntdq [{to} + rcx + 16], xmm1"
        "movntdq [{to} + rcx + 32], xmm2"
        "movntdq [{to} + rcx + 48], xmm3"
        "movntdq [{to} + rcx + 64], xmm4"
        "movntdq [{to} + rcx + 80], xmm5"
        "movntdq [{to} + rcx + 96], xmm6"
        "movntdq [{to} + rcx + 112], xmm7";
    fill_16:
        "movq xmm0, {eight}"
        "punpcklqdq xmm0, xmm0",
        "movntdq [{to} + rcx], xmm0"
        "movntdq [{to} + rcx + 16], xmm0"
        "movntdq [{to} + rcx + 32], xmm0"
        "movntdq [{to} + rcx + 48], xmm0"
        "movntdq [{to} + rcx + 64], xmm0"
        "movntdq [{to} + rcx + 80], xmm0"
        "movntdq [{to} + rcx + 96], xmm0"
        "movntdq [{to} + rcx + 112], xmm0";
    "nop"
}

kernel! {
    copy_32:
        "vmovdqu ymm0, [{from} + rcx]"
        "vmovdqu ymm1, [{from} + rcx + 32]"
        "vmovdqu ymm2, [{from} + rcx + 64]"
        "vmovdqu ymm3, [{from} + rcx + 96]"
        "vmovntdq [{to} + rcx], ymm0"
        "vmovntdq [{to} + rcx + 32], ymm1"
        "vmovntdq [{to} + rcx + 64], ymm2"
        "vmovntdq [{to} + rcx + 96], ymm3";
    fill_32:
        "vmovq xmm0, {eight}"
        "vpbroadcastq ymm0, xmm0",
        "vmovntdq [{to} + rcx], ymm0"
        "vmovntdq [{to} + rcx + 32], ymm0"
        "vmovntdq [{to} + rcx + 64], ymm0"
        "vmovntdq [{to} + rcx + 96], ymm0";
    "vzeroupper"
}

kernel! {
    copy_64:
        "vmovdqu64 zmm0, [{from} + rcx]"
        "vmovdqu64 zmm1, [{from} + rcx + 64]"
        "vmovntdq [{to} + rcx], zmm0"
        "vmovntdq [{to} + rcx + 64], zmm1";
    fill_64:
        "vpbroadcastq zmm0, {eight}",
        "vmovntdq [{to} + rcx], zmm0"
        "vmovntdq [{to} + rcx + 64], zmm0";
    "vzeroupper"
}

/// Writes the cache lines of `len` bytes back to memory and evicts them from every cache.
///
/// # Safety
///
/// That many bytes are mapped.
pub(super) unsafe fn flush(start: *const u8, len: usize) {
    const LINE: usize = 64;
    for offset in (0..len).step_by(LINE) {
        let line = start.wrapping_add(offset);
        // SAFETY: mapped, as the caller says; every x86-64 processor supports the instruction.
        unsafe { asm!("clflush [{line}]", line = in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a fence, which accesses no memory.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

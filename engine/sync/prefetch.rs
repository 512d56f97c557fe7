//! Loads memory ahead of its use.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "an instruction of the processor")
)]

/// Asks the processor for the cache lines of `value`, so that a later access finds them. It waits for nothing. On
/// processors for which Rust has no such instruction it does nothing.
///
/// An atomic operation on x86 waits for all loads before it. So a pass that takes many locks, one miss after the other,
/// gains by it what other passes gain by themselves.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let begin = std::ptr::from_ref(value).cast::<i8>();
        let last = size_of::<T>().saturating_sub(1);
        // Its first line, those in between, and the last one, which may begin within a step.
        for at in (0..last).step_by(LINE) {
            // SAFETY: it accesses nothing, whatever the address, and all x86-64 processors have it (SSE).
            unsafe { _mm_prefetch::<_MM_HINT_T0>(begin.wrapping_add(at)) };
        }
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(begin.wrapping_add(last)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

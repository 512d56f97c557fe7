//! Loads memory ahead of its use.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "an instruction of the processor")
)]

/// Asks the processor for the cache lines in which `value` begins and ends, so that a later access finds them. It waits
/// for nothing. On processors for which Rust has no such instruction it does nothing.
///
/// An atomic operation on x86 waits for all loads before it. So a pass that takes many locks, one miss after the other,
/// gains by it what other passes gain by themselves.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let begin = std::ptr::from_ref(value).cast::<i8>();
        let end = begin.wrapping_add(size_of::<T>().saturating_sub(1));
        // SAFETY: it accesses nothing, whatever the address, and all x86-64 processors have it (SSE).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(begin) };
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(end) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

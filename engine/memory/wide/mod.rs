//! Large copies and fills by the host, with the kernel that was measured to be fastest on this processor.
//!
//! Which kernel is fastest depends on the processor and on whether a cache can hold the bytes. Both cases are
//! measured once per process, at the first large copy. Everything here works on raw pointers. All stores are
//! globally visible when a function returns.
#![expect(unsafe_code, reason = "kernels that work on raw pointers")]

mod calibrate;
mod kernel;
mod kernels;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub(crate) use calibrate::{Choice, Measured};
pub(crate) use kernel::Kernel;

/// The size in bytes from which on the choice matters. For smaller copies all kernels are equally fast: 256 KiB
/// take 2 µs from a cache, and 11 µs from memory.
const WIDE: usize = 256 << 10;

/// The size in bytes from which on no cache is expected to hold source and destination, and the destination is
/// not worth caching.
///
/// Measured with a last-level cache of 32 MiB, non-temporal stores against the best cached kernel. If the cache
/// holds the bytes, non-temporal stores are a third slower at 8 MiB, a tenth at 16 MiB, and no slower at 32 MiB.
/// If it does not, they are a tenth faster at all these sizes.
const STREAMED: usize = 16 << 20;

/// Which stores a copy uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stores {
    /// Those that were measured to be fastest for as many bytes.
    Fastest,
    /// Those that leave the bytes in the caches.
    Cached,
    /// Those that bypass the caches; the fastest ones where the processor has none ([`has_stores_past_cache`]).
    PastCache,
}

impl Stores {
    fn kernel(self, len: usize) -> &'static Kernel {
        match self {
            Self::Fastest => choose(len, |measured| &measured.copy),
            Self::Cached if len < WIDE => &kernel::PLAIN,
            Self::Cached => measured().copy.cached,
            Self::PastCache => past_cache().unwrap_or_else(|| Self::Fastest.kernel(len)),
        }
    }
}

/// Whether the processor has stores that bypass the caches, and this build uses them.
pub(crate) fn has_stores_past_cache() -> bool {
    past_cache().is_some()
}

/// The widest kernel that bypasses the caches.
fn past_cache() -> Option<&'static Kernel> {
    static KERNEL: OnceLock<Option<&'static Kernel>> = OnceLock::new();
    *KERNEL.get_or_init(|| kernels::available().into_iter().rfind(|kernel| !kernel.is_cached))
}

/// Copies `len` bytes; the stores are globally visible when it returns.
///
/// # Safety
///
/// Both ranges are mapped and do not overlap; nothing writes either of them meanwhile. Both are ordinary memory,
/// cached by the processor: these kernels are slow on other memory.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize, stores: Stores) {
    let kernel = stores.kernel(len);
    // SAFETY: the caller's contract; the choice is among the kernels that this processor supports.
    unsafe { kernel.copy(to, from, len) };
}

/// Sets `len` bytes to `value`; the stores are globally visible when it returns.
///
/// # Safety
///
/// The range is mapped, and ordinary memory as for [`copy`]; nothing else uses it meanwhile.
pub(super) unsafe fn fill(to: *mut u8, value: u8, len: usize) {
    let kernel = choose(len, |measured| &measured.fill);
    // SAFETY: the caller's contract; the choice is among the kernels that this processor supports.
    unsafe { kernel.fill(to, value, len) };
}

/// Flushes `len` bytes from every cache, where the processor can, so that a measurement does not find them there.
///
/// # Safety
///
/// That many bytes are mapped.
pub(crate) unsafe fn forget(start: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's contract.
    unsafe {
        x86::flush(start, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (start, len);
}

/// The fastest kernels on this processor. The first call measures them, which takes about 6 ms.
pub(crate) fn measured() -> &'static Measured {
    static MEASURED: OnceLock<Measured> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let measured = Measured::now();
        let (copy, fill, took) = (&measured.copy, &measured.fill, measured.took);
        tracing::debug!(%copy, %fill, ?took, "host copy speeds measured");
        measured
    })
}

/// Chooses the kernel for a copy or fill of `len` bytes.
fn choose(len: usize, of: impl FnOnce(&Measured) -> &Choice) -> &'static Kernel {
    match len {
        ..WIDE => &kernel::PLAIN,
        WIDE..STREAMED => of(measured()).cached,
        STREAMED.. => of(measured()).streamed,
    }
}

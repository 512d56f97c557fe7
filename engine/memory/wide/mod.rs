//! Copying and zeroing much memory by the host, in the way that was measured to be fastest here.
//!
//! What is fastest depends on the processor and on whether a cache can hold the bytes, so both are
//! measured, once per process, when the first large copy comes along. Everything here works on raw
//! pointers and leaves no store behind that others could see too late.
#![expect(unsafe_code, reason = "kernels that work on raw pointers")]

mod calibrate;
mod kernel;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub(crate) use calibrate::{Choice, Measured};
pub(crate) use kernel::Kernel;

/// From how many bytes on the choice matters. Fewer are over in the time that it takes to think about it:
/// all ways take 2 µs for 256 KiB out of a cache, and 11 µs out of none.
const WIDE: usize = 256 << 10;

/// From how many bytes on no cache is expected to hold source and destination, nor the destination to be
/// of use there. Measured with a last-level cache of 32 MiB, against the best way that leaves bytes in it:
/// if the cache has them, stores that go past it are a third slower at 8 MiB, a tenth at 16 MiB, and no
/// slower at 32 MiB; if it has not, they are a tenth faster at all these sizes.
const STREAMED: usize = 16 << 20;

/// Copies `len` bytes, and returns when nobody can see older ones.
///
/// # Safety
///
/// Both ranges are mapped and do not overlap; nobody writes either of them meanwhile. Both are ordinary
/// memory, which the processor caches: others are slow to be written to in this way.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    let kernel = choose(len, |measured| &measured.copy);
    // SAFETY: the caller's contract; the choice is among what this processor has.
    unsafe { kernel.copy(to, from, len) };
}

/// Sets `len` bytes to `value`, and returns when nobody can see older ones.
///
/// # Safety
///
/// The range is mapped, and ordinary memory as for [`copy`]; nobody uses it meanwhile.
pub(super) unsafe fn fill(to: *mut u8, value: u8, len: usize) {
    let kernel = choose(len, |measured| &measured.fill);
    // SAFETY: the caller's contract; the choice is among what this processor has.
    unsafe { kernel.fill(to, value, len) };
}

/// Takes `len` bytes out of every cache, where that can be done: so that a measurement does not find them there.
///
/// # Safety
///
/// So many bytes are mapped.
pub(crate) unsafe fn forget(start: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's contract.
    unsafe {
        x86::flush(start, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (start, len);
}

/// What was found to be fastest here. The first call finds out, which takes some 6 ms.
pub(crate) fn measured() -> &'static Measured {
    static MEASURED: OnceLock<Measured> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let measured = Measured::now();
        let (copy, fill, took) = (&measured.copy, &measured.fill, measured.took);
        tracing::debug!(%copy, %fill, ?took, "how the host copies was measured");
        measured
    })
}

/// The kernel for so many bytes.
fn choose(len: usize, of: impl FnOnce(&Measured) -> &Choice) -> &'static Kernel {
    match len {
        ..WIDE => &kernel::PLAIN,
        WIDE..STREAMED => of(measured()).cached,
        STREAMED.. => of(measured()).streamed,
    }
}

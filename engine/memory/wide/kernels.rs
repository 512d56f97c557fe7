//! The kernels of this build, and those that this processor supports.

use super::kernel::{Kernel, PLAIN};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::x86;

/// All kernels: the plain one first, then from the narrowest to the widest.
const KERNELS: &[&Kernel] = &[
    &PLAIN,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    &x86::STRING,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    &x86::STREAM_16,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    &x86::STREAM_32,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    &x86::STREAM_64,
];

/// The kernels that this processor supports, in the order of [`KERNELS`].
pub(super) fn available() -> Vec<&'static Kernel> {
    KERNELS.iter().copied().filter(|kernel| (kernel.is_available)()).collect()
}

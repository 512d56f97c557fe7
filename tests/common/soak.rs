//! The length of the long tests: `SOAK=20` makes them twenty times as long.

/// The factor from the environment variable `SOAK`, which `make soak` sets; 1 by default.
pub(crate) fn factor() -> u32 {
    let value = std::env::var("SOAK").unwrap_or_default();
    if value.is_empty() {
        return 1;
    }
    value.parse().expect("SOAK is a number")
}

/// The number of repetitions: `natively`, or `emulated` in the virtual machine, which is about twenty times slower.
pub(crate) fn times(natively: u32, emulated: u32) -> u32 {
    let times = if super::in_vm() { emulated } else { natively };
    times.saturating_mul(factor())
}

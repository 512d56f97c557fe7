//! How long the long tests are: `SOAK=20` makes them twenty times as long.

/// The factor from the environment; 1 unless somebody asked for more (`make soak`).
pub(crate) fn factor() -> u32 {
    let value = std::env::var("SOAK").unwrap_or_default();
    if value.is_empty() {
        return 1;
    }
    value.parse().expect("SOAK is a number")
}

/// How often something is done: `natively` times, or `emulated` times in the virtual machine, where
/// everything takes some twenty times as long.
pub(crate) fn times(natively: u32, emulated: u32) -> u32 {
    let times = if super::in_vm() { emulated } else { natively };
    times.saturating_mul(factor())
}

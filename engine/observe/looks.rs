//! How often a look-up at a mapping has looked at its buffer, for tests: there is to be no look without a change.

#[cfg(feature = "testing")]
thread_local! {
    static COUNT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Notes that a look-up at a mapping looks at the buffer. Nothing without the feature `testing`.
#[inline]
pub(crate) fn note_look() {
    #[cfg(feature = "testing")]
    COUNT.set(COUNT.get() + 1);
}

/// How often look-ups of the current thread at mappings have looked at the buffer. With the feature `testing` alone.
#[cfg(feature = "testing")]
pub fn looks() -> u64 {
    COUNT.get()
}

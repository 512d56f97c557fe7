//! How often a thread has written what other threads write as well, for tests: on the paths that make and drop buffers
//! there is to be none.

#[cfg(feature = "testing")]
thread_local! {
    static COUNT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Notes that a lock was taken, or a word written, that all threads of an engine share. Nothing without the feature
/// `testing`.
#[inline]
pub(crate) fn note_shared_write() {
    #[cfg(feature = "testing")]
    COUNT.set(COUNT.get() + 1);
}

/// How many locks the current thread has taken, and how many words it has written, that all buffers of a size class, a slab
/// or an engine share, on the paths that make and drop buffers. With the feature `testing` alone.
#[cfg(feature = "testing")]
pub fn shared_writes() -> u64 {
    COUNT.get()
}

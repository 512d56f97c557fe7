//! What a test was doing, said only if it fails.

use std::fmt::Display;

use super::say;

/// Says its text on the real standard error if it is dropped by a panic.
pub(crate) struct Note<T: Display>(pub(crate) T);

impl<T: Display> Drop for Note<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("this was in {}", self.0));
        }
    }
}

//! Reports what a test was doing if it fails.

use std::fmt::Display;

use super::say;

/// Prints its text to the real standard error if a panic drops it.
pub(crate) struct Note<T: Display>(pub(crate) T);

impl<T: Display> Drop for Note<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("this was in {}", self.0));
        }
    }
}

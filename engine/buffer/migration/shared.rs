//! What one move has for itself, or several moves of a batch have in common.

use std::ops::Deref;
use std::sync::Arc;

/// A value that a move owns, or that moves of a batch share.
#[derive(Debug)]
pub(in crate::buffer) enum Shared<T> {
    /// A move by itself allocates nothing for it.
    Own(T),
    All(Arc<T>),
}

impl<T> Shared<T> {
    /// The value, to be shared with further moves.
    pub(super) fn share(self) -> Arc<T> {
        match self {
            Self::Own(value) => Arc::new(value),
            Self::All(value) => value,
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Own(value) => value,
            Self::All(value) => value,
        }
    }
}

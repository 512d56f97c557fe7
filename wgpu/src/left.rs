//! What wgpu's queue may still be about to write.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::uses::Named;

/// Images and buffers that `Queue::write_texture` and `write_buffer` may have written in frames of which nothing reached
/// the queue. wgpu puts such writes ahead of its next submission, whichever that is. So that submission acquires them.
#[derive(Default)]
pub(crate) struct Left(Mutex<Vec<Named>>);

impl Left {
    fn lock(&self) -> MutexGuard<'_, Vec<Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn add(&self, named: impl IntoIterator<Item = Named>) {
        self.lock().extend(named);
    }

    pub(crate) fn take(&self) -> Vec<Named> {
        std::mem::take(&mut *self.lock())
    }
}

//! What work relied on: so that errors travel from device to device with the fences.
//!
//! A queue that waits for a device that is then lost goes on, and works on bytes that were never written.
//! Its fence must say so. (Kernel: the scheduler hands a failed dependency's error to the job's own fence.)

use std::fmt;

use super::fence::Fence;
use super::primitive::{Mutex, lock};
use crate::error::Error;

/// The fences of the work whose bytes some other work relied on.
///
/// Each is forgotten when it is seen to have ended well, so a chain of such fences is no longer than what
/// is under way.
#[derive(Default)]
pub(super) struct Behind(Mutex<Vec<Fence>>);

impl Behind {
    /// `None` if it relied on nothing.
    pub(super) fn new(relied_on: &[Fence]) -> Option<Self> {
        let open = relied_on.iter().filter(|fence| fence.is_open_or_failed()).cloned();
        let open: Vec<_> = open.collect();
        (!open.is_empty()).then(|| Self(Mutex::new(open)))
    }

    /// The first failure among them. They are over, or treated as such.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut fences = lock(&self.0);
        fences.retain(Fence::is_open_or_failed);
        fences.iter().find_map(Fence::failure)
    }

    /// Whether all of them have ended well.
    pub(super) fn is_settled(&self) -> bool {
        let mut fences = lock(&self.0);
        fences.retain(Fence::is_open_or_failed);
        fences.is_empty()
    }
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Behind")
    }
}

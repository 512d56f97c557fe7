//! What work relied on: so that errors travel from device to device with the fences.
//!
//! A queue that waits for a device that is then lost goes on, and works on bytes that were never written.
//! Its fence must say so. (Kernel: the scheduler hands a failed dependency's error to the job's own fence.)

use std::fmt;

use super::fence::Fence;
use super::primitive::{Arc, Mutex, lock};
use crate::error::Error;

/// The fences of the work whose bytes some other work relied on, directly or by way of others.
///
/// None of them has such a list itself, and of a timeline only the latest point is in it: so a list is as
/// long as there are lanes of devices, however long the chain is. Each is forgotten when it is seen to have ended
/// well.
pub(super) struct Behind(Mutex<Vec<Fence>>);

impl Behind {
    /// For work that relied on what some other did already, and on `fences`; `None` if none of that may
    /// still fail.
    pub(super) fn new(already: Option<&Self>, fences: &[Fence]) -> Option<Arc<Self>> {
        let mut roots: Vec<Fence> = Vec::new();
        let mut add = |root: Fence| {
            if root.is_open_or_failed() && !roots.iter().any(|known| known.covers(&root)) {
                roots.retain(|known| !root.covers(known));
                roots.push(root);
            }
        };
        already.into_iter().flat_map(Self::roots).for_each(&mut add);
        for fence in fences {
            let (alone, behind) = fence.split();
            behind.into_iter().flat_map(Self::roots).for_each(&mut add);
            add(alone);
        }
        (!roots.is_empty()).then(|| Arc::new(Self(Mutex::new(roots))))
    }

    fn roots(&self) -> Vec<Fence> {
        lock(&self.0).clone()
    }

    /// The first failure among them. They are over, or treated as such.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut roots = lock(&self.0);
        roots.retain(Fence::is_open_or_failed);
        roots.iter().find_map(Fence::failure)
    }
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Behind")
    }
}

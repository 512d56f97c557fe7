//! The work that other work depends on, so that errors propagate from device to device with the fences.
//!
//! If a queue waits for a device that is then lost, the queue continues and works on bytes that were never
//! written. Its fence must report that. (Kernel: the scheduler passes a failed dependency's error to the
//! job's own fence.)

use std::fmt;

use super::fence::Fence;
use super::primitive::{Arc, Mutex, lock};
use crate::error::Error;

/// The fences that some work depends on, directly or through other work.
///
/// The list is flat: no fence in it has dependencies of its own, and of each timeline it holds only the
/// latest point. So it is at most as long as there are device lanes, however long the chain is. A fence is
/// removed once it is seen to have succeeded.
pub(super) struct Dependencies(Mutex<Vec<Fence>>);

impl Dependencies {
    /// The dependencies of work that depends on `already` and on `fences`. `None` if all of those have
    /// succeeded.
    pub(super) fn new(already: Option<&Self>, fences: &[Fence]) -> Option<Arc<Self>> {
        let mut roots: Vec<Fence> = Vec::new();
        let mut add = |root: Fence| {
            if root.may_fail() && !roots.iter().any(|known| known.covers(&root)) {
                roots.retain(|known| !root.covers(known));
                roots.push(root);
            }
        };
        already.into_iter().flat_map(Self::roots).for_each(&mut add);
        for fence in fences {
            let (alone, dependencies) = fence.split();
            dependencies.into_iter().flat_map(Self::roots).for_each(&mut add);
            add(alone);
        }
        (!roots.is_empty()).then(|| Arc::new(Self(Mutex::new(roots))))
    }

    fn roots(&self) -> Vec<Fence> {
        lock(&self.0).clone()
    }

    /// How many steps their timelines have made.
    pub(super) fn steps(&self) -> u64 {
        lock(&self.0).iter().map(Fence::own_steps).sum()
    }

    /// The first failure among them. The caller treats all of them as over.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut roots = lock(&self.0);
        roots.retain(Fence::may_fail);
        roots.iter().find_map(Fence::failure)
    }
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dependencies")
    }
}

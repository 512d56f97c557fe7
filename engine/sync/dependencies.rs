//! The work that other work depends on, so that errors propagate from device to device with the fences.
//!
//! If a queue waits for a device that is then lost, the queue continues and works on bytes that were never
//! written. Its fence must report that. (Kernel: the scheduler passes a failed dependency's error to the
//! job's own fence.)

use std::fmt;

use smallvec::SmallVec;

use super::fence::Fence;
use super::primitive::{Arc, Mutex, lock};
use super::readings::Readings;
use crate::error::Error;

/// The fences that some work depends on, directly or through other work.
///
/// The list is flat: no fence in it has dependencies of its own, and of each timeline it holds only the
/// latest point. So it is at most as long as there are device lanes, however long the chain is. A fence is
/// removed once it is seen to have succeeded.
pub(super) struct Dependencies(Mutex<Roots>);

type Roots = SmallVec<[Fence; 2]>;

impl Dependencies {
    /// How many steps their timelines have made.
    pub(super) fn steps(&self) -> u64 {
        lock(&self.0).iter().map(Fence::own_steps).sum()
    }

    /// The first failure among them. The caller treats all of them as over.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure_at(&mut Readings::default())
    }

    /// As [`Dependencies::failure`], at the moment of `readings`.
    pub(super) fn failure_at(&self, readings: &mut Readings) -> Option<Error> {
        let mut roots = lock(&self.0);
        roots.retain(|root| root.may_fail_at(readings));
        roots.iter().find_map(|root| root.failure_at(readings))
    }
}

/// The fences that new work depends on, while they are collected.
#[derive(Default)]
pub(crate) struct ReliedOn(Roots);

impl ReliedOn {
    /// Adds a fence, and what its work depends on. What has succeeded at the moment of `readings` is left out.
    pub(crate) fn add(&mut self, fence: &Fence, readings: &mut Readings) {
        self.add_dependencies(fence, readings);
        self.add_root(fence, readings);
    }

    /// Adds what the work of a fence depends on, without the fence itself.
    pub(super) fn add_dependencies(&mut self, fence: &Fence, readings: &mut Readings) {
        if let Some(dependencies) = fence.dependencies() {
            // Copied, since the comparison with a fence of the host may take that fence's lock.
            let roots = lock(&dependencies.0).clone();
            roots.iter().for_each(|root| self.add_root(root, readings));
        }
    }

    /// Adds a fence without its dependencies.
    fn add_root(&mut self, root: &Fence, readings: &mut Readings) {
        if !self.0.iter().any(|known| known.covers(root)) && root.may_fail_at(readings) {
            self.0.retain(|known| !root.covers(known));
            self.0.push(root.without_dependencies());
        }
    }

    /// The dependencies of `fence`'s work; `None` if there are none.
    ///
    /// Earlier work on the fence's own timeline is left out: once the fence's value is reached theirs is, too, and if
    /// the device is lost before, both have failed.
    pub(super) fn of(mut self, fence: &Fence) -> Option<Arc<Dependencies>> {
        self.0.retain(|root| !fence.covers(root));
        (!self.0.is_empty()).then(|| Arc::new(Dependencies(Mutex::new(self.0))))
    }
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dependencies")
    }
}

//! Views that nothing uses any more: given back once submitted work of their devices has ended.

use std::sync::Arc;

use super::Core;
use crate::device::{DeviceId, DeviceInner, QueueKind};
use crate::error::Result;
use crate::memory::{Allocation, GiveBack, ImportKind, View};
use crate::sync::{Fence, Fences, Retired, Usage};

impl Core {
    /// Gives back views that were unused for long, or of many that are unused. Costs a load if there are none.
    ///
    /// Locks: waits for none.
    pub(crate) fn give_back_due_views(&self) {
        if let Some(which) = self.imports.due(|| self.age()) {
            self.give_back_views(None, which);
        }
    }

    /// As [`Core::give_back_due_views`], without a look at the clock: for drops of attachments.
    pub(crate) fn give_back_many_views(&self) {
        if self.imports.is_due() {
            self.give_back_views(None, GiveBack::Many);
        }
    }

    /// The view of a device, created by an import if there is none now. If the device may not import more, or its
    /// driver is short of memory, its unused views are given back, and if there were any, it is tried once more.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ImportLimit`], or those of the import.
    ///
    /// Locks: the allocation's.
    pub(crate) fn view(
        &self,
        allocation: &Allocation,
        device: &Arc<DeviceInner>,
        kind: ImportKind,
    ) -> Result<Arc<View>> {
        match allocation.view(device, kind) {
            Err(error) if error.is_short_of_imports() => {
                if self.give_back_views(Some(device.id()), GiveBack::All) == 0 {
                    return Err(error);
                }
                self.retire.collect();
                allocation.view(device, kind)
            }
            other => other,
        }
    }

    /// Gives back all unused views of a device, and waits for work that may use those which were given back before;
    /// for at most the engine timeout.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Timeout`], [`crate::Error::DeviceLost`], or the error of the wait.
    ///
    /// Locks: none may be held.
    #[cold]
    pub(crate) fn wait_for_unused_views(&self, device: DeviceId) -> Result<()> {
        self.give_back_views(Some(device), GiveBack::All);
        if let Some(device) = self.devices.device(device) {
            for fence in all_submitted(&device).in_use() {
                fence.wait_until_released(self.timeout)?;
            }
        }
        self.retire.collect();
        Ok(())
    }

    /// Gives back unused views of one device or of all. Those that submitted work may use are retired. Returns how
    /// many there were.
    ///
    /// Locks: waits for none.
    pub(crate) fn give_back_views(&self, of: Option<DeviceId>, which: GiveBack) -> usize {
        let views = self.imports.take(of, which);
        let count = views.len();
        for view in views {
            // Nothing owns the view, so no work that uses it can be submitted any more.
            let fences = all_submitted(view.device());
            self.retire.push(fences, Retired::View(Box::new(view)));
        }
        count
    }
}

/// The fences of all work that was submitted to a device.
fn all_submitted(device: &Arc<DeviceInner>) -> Fences {
    let mut fences = Fences::default();
    let mut add = |lane| {
        let value = device.submitted(lane);
        fences.add(Usage::Bookkeep, Fence::on(device, lane, value));
    };
    add(QueueKind::Main);
    if device.queue_for_moves() != QueueKind::Main {
        add(device.queue_for_moves());
    }
    fences
}

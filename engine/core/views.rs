//! Views that nothing uses any more: given back once submitted work of their devices has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use crate::device::{DeviceId, DeviceInner, QueueKind};
use crate::error::{Error, Result};
use crate::memory::{Allocation, BoundImage, GiveBack, ImportKind, Pass, View};
use crate::sync::{Fence, Fences, Retired, Usage};

/// How often views are looked for that other threads use for a moment, and the pause between.
const ROUNDS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

impl Core {
    /// Gives back views that were unused for long, or of many that are unused. Costs a load if there are none.
    ///
    /// Locks: waits for none.
    pub(crate) fn give_back_due_views(&self) {
        self.give_back_views_due_at(|| self.age());
    }

    /// As [`Core::give_back_due_views`], at a moment of the engine's clock.
    ///
    /// Locks: waits for none.
    pub(crate) fn give_back_views_due_at(&self, age: impl FnOnce() -> Duration) {
        if let Some((pass, which)) = self.imports.due(age) {
            self.give_back(&pass, None, which);
        }
    }

    /// As [`Core::give_back_due_views`], without a look at the clock: for drops of attachments.
    #[inline]
    pub(crate) fn give_back_many_views(&self) {
        if self.imports.is_due()
            && let Some(pass) = self.imports.try_pass()
        {
            self.give_back(&pass, None, GiveBack::Many);
        }
    }

    /// The view of a device, created by an import if there is none now. If the device may not import more, or its
    /// driver is short of memory, its unused views are given back, and it is tried once more; in the latter case only if there
    /// were any.
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
        if !allocation.has_view(device.id()) {
            self.member(device.id()).poll_budget(self.age(), &self.imports);
        }
        match allocation.view(device, kind) {
            Err(error) if error.is_short_of_imports() => {
                let given_back = self.give_back_views(Some(device.id()), GiveBack::All);
                self.retire.collect();
                // A look at the ledger costs little. It may have room by now: views that were given back before are
                // freed above.
                let is_limit = matches!(error, Error::ImportLimit(_));
                if is_limit {
                    // The process may use less of the heap by now than at the last poll.
                    self.member(device.id()).poll_budget_now(&self.imports);
                }
                if given_back.some || is_limit {
                    return allocation.view(device, kind);
                }
                Err(error)
            }
            other => other,
        }
    }

    /// Waits until the device may import `bytes` more bytes of system memory: gives back all its unused views, and waits
    /// for the work that views which were given back wait for, and for no other; for at most the engine timeout. Returns
    /// whether it may.
    ///
    /// Locks: none may be held.
    #[cold]
    pub(crate) fn wait_for_import_room(&self, device: DeviceId, bytes: u64) -> bool {
        let Some(device) = self.devices.device(device) else { return false };
        let end = Instant::now() + self.timeout;
        let enough = || self.imports.usage(&device).left() >= bytes;
        for _ in 0..ROUNDS {
            let given_back = self.give_back_views(Some(device.id()), GiveBack::All);
            let waited = self.retire.wait_for_views(device.id(), end, &enough);
            if enough() {
                return true;
            }
            if given_back.refused == 0 || waited.is_err() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    /// Gives back unused views of one device or of all. Those that submitted work may use are retired.
    ///
    /// Locks: waits for the pass of another thread, which waits for nothing.
    pub(crate) fn give_back_views(&self, of: Option<DeviceId>, which: GiveBack) -> GivenBack {
        self.give_back(&self.imports.pass(), of, which)
    }

    /// Destroys an image once all work that its device was given until now has ended. No work may use it from now on.
    ///
    /// Locks: the list of retired objects.
    pub(crate) fn retire_image(&self, image: BoundImage) {
        self.retire.push(all_submitted(image.device()), Retired::Image(image));
    }

    fn give_back(&self, pass: &Pass<'_>, of: Option<DeviceId>, which: GiveBack) -> GivenBack {
        let taken = pass.take(of, which);
        let some = pass.has_waited() || !taken.views.is_empty();
        for view in taken.views {
            // Nothing owns the view, so no work that uses it can be submitted any more.
            let fences = all_submitted(view.device());
            self.retire.push(fences, Retired::View(Box::new(view)));
        }
        GivenBack { some, refused: taken.refused }
    }
}

/// What [`Core::give_back_views`] has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GivenBack {
    /// Whether views were given back, here or, for all that is known, by a pass of another thread that had to end first.
    some: bool,
    /// How many unused views were not, since another thread uses them for a moment.
    refused: usize,
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

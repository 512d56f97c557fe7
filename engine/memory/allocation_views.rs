//! The views of an allocation: one per device, created by an import, and given back while unused.

use std::ptr::NonNull;
use std::sync::{Arc, TryLockError, Weak};

use super::allocation::Allocation;
use super::device_set::DeviceSet;
use super::import_kind::ImportKind;
use super::imports::OwnsViews;
use super::view::View;
use super::view_create::Source;
use super::view_error::ViewError;
use super::view_slots::{Slot, Unused};
use crate::device::{DeviceId, DeviceInner, HandleType};
use crate::error::Result;

impl Allocation {
    /// Whether `device` has a view now. One that nothing is counted to use may be given back at any time
    /// ([`Allocation::add_users`]).
    pub(crate) fn has_view(&self, device: DeviceId) -> bool {
        self.exporters_view_on(device).is_some()
            || self.views.find(device).is_some_and(Slot::is_open)
    }

    /// The view that `device` has now. It stays as long as the reference.
    pub(crate) fn existing_view(&self, device: DeviceId) -> Option<Arc<View>> {
        if let Some(exporters) = self.exporters_view_on(device) {
            return Some(Arc::clone(exporters));
        }
        let slot = self.views.find(device)?;
        let (view, is_unused) = slot.get();
        if is_unused {
            self.list(device);
        }
        view
    }

    /// The view that `device` has now, as an `Arc`'s pointer, without a reference count.
    ///
    /// If the device was counted by [`Allocation::add_users`] before, the view is alive until that count has ended.
    pub(crate) fn held_view(&self, device: DeviceId) -> Option<NonNull<View>> {
        match self.exporters_view_on(device) {
            Some(exporters) => NonNull::new(Arc::as_ptr(exporters).cast_mut()),
            None => self.views.find(device)?.get_held(),
        }
    }

    /// Counts a user of the view that `device` has now; `None` if it has none.
    pub(crate) fn use_view(&self, device: DeviceId) -> Option<ViewUser<'_>> {
        if self.exporters_view_on(device).is_some() {
            return Some(ViewUser { allocation: self, device });
        }
        let slot = self.views.find(device)?;
        // Counted before the look, so that a view which is seen stays.
        slot.add_users(1);
        let user = ViewUser { allocation: self, device };
        slot.is_open().then_some(user)
    }

    /// Counts a user of the device's view, or of that of a later import.
    ///
    /// Locks: the allocation's, if the device never had a view.
    pub(crate) fn use_later_view(&self, device: DeviceId) -> ViewUser<'_> {
        self.add_users(device, 1);
        ViewUser { allocation: self, device }
    }

    /// Counts `users` of the device's view, which stays until the count has ended. If there is none now, that of a
    /// later import stays.
    ///
    /// Locks: the allocation's, if the device never had a view.
    pub(crate) fn add_users(&self, device: DeviceId, users: u32) {
        if users == 0 || self.exporters_view_on(device).is_some() {
            return;
        }
        match self.views.find(device) {
            Some(slot) => slot.add_users(users),
            None => {
                let _locked = self.state();
                self.views.find_or_add(device).add_users(users);
            }
        }
    }

    /// Ends the count of `users` of the device's view.
    pub(crate) fn remove_users(&self, device: DeviceId, users: u32) {
        if users == 0 || self.exporters_view_on(device).is_some() {
            return;
        }
        if self.views.find(device).is_some_and(|slot| slot.remove_users(users)) {
            self.list(device);
        }
    }

    /// Whether a device has a view that is not among its sharers.
    pub(super) fn is_viewed_by_others(&self) -> bool {
        let sharers = self.sharers();
        sharers != DeviceSet::ALL && self.views.any_open(|device| !sharers.contains(device))
    }

    /// The view of `device`, created by an import if there is none now.
    ///
    /// Locks: the allocation's.
    pub(crate) fn view(&self, device: &Arc<DeviceInner>, kind: ImportKind) -> Result<Arc<View>> {
        let mut state = self.state();
        if let Some(view) = self.existing_view(device.id()) {
            return Ok(view);
        }
        let ledger = (self.origin.imports.ledger(), self.origin.domain_kind());
        let imported = match (kind, &self.host) {
            (ImportKind::HostPointer, Some(host)) => {
                View::import(device, self.size, Source::Host { memory: host }, ledger)
            }
            (ImportKind::HostPointer, None) => Err(ViewError::NoMemoryType),
            (ImportKind::Fd(handle), _) => {
                let (memory_size, memory_type) = match (handle, self.exporters_view()) {
                    (HandleType::OpaqueFd, Some(exporter)) => {
                        (exporter.memory_size(), Some(exporter.memory_type()))
                    }
                    (_, Some(exporter)) => (exporter.memory_size(), None),
                    (_, None) => (self.size, None),
                };
                let fd = self.fd(&mut state)?;
                let source = Source::Fd { fd, handle, memory_size, memory_type };
                View::import(device, self.size, source, ledger)
            }
        };
        let mut view =
            imported.map_err(|error| self.origin.import_error(device, kind.handle(), error))?;
        view.changes = Arc::clone(&self.changes);
        let view = Arc::new(view);
        if self.views.find_or_add(device.id()).publish(Arc::clone(&view)) {
            self.list(device.id());
        }
        Ok(view)
    }

    /// The view that is never removed, if it is `device`'s.
    fn exporters_view_on(&self, device: DeviceId) -> Option<&Arc<View>> {
        self.exporters_view().filter(|view| view.device().id() == device)
    }

    /// Lists the device's view, whose slot was just marked as listed, as unused.
    #[cold]
    fn list(&self, device: DeviceId) {
        let this: Weak<dyn OwnsViews> = self.this.clone();
        self.origin.imports.list(device, this, self.size);
    }
}

/// One user of a device's view, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct ViewUser<'a> {
    allocation: &'a Allocation,
    device: DeviceId,
}

impl ViewUser<'_> {
    /// Leaves the count to an entry of an attachment table.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for ViewUser<'_> {
    fn drop(&mut self) {
        self.allocation.remove_users(self.device, 1);
    }
}

impl OwnsViews for Allocation {
    fn unused(&self, device: DeviceId) -> Option<Unused> {
        let (uses, attached) = self.views.find(device)?.unused()?;
        Some(Unused { uses, attached, bytes: self.size })
    }

    fn take(&self, device: DeviceId, unused: Unused) -> Option<View> {
        let _locked = match self.state.try_lock() {
            Err(TryLockError::WouldBlock) => return None,
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        self.views.find(device)?.take(unused.uses)
    }

    fn unlisted(&self, device: DeviceId) {
        if self.views.find(device).is_some_and(Slot::unlist) {
            self.list(device);
        }
    }
}

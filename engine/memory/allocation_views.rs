//! The views of an allocation: one per device, created by an import.

use std::sync::Arc;

use super::allocation::Allocation;
use super::import_kind::ImportKind;
use super::view::View;
use super::view_create::Source;
use super::view_error::ViewError;
use crate::device::{DeviceId, DeviceInner, HandleType};
use crate::error::Result;

impl Allocation {
    /// Whether `device` already has a view.
    ///
    /// Locks: the allocation's, if more than `FIRST_VIEWS` devices have one.
    pub(crate) fn has_view(&self, device: DeviceId) -> bool {
        self.existing(device, |_| ()).is_some()
    }

    /// The view that `device` already has.
    ///
    /// Locks: as [`Allocation::has_view`].
    pub(crate) fn existing_view(&self, device: DeviceId) -> Option<Arc<View>> {
        self.existing(device, Arc::clone)
    }

    fn existing<R>(&self, device: DeviceId, found: impl Fn(&Arc<View>) -> R) -> Option<R> {
        for view in &self.first_views {
            // Filled in order, so all entries behind an empty one are empty.
            let view = view.get()?;
            if view.device().id() == device {
                return Some(found(view));
            }
        }
        find(&self.state().views, device).map(found)
    }

    /// The view of `device`, created by an import if there is none yet.
    ///
    /// Locks: the allocation's.
    pub(crate) fn view(&self, device: &Arc<DeviceInner>, kind: ImportKind) -> Result<Arc<View>> {
        let mut state = self.state();
        if let Some(view) = find(&state.views, device.id()) {
            return Ok(Arc::clone(view));
        }
        let imported = match (kind, &self.host) {
            (ImportKind::HostPointer, Some(host)) => {
                View::import(device, self.size, Source::Host { memory: host })
            }
            (ImportKind::HostPointer, None) => Err(ViewError::NoMemoryType),
            (ImportKind::Fd(handle), _) => {
                let (memory_size, memory_type) = match (handle, state.views.first()) {
                    (HandleType::OpaqueFd, Some(exporter)) => {
                        (exporter.memory_size(), Some(exporter.memory_type()))
                    }
                    (_, Some(exporter)) => (exporter.memory_size(), None),
                    (_, None) => (self.size, None),
                };
                let fd = self.fd(&mut state)?;
                View::import(device, self.size, Source::Fd { fd, handle, memory_size, memory_type })
            }
        };
        let view =
            imported.map_err(|error| self.origin.import_error(device, kind.handle(), error))?;
        let view = Arc::new(view);
        if let Some(first) = self.first_views.get(state.views.len()) {
            first.get_or_init(|| Arc::clone(&view));
        }
        state.views.push(Arc::clone(&view));
        Ok(view)
    }
}

fn find(views: &[Arc<View>], device: DeviceId) -> Option<&Arc<View>> {
    views.iter().find(|view| view.device().id() == device)
}

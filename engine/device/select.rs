//! The search for the adapter that a selector names.

use super::adapter::Adapter;
use super::selector::AdapterSelector;
use crate::error::{Error, Result};

impl AdapterSelector {
    /// Whether the selector names `adapter`.
    pub fn matches(&self, adapter: &Adapter) -> bool {
        match self {
            Self::Index(index) => adapter.index() == *index,
            Self::Uuid(uuid) => adapter.device_uuid() == *uuid,
            Self::Pci(pci) => adapter.pci() == Some(*pci),
            Self::Drm(node) => {
                adapter.drm_render() == Some(*node) || adapter.drm_primary() == Some(*node)
            }
            Self::Kind(kind) => adapter.kind() == *kind,
        }
    }

    /// The first of `adapters` that the selector names and that can be used; if none of them can, the first one.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], with the names of all `adapters`.
    pub fn find<'a>(&self, adapters: &'a [Adapter]) -> Result<&'a Adapter> {
        let mut matching = adapters.iter().filter(|adapter| self.matches(adapter));
        let usable = matching.clone().find(|adapter| adapter.missing().is_empty());
        usable.or_else(|| matching.next()).ok_or_else(|| Error::UnknownDevice {
            selector: *self,
            present: adapters.len(),
            names: adapters.iter().map(Adapter::name).collect::<Vec<_>>().join(", "),
        })
    }
}

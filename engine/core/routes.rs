//! Routes between devices: proved once, then looked up; and the cost of an access over each.

use std::sync::Arc;

use super::Core;
use crate::device::{AdapterKind, DeviceId, DeviceInner, HandleType};
use crate::error::Result;
use crate::memory::{DomainId, ImportKind, Provider};
use crate::residency::AccessCost;
use crate::transfer::{self, PairKey, Refusal, RefusalReason, Route, Side, Verdict};

impl Core {
    // ---- routes ----

    /// The verdict on the routes from one device to another. They are proved if they were not yet.
    ///
    /// # Errors
    ///
    /// The error that kept the routes from being proved.
    ///
    /// Locks: none may be held; this waits for both devices.
    pub(crate) fn verdict(
        &self,
        from: &Arc<DeviceInner>,
        to: &Arc<DeviceInner>,
    ) -> Result<Arc<Verdict>> {
        let key = PairKey::new(from, to);
        let mut proved = false;
        let verdict = self.routes.verdict(key, || {
            proved = true;
            let (near, far) = (self.end(from)?, self.end(to)?);
            transfer::prove_all(&near, &far, |provider| self.origin(provider), self.timeout)
        });
        if proved {
            self.auto_migration.access_costs().forget();
        }
        verdict
    }

    /// How `device` imports memory of `provider`, for a buffer with the home device `home`. If it cannot,
    /// returns `None` and adds the reasons to `refused`.
    ///
    /// # Errors
    ///
    /// The error that kept a route from being proved.
    ///
    /// Locks: as [`Core::verdict`].
    pub(crate) fn import_kind(
        &self,
        provider: Provider,
        home: &Arc<DeviceInner>,
        device: &Arc<DeviceInner>,
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<ImportKind>> {
        if let Provider::Foreign(handle) = provider {
            let kind = foreign_import_kind(provider, home, device);
            if kind.is_none() {
                let reason = RefusalReason::NotImportable { side: Side::Second, handle };
                refused.push(Refusal { route: Route::of_foreign(handle), reason });
            }
            return Ok(kind);
        }
        let from = match provider {
            Provider::Device { device: exporter, .. } => Arc::clone(&self.member(exporter).device),
            _ => Arc::clone(home),
        };
        if matches!(provider, Provider::Device { .. }) && Arc::ptr_eq(&from, device) {
            return Ok(Some(provider.imports_of(device)[0]));
        }
        let verdict = self.verdict(&from, device)?;
        let kind = verdict.import_kind(provider);
        if kind.is_none() {
            refused.extend(verdict.refused.iter().cloned());
        }
        Ok(kind)
    }

    /// The cost of an access of `user` to memory in `domain`, if it was measured. Waits for nothing.
    pub(crate) fn access_cost(&self, user: DeviceId, domain: DomainId) -> Option<AccessCost> {
        self.auto_migration
            .access_costs()
            .get(user, domain, || self.measured_access_cost(user, domain))
    }

    /// The cost over the route that a buffer in that domain would use.
    #[cold]
    fn measured_access_cost(&self, user: DeviceId, domain: DomainId) -> Option<AccessCost> {
        let device = &self.devices.get(user)?.device;
        // All memory of a software device is the host's, and any measured difference is noise.
        if device.adapter().kind() == AdapterKind::Cpu {
            return None;
        }
        let owner = match domain {
            DomainId::Vram(owner) => owner,
            DomainId::System => user,
        };
        let verdict = self.known_route(&self.devices.get(owner)?.device, device)?;
        let own = domain == DomainId::Vram(user);
        let leads_there = |route: Route| match route {
            Route::Local => own,
            route => route.provider(owner).is_some_and(|provider| provider.domain() == domain),
        };
        let working = verdict.working.iter().find(|working| leads_there(working.route))?;
        Some(AccessCost::measured(verdict.probe_bytes, working.read))
    }

    /// The verdict on the routes from one device to another, if they were proved.
    pub(crate) fn known_route(&self, from: &DeviceInner, to: &DeviceInner) -> Option<Arc<Verdict>> {
        self.routes.known(&PairKey::new(from, to))
    }
}

/// How `device` imports external memory. Such memory cannot be probed, because peerbuf must not write to it,
/// so the driver's word must suffice.
fn foreign_import_kind(
    provider: Provider,
    home: &DeviceInner,
    device: &DeviceInner,
) -> Option<ImportKind> {
    provider.imports_of(device).iter().copied().find(|&kind| {
        let opaque = kind == ImportKind::Fd(HandleType::OpaqueFd);
        transfer::can_import(device, kind)
            && (!opaque || device.adapter().same_driver_and_device(home.adapter()))
    })
}

//! Routes between devices: proved once, then looked up; and what an access over each costs.

use std::sync::Arc;

use super::Core;
use crate::device::{AdapterKind, DeviceId, DeviceInner, HandleType};
use crate::error::Result;
use crate::memory::{DomainId, ImportKind, Provider};
use crate::residency::AccessCost;
use crate::transfer::{self, PairKey, Refusal, RefusalReason, Route, Side, Verdict};

impl Core {
    // ---- routes ----

    /// What is known of the ways from one device to another; proves them if nothing is known.
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

    /// How `device` takes in memory of `provider`, for a buffer at home on `home`; `None` if it cannot,
    /// and then why is added to `refused`.
    ///
    /// # Errors
    ///
    /// What kept a route from being proved.
    ///
    /// Locks: as [`Core::verdict`].
    pub(crate) fn take(
        &self,
        provider: Provider,
        home: &Arc<DeviceInner>,
        device: &Arc<DeviceInner>,
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<ImportKind>> {
        if let Provider::Foreign(handle) = provider {
            let take = foreign_take(provider, home, device);
            if take.is_none() {
                let reason = RefusalReason::NotImportable { side: Side::Second, handle };
                refused.push(Refusal { route: Route::of_foreign(handle), reason });
            }
            return Ok(take);
        }
        let from = match provider {
            Provider::Device { device: exporter, .. } => Arc::clone(&self.member(exporter).device),
            _ => Arc::clone(home),
        };
        if matches!(provider, Provider::Device { .. }) && Arc::ptr_eq(&from, device) {
            return Ok(Some(provider.import_kinds()[0]));
        }
        let verdict = self.verdict(&from, device)?;
        let take = verdict.import_kind(provider);
        if take.is_none() {
            refused.extend(verdict.refused.iter().cloned());
        }
        Ok(take)
    }

    /// What `user` pays for a byte in `place`, if that was measured. Waits for nothing.
    pub(crate) fn access_cost(&self, user: DeviceId, place: DomainId) -> Option<AccessCost> {
        self.auto_migration
            .access_costs()
            .get(user, place, || self.measured_access_cost(user, place))
    }

    /// By the route that a buffer in that place would have.
    #[cold]
    fn measured_access_cost(&self, user: DeviceId, place: DomainId) -> Option<AccessCost> {
        let device = &self.devices.get(user)?.device;
        // All memory is the host's there, and what differs is noise.
        if device.adapter().kind() == AdapterKind::Cpu {
            return None;
        }
        let owner = match place {
            DomainId::Vram(owner) => owner,
            DomainId::System => user,
        };
        let verdict = self.known_route(&self.devices.get(owner)?.device, device)?;
        let own = place == DomainId::Vram(user);
        let leads_there = |route: Route| match route {
            Route::Local => own,
            route => route.provider(owner).is_some_and(|provider| provider.domain() == place),
        };
        let working = verdict.working.iter().find(|working| leads_there(working.route))?;
        Some(AccessCost::measured(verdict.probe_bytes, working.read))
    }

    pub(crate) fn known_route(&self, from: &DeviceInner, to: &DeviceInner) -> Option<Arc<Verdict>> {
        self.routes.known(&PairKey::new(from, to))
    }
}

/// A stranger's memory cannot be probed, since writing to it is not ours to do; what the driver says
/// has to do.
fn foreign_take(
    provider: Provider,
    home: &DeviceInner,
    device: &DeviceInner,
) -> Option<ImportKind> {
    provider.import_kinds().iter().copied().find(|&take| {
        let opaque = take == ImportKind::Fd(HandleType::OpaqueFd);
        transfer::can_import(device, take)
            && (!opaque || device.adapter().same_driver_and_device(home.adapter()))
    })
}

//! Routes between devices: proved once, then looked up; and the cost of an access over each.

use std::sync::Arc;

use super::Core;
use crate::device::{AdapterKind, DeviceId, DeviceInner, HandleType};
use crate::error::Result;
use crate::memory::{DomainId, ImportKind, Provider};
use crate::residency::AccessCost;
use crate::transfer::{
    self, Need, PairKey, Refusal, RefusalReason, Route, RouteSet, Side, Verdict,
};

impl Core {
    // ---- routes ----

    /// The verdict on the routes from one device to another. Those that are needed and not known yet are proved, on devices
    /// opened for it, within about the engine timeout.
    ///
    /// # Errors
    ///
    /// [`crate::Error::FdLimit`]. Other reasons why a route could not be tried are in the verdict.
    ///
    /// Locks: none may be held; this waits for devices.
    pub(crate) fn verdict(
        &self,
        from: &Arc<DeviceInner>,
        to: &Arc<DeviceInner>,
        need: Need,
    ) -> Result<Arc<Verdict>> {
        let (verdict, is_new) = self.routes.verdict(from, to, need, self.timeout, || self.age())?;
        if is_new {
            self.auto_migration.access_costs().forget();
        }
        Ok(verdict)
    }

    /// Takes over what [`crate::EngineDescriptor::route_cache`] knows of a device that has joined.
    ///
    /// Locks: none may be held; this reads the file.
    pub(crate) fn recall_routes(&self, joined: &Arc<DeviceInner>) {
        let devices: Vec<_> = self.devices.devices().collect();
        let others = devices.iter().filter(|other| !Arc::ptr_eq(other, joined));
        let both = others.flat_map(|other| [(joined, other), (other, joined)]);
        let pairs: Vec<_> = [(joined, joined)].into_iter().chain(both).collect();
        self.routes.recall(&pairs, self.age());
    }

    /// How `device` imports memory of `provider`, for a buffer with the home device `home`. If it cannot,
    /// returns `None` and adds the reasons to `refused`. Proves that one route, if it is not known; and one over system
    /// memory as well if it moves the memory to the host.
    ///
    /// # Errors
    ///
    /// [`crate::Error::FdLimit`].
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
        let from = match provider.exporter() {
            Some(exporter) => self.devices.device(exporter),
            None => Some(Arc::clone(home)),
        };
        // There is no memory of a device that has left.
        let Some(from) = from else { return Ok(None) };
        if provider.exporter().is_some() && Arc::ptr_eq(&from, device) {
            // It has a view already: that of the allocation.
            let kind = provider.imports_of(device).first();
            return Ok(Some(kind.copied().unwrap_or(ImportKind::Fd(HandleType::OpaqueFd))));
        }
        if matches!(provider, Provider::Private { .. }) {
            return Ok(None);
        }
        let Some(route) = Route::of(provider) else { return Ok(None) };
        let mut verdict = self.verdict(&from, device, Need::One(route))?;
        if verdict.drags_out(route) {
            verdict = self.verdict(&from, device, Need::EachKind)?;
        }
        verdict.import_kind(provider).or_else(|reason| {
            refused.extend(verdict.refused.iter().chain(&verdict.untried).cloned());
            refused.extend(reason.map(|reason| Refusal { route, reason }));
            Ok(None)
        })
    }

    /// Whether [`Core::import_kind`] proves nothing and waits for nothing.
    pub(crate) fn is_import_known(
        &self,
        provider: Provider,
        home: &DeviceInner,
        device: &DeviceInner,
    ) -> bool {
        self.needs_route(provider, home, device).is_none_or(|(from, route)| {
            let (key, need) = (PairKey::new(from, device), Need::One(route));
            self.routes.is_settled(&key, need, self.age())
        })
    }

    /// Whether `device` reaches memory of `provider`, as far as that is known.
    pub(crate) fn is_known_to_reach(
        &self,
        provider: Provider,
        home: &DeviceInner,
        device: &DeviceInner,
    ) -> bool {
        if let Provider::Private { device: owner } = provider {
            return owner == device.id();
        }
        self.needs_route(provider, home, device).is_none_or(|(from, route)| {
            self.known_route(from, device).is_some_and(|known| known.works(route))
        })
    }

    /// The route by which `device` reaches memory of `provider`, and the first device of it; `None` if it needs none.
    fn needs_route<'a>(
        &'a self,
        provider: Provider,
        home: &'a DeviceInner,
        device: &DeviceInner,
    ) -> Option<(&'a DeviceInner, Route)> {
        let from = match provider.exporter() {
            Some(exporter) => &*self.devices.get(exporter)?.device,
            None => home,
        };
        let own = provider.exporter().is_some() && std::ptr::eq(from, device);
        let route = Route::of(provider).filter(|_| !matches!(provider, Provider::Foreign(_)));
        route.filter(|_| !own).map(|route| (from, route))
    }

    /// Whether an import of memory of `provider` by `device` moves it to the host, as far as that was measured. Copies have
    /// another path.
    pub(crate) fn drags_out(&self, provider: Provider, device: &DeviceInner) -> bool {
        let DomainId::Vram(exporter) = provider.domain() else { return false };
        let route = Route::of(provider);
        self.known_route(&self.member(exporter).device, device).is_some_and(|known| {
            let mut working = known.working.iter();
            working.any(|working| Some(working.route) == route && working.drags_out())
        })
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
        Some(AccessCost::measured(working.bytes, working.read))
    }

    /// Proves all routes between all ordered pairs of devices.
    ///
    /// # Errors
    ///
    /// As [`Core::verdict`].
    ///
    /// Locks: as [`Core::verdict`].
    pub(crate) fn prove_routes(&self, devices: &[&Arc<DeviceInner>]) -> Result<()> {
        let _held = self.routes.hold_probes();
        for from in devices {
            for to in devices {
                self.verdict(from, to, Need::All)?;
            }
        }
        Ok(())
    }

    /// The verdict on those routes from one device to another that were needed so far.
    pub(crate) fn known_route(&self, from: &DeviceInner, to: &DeviceInner) -> Option<Arc<Verdict>> {
        self.routes.known(&PairKey::new(from, to))
    }

    /// The routes from a device to itself that are known not to work. Allocations ask each time: until a verdict
    /// changes, the answer is one that `home` keeps, without a lock.
    pub(super) fn refused_at_home(&self, home: &DeviceInner) -> RouteSet {
        let Some(entry) = self.devices.get(home.id()) else { return RouteSet::default() };
        let version = self.routes.version();
        entry.refused_at_home.get(version, || {
            self.known_route(home, home).map_or_else(RouteSet::default, |known| known.refused_set())
        })
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

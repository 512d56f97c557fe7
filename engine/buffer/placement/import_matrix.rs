//! What each attached device can import, and so where a buffer may live.
//!
//! Kernel counterpart: the intersection of all attachments' abilities in `amdgpu_dma_buf_pin` and
//! `xe_dma_buf_pin`.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::buffer::object::BufferInner;
use crate::buffer::state::{AttachCaps, AttachmentEntry, State};
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{DeviceSet, DomainKind, ImportKind, Provider};
use crate::transfer::{self, Refusal, RefusalReason, Route};

/// How many providers of a kind of domain are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) enum Extent {
    /// All: an allocation from one may fail, and that from the next one succeed. All routes to them are proved.
    All,
    /// Those whose routes are known. If none of them suits all devices, routes are proved until one does.
    Enough,
}

/// What each attached device of a buffer, and one that is about to attach, can import from each provider.
///
/// It is gathered without the reservation, because proving a route waits for devices.
#[derive(Debug)]
pub(in crate::buffer) struct ImportMatrix {
    /// Each device once, however many attachments it has.
    devices: SmallVec<[AttachCaps; 4]>,
    /// How many of them, from the first one on, have attached; the home device may follow. `None` if another one was about to
    /// attach, or has left.
    attached: Option<usize>,
    /// The provider of the buffer's memory when the matrix was gathered.
    provider: Provider,
    /// For each provider that the buffer uses or might use: how each device imports its memory.
    rows: Vec<(Provider, SmallVec<[Option<ImportKind>; 4]>)>,
    pub(in crate::buffer) refused: Vec<Refusal>,
    /// The buffer's generation when the matrix was gathered.
    generation: u32,
    /// The home device of the buffer at that time.
    home: DeviceId,
}

impl ImportMatrix {
    /// Gathers the matrix for a buffer whose home is to be `home`, in a domain of one of `kinds`; its present provider is
    /// always part of it. `attaching` is a device that is about to attach.
    pub(in crate::buffer) fn gather(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        (kinds, extent): (&[DomainKind], Extent),
        attaching: Option<AttachCaps>,
    ) -> Result<Self> {
        let (mut devices, current, generation, home_id) = {
            let state = buffer.lock();
            let mut devices: SmallVec<[AttachCaps; 4]> = SmallVec::new();
            // `for_each` and not a loop, because internal iteration over the two chained tables is faster,
            // and there may be thousands of attachments.
            attached_caps(buffer, &state).for_each(|caps| {
                if !devices.contains(&caps) {
                    devices.push(caps);
                }
            });
            let provider = state.location().provider();
            (devices, provider, buffer.generation(), buffer.home_id())
        };
        let attached = attaching.is_none().then_some(devices.len());
        devices.extend(attaching.filter(|caps| !devices.contains(caps)));
        let home_caps = AttachCaps { device: home.id(), peer_to_peer: true };
        if !devices.iter().any(|caps| caps.device == home.id()) {
            devices.push(home_caps);
        }
        // Counted, so that no removal closes a device while routes are proved. An attached device cannot leave; what has
        // left was attached before.
        let mut held: SmallVec<[Arc<DeviceInner>; 4]> = SmallVec::new();
        let found_devices = devices.len();
        devices.retain(|caps| {
            let found = match caps.device == home.id() {
                true => Some(Arc::clone(home)),
                false => buffer.core().devices.device(caps.device),
            };
            held.extend(found.clone());
            found.is_some()
        });
        let attached = attached.filter(|_| devices.len() == found_devices);
        let core = buffer.core();
        let _held = core.routes.hold_probes();
        let (rows, refused) = (vec![], vec![]);
        let mut this =
            Self { devices, attached, provider: current, rows, refused, generation, home: home_id };
        this.add_row(buffer, (home, &held), current)?;
        let kinds = if matches!(current, Provider::Foreign(_)) { &[] } else { kinds };
        for &kind in kinds {
            let is_attached = |exporter| this.devices.iter().any(|caps| caps.device == exporter);
            let wanted = |provider: Provider| {
                !matches!(provider, Provider::Private { .. }) || buffer.is_private()
            };
            let suits = |provider: &Provider| {
                *provider != current
                    && wanted(*provider)
                    && provider.exporter().is_none_or(is_attached)
            };
            let mut providers: SmallVec<[Provider; 8]> =
                core.possible(home, kind).filter(suits).collect();
            let is_known = |provider: &Provider| {
                held.iter().all(|device| core.is_import_known(*provider, home, device))
            };
            let may_skip = |provider: &Provider| extent == Extent::Enough && !is_known(provider);
            // The order within each part stays.
            providers.sort_by_key(may_skip);
            for provider in providers {
                if may_skip(&provider) && this.all_can_import_in(kind) {
                    break;
                }
                this.add_row(buffer, (home, &held), provider)?;
            }
        }
        this.refused.retain(|refusal| refusal.route != Route::Local);
        this.refused.sort_by_key(|refusal| refusal.route);
        this.refused.dedup();
        Ok(this)
    }

    fn add_row(
        &mut self,
        buffer: &BufferInner,
        (home, devices): (&Arc<DeviceInner>, &[Arc<DeviceInner>]),
        provider: Provider,
    ) -> Result<()> {
        let mut import_kinds = SmallVec::new();
        let exporter = match provider {
            Provider::Device { device, .. } | Provider::Private { device } => {
                Some(&buffer.core().member(device).device)
            }
            _ => None,
        };
        if exporter.is_some_and(|exporter| exporter.is_lost()) {
            // No route from a lost device can be proved. Existing views of its memory remain, until the
            // buffer moves.
            return Ok(());
        }
        for (caps, device) in self.devices.iter().zip(devices) {
            if !caps.accepts(provider) {
                let route = Route::of(provider).unwrap_or(Route::Local);
                self.refused.push(Refusal { route, reason: RefusalReason::NoPeerToPeer });
                import_kinds.push(None);
                continue;
            }
            import_kinds.push(buffer.core().import_kind(
                provider,
                home,
                device,
                &mut self.refused,
            )?);
        }
        self.rows.push((provider, import_kinds));
        Ok(())
    }

    /// Whether the matrix still holds: it covers all attachments, and the buffer has not moved since.
    pub(in crate::buffer) fn is_current(&self, buffer: &BufferInner, state: &State) -> bool {
        self.is_current_for(buffer, state, self.generation)
    }

    /// As [`ImportMatrix::is_current`], for a buffer that the matrix suits and that had this `generation` then.
    pub(in crate::buffer) fn is_current_for(
        &self,
        buffer: &BufferInner,
        state: &State,
        generation: u32,
    ) -> bool {
        generation == buffer.generation()
            && attached_caps(buffer, state).all(|caps| self.devices.contains(&caps))
    }

    /// Whether the same matrix would be gathered for another buffer, for the same home device and kinds of domains. Both are
    /// private, or neither is. The reservation must be held.
    pub(in crate::buffer) fn suits(&self, buffer: &BufferInner, state: &State) -> bool {
        let Some(attached) = self.attached else { return false };
        let mut devices = self.devices[..attached].iter();
        self.provider == state.location().provider()
            && self.home == buffer.home_id()
            && attached_caps(buffer, state).all(|caps| devices.next() == Some(&caps))
            && devices.next().is_none()
    }

    /// The buffer's generation when the matrix was gathered.
    pub(in crate::buffer) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the matrix was gathered at that generation of the buffer.
    pub(in crate::buffer) fn is_of_generation(&self, generation: u32) -> bool {
        self.generation == generation
    }

    /// The devices that the matrix is for.
    pub(in crate::buffer) fn sharers(&self) -> DeviceSet {
        let all = self.devices.iter();
        all.fold(DeviceSet::of(self.home), |set, caps| set.with(caps.device))
    }

    /// Whether `home` was the buffer's home device when the matrix was gathered.
    pub(in crate::buffer) fn home_was(&self, home: &DeviceInner) -> bool {
        self.home == home.id()
    }

    /// How a device imports memory of `provider`; `None` if it cannot.
    pub(in crate::buffer) fn import_kind(
        &self,
        caps: AttachCaps,
        provider: Provider,
    ) -> Option<ImportKind> {
        let (_, import_kinds) = self.rows.iter().find(|(of, _)| *of == provider)?;
        import_kinds[self.devices.iter().position(|other| *other == caps)?]
    }

    /// A device that can import no memory in domains of that kind, if no provider there suits all devices.
    pub(in crate::buffer) fn device_without(&self, kind: DomainKind) -> Option<DeviceId> {
        let imports_none = |&index: &usize| {
            let mut rows = self.rows.iter().filter(|(of, _)| of.domain().kind() == kind);
            rows.all(|(_, import_kinds)| import_kinds[index].is_none())
        };
        (0..self.devices.len()).find(imports_none).map(|index| self.devices[index].device)
    }

    /// Whether all devices can import memory of a provider of that kind of domain.
    pub(in crate::buffer) fn all_can_import_in(&self, kind: DomainKind) -> bool {
        let mut rows = self.rows.iter().filter(|(of, _)| of.domain().kind() == kind);
        rows.any(|(_, import_kinds)| import_kinds.iter().all(Option::is_some))
    }

    /// Whether all devices can import memory of `provider`.
    pub(in crate::buffer) fn all_can_import(&self, provider: Provider) -> bool {
        self.rows
            .iter()
            .any(|(of, import_kinds)| *of == provider && import_kinds.iter().all(Option::is_some))
    }
}

/// The abilities of the attachments that limit where the buffer may live.
///
/// A detached dynamic attachment does not, even while a mapping keeps its entry: its mappings do not follow a
/// move. An entry equal to its neighbour is skipped, since thousands of equal importers may be adjacent.
fn attached_caps(buffer: &BufferInner, state: &State) -> impl Iterator<Item = AttachCaps> {
    let counts =
        |attachment: &AttachmentEntry| attachment.is_attached() || !attachment.is_dynamic();
    // The descriptor may forbid the peer-to-peer access that importers allow.
    let allowed = buffer.peer_to_peer();
    let attachments = state.attachment_runs().map(|(attachment, _)| attachment);
    let devices = attachments.filter(counts).map(move |attachment| AttachCaps {
        device: attachment.device,
        peer_to_peer: allowed && attachment.allows_peer_to_peer(),
    });
    let mut neighbour = None;
    let differs = move |caps: &AttachCaps| neighbour.replace(*caps) != Some(*caps);
    // Lost devices do not count either.
    let is_working = |caps: &AttachCaps| !buffer.core().member(caps.device).device.is_lost();
    devices.filter(differs).filter(is_working)
}

impl BufferInner {
    /// The error for a device that cannot reach the buffer, with every refusal that was found. If a route was not
    /// tried yet, it may still reach the buffer later.
    pub(in crate::buffer) fn unreachable(
        &self,
        device: &DeviceInner,
        matrix: &ImportMatrix,
    ) -> Error {
        let mut refused = matrix.refused.clone();
        for (kind, route) in [(DomainKind::Vram, Route::DmaBuf), (DomainKind::System, Route::Memfd)]
        {
            if !self.placement().kinds().contains(&kind) {
                refused.retain(|refusal| refusal.route != route);
                refused.push(Refusal { route, reason: RefusalReason::Placement(kind) });
            }
        }
        let (device, untried) = (device.name().to_owned(), transfer::untried(&matrix.refused));
        if !untried.is_empty() {
            return Error::RoutesUnproved { device, untried };
        }
        Error::Unreachable { buffer: self.name(), device, refused }
    }
}

//! What every device at a buffer can take in: where the buffer may live.
//!
//! Kernel counterpart: the intersection of all attachments' abilities in `amdgpu_dma_buf_pin` and
//! `xe_dma_buf_pin`.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::buffer::object::BufferInner;
use crate::buffer::state::{AttachCaps, AttachmentEntry, State};
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{DomainKind, ImportKind, Provider};
use crate::transfer::{Refusal, RefusalReason, Route};

/// What every device at a buffer, and one that wants to be, can take in.
///
/// Gathered without the reservation, because proving a route waits for devices.
#[derive(Debug)]
pub(in crate::buffer) struct ImportMatrix {
    /// Each once, however many seats it has.
    guests: SmallVec<[AttachCaps; 4]>,
    /// For each provider that the buffer might use or does use: how each device takes it in.
    rows: Vec<(Provider, SmallVec<[Option<ImportKind>; 4]>)>,
    pub(in crate::buffer) refused: Vec<Refusal>,
    /// What was true when they were gathered.
    generation: u32,
    home: DeviceId,
}

impl ImportMatrix {
    /// For a buffer that is to be at home on `home`, in one of `kinds`.
    pub(in crate::buffer) fn gather(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        kinds: &[DomainKind],
        newcomer: Option<AttachCaps>,
    ) -> Result<Self> {
        let (mut guests, current, generation, home_then) = {
            let state = buffer.lock();
            let mut guests: SmallVec<[AttachCaps; 4]> = SmallVec::new();
            // Not a loop: thousands of seats, in two places.
            sitting(buffer, &state).for_each(|guest| {
                if !guests.contains(&guest) {
                    guests.push(guest);
                }
            });
            let provider = state.location.provider();
            (guests, provider, buffer.generation(), buffer.home_id())
        };
        guests.extend(newcomer.filter(|guest| !guests.contains(guest)));
        let at_home = AttachCaps { device: home.id(), peer_to_peer: true };
        if !guests.iter().any(|guest| guest.device == home.id()) {
            guests.push(at_home);
        }
        let mut providers: SmallVec<[Provider; 8]> = SmallVec::from_slice(&[current]);
        if !matches!(current, Provider::Foreign(_)) {
            for &kind in kinds {
                let possible = buffer.core().providers.possible(home, kind);
                providers.extend(possible.into_iter().filter(|&provider| provider != current));
            }
        }
        let (rows, refused) = (vec![], vec![]);
        let mut this = Self { guests, rows, refused, generation, home: home_then };
        for provider in providers {
            this.ask(buffer, home, provider)?;
        }
        this.refused.retain(|refusal| refusal.route != Route::Local);
        this.refused.sort_by_key(|refusal| refusal.route);
        this.refused.dedup();
        Ok(this)
    }

    fn ask(
        &mut self,
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        provider: Provider,
    ) -> Result<()> {
        let mut takes = SmallVec::new();
        let exporter = match provider {
            Provider::Device { device, .. } => Some(&buffer.core().member(device).device),
            _ => None,
        };
        if exporter.is_some_and(|exporter| exporter.is_lost()) {
            // Nobody can be asked about it. Whoever has a view of it keeps that, until the buffer leaves.
            return Ok(());
        }
        for guest in &self.guests {
            if !guest.may_be_given(provider) {
                let route = Route::of(provider).unwrap_or(Route::Local);
                self.refused.push(Refusal { route, reason: RefusalReason::NoPeerToPeer });
                takes.push(None);
                continue;
            }
            let device = Arc::clone(&buffer.core().member(guest.device).device);
            takes.push(buffer.core().take(provider, home, &device, &mut self.refused)?);
        }
        self.rows.push((provider, takes));
        Ok(())
    }

    /// Whether everybody who sits was asked, and the buffer did not move, since they were gathered.
    pub(in crate::buffer) fn still_fit(&self, buffer: &BufferInner, state: &State) -> bool {
        self.generation == buffer.generation()
            && sitting(buffer, state).all(|guest| self.guests.contains(&guest))
    }

    /// Whether they were gathered when the buffer was at that generation.
    pub(in crate::buffer) fn is_of(&self, generation: u32) -> bool {
        self.generation == generation
    }

    /// Whether the buffer was at home there when they were gathered.
    pub(in crate::buffer) fn were_at(&self, home: &DeviceInner) -> bool {
        self.home == home.id()
    }

    /// How one of them takes in memory of `provider`.
    pub(in crate::buffer) fn take(
        &self,
        guest: AttachCaps,
        provider: Provider,
    ) -> Option<ImportKind> {
        let (_, takes) = self.rows.iter().find(|(of, _)| *of == provider)?;
        takes[self.guests.iter().position(|other| *other == guest)?]
    }

    /// Somebody who can take in no memory of that kind, if nothing suits all.
    pub(in crate::buffer) fn stranded(&self, kind: DomainKind) -> Option<DeviceId> {
        let takes_none = |&at: &usize| {
            let mut rows = self.rows.iter().filter(|(of, _)| of.domain().kind() == kind);
            rows.all(|(_, takes)| takes[at].is_none())
        };
        (0..self.guests.len()).find(takes_none).map(|at| self.guests[at].device)
    }

    /// Whether everybody can take in memory of `provider`.
    pub(in crate::buffer) fn all_take(&self, provider: Provider) -> bool {
        self.rows.iter().any(|(of, takes)| *of == provider && takes.iter().all(Option::is_some))
    }
}

/// Those who have a say. Not those who have left a dynamic seat but for a mapping: they do not follow. Whoever
/// is like their neighbour is left out, since thousands of importers may sit in a row.
fn sitting(buffer: &BufferInner, state: &State) -> impl Iterator<Item = AttachCaps> {
    let follows = |seat: &AttachmentEntry| seat.is_attached() || !seat.is_dynamic();
    // The owner may veto what importers offer.
    let allowed = buffer.peer_to_peer();
    let guests = state.attachments().filter(follows).map(move |seat| AttachCaps {
        device: seat.device,
        peer_to_peer: allowed && seat.allows_peer_to_peer(),
    });
    let mut neighbour = None;
    let differs = move |guest: &AttachCaps| neighbour.replace(*guest) != Some(*guest);
    // Nor does who is lost.
    let works = |guest: &AttachCaps| !buffer.core().member(guest.device).device.is_lost();
    guests.filter(differs).filter(works)
}

impl BufferInner {
    /// That `device` cannot reach it, with every reason that was found.
    pub(in crate::buffer) fn unreachable(
        &self,
        device: &DeviceInner,
        seats: &ImportMatrix,
    ) -> Error {
        let mut refused = seats.refused.clone();
        for (kind, route) in [(DomainKind::Vram, Route::DmaBuf), (DomainKind::System, Route::Memfd)]
        {
            if !self.placement().kinds().contains(&kind) {
                refused.retain(|refusal| refusal.route != route);
                refused.push(Refusal { route, reason: RefusalReason::Placement(kind) });
            }
        }
        Error::Unreachable { buffer: self.name(), device: device.name().to_owned(), refused }
    }
}

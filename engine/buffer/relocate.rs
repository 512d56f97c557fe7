//! Moving a buffer that nobody holds to where it can be used.
//!
//! Kernel counterparts: `ttm_bo_validate` into a placement that all attachments can reach
//! (`amdgpu_dma_buf_map`), `ttm_bo_move_accel_cleanup` (the old backing waits for the copy).

use std::sync::Arc;

use smallvec::SmallVec;

use super::shared::BufferInner;
use super::state::State;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Backing, Content, Provider, Take, View};
use crate::sync::{Fence, Guard, Retired, Usage};
use crate::transfer::{self, Refusal, RefusalReason, Route, Span};

/// What every device at a buffer, and one that wants to be, can take in.
///
/// Gathered without the reservation, because proving a route waits for devices.
#[derive(Debug)]
pub(super) struct Seats {
    devices: SmallVec<[DeviceId; 4]>,
    /// For each provider that the buffer might use or does use: how each device takes it in.
    rows: Vec<(Provider, SmallVec<[Option<Take>; 4]>)>,
    refused: Vec<Refusal>,
}

impl Seats {
    pub(super) fn gather(buffer: &BufferInner, newcomer: &Arc<DeviceInner>) -> Result<Self> {
        let home = buffer.home();
        let (mut devices, current): (SmallVec<[DeviceId; 4]>, Provider) = {
            let state = buffer.lock();
            let seats = state.seats.iter().map(|seat| seat.device).collect();
            (seats, state.backing.allocation().provider())
        };
        for device in [home.id(), newcomer.id()] {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        let mut providers: SmallVec<[Provider; 8]> = SmallVec::from_slice(&[current]);
        if !matches!(current, Provider::Foreign(_)) {
            for &kind in buffer.placement.kinds() {
                providers.extend(buffer.core.possible(&home, kind));
            }
        }
        let mut refused = Vec::new();
        let mut rows = Vec::new();
        for provider in providers {
            let mut takes = SmallVec::new();
            for &device in &devices {
                let device = Arc::clone(&buffer.core.member(device).device);
                takes.push(buffer.core.take(provider, &home, &device, &mut refused)?);
            }
            rows.push((provider, takes));
        }
        refused.retain(|refusal| refusal.route != Route::Local);
        refused.sort_by_key(|refusal| refusal.route);
        refused.dedup();
        Ok(Self { devices, rows, refused })
    }

    /// Whether nobody sat down, and the buffer did not move, since they were gathered.
    pub(super) fn still_fit(&self, state: &State) -> bool {
        let provider = state.backing.allocation().provider();
        state.seats.iter().all(|seat| self.devices.contains(&seat.device))
            && self.rows.iter().any(|(of, _)| *of == provider)
    }

    /// How `device` takes in memory of `provider`.
    pub(super) fn take(&self, device: DeviceId, provider: Provider) -> Option<Take> {
        let (_, takes) = self.rows.iter().find(|(of, _)| *of == provider)?;
        takes[self.devices.iter().position(|&of| of == device)?]
    }

    /// Whether everybody can take in memory of `provider`.
    fn all_take(&self, provider: Provider) -> bool {
        self.rows.iter().any(|(of, takes)| *of == provider && takes.iter().all(Option::is_some))
    }
}

/// Moves the buffer to where `newcomer` and everybody at it can reach it.
pub(super) fn make_reachable(
    buffer: &Arc<BufferInner>,
    newcomer: &Arc<DeviceInner>,
    seats: &Seats,
) -> Result<()> {
    let home = buffer.home();
    let accept = |provider| seats.all_take(provider);
    let unreachable = || {
        let mut refused = seats.refused.clone();
        for kind in [crate::memory::DomainKind::Vram, crate::memory::DomainKind::System] {
            if !buffer.placement.kinds().contains(&kind) {
                let route = if kind == crate::memory::DomainKind::Vram {
                    Route::DmaBuf
                } else {
                    Route::Memfd
                };
                refused.retain(|refusal| refusal.route != route);
                refused.push(Refusal { route, reason: RefusalReason::Placement(kind) });
            }
        }
        Error::Unreachable { buffer: buffer.name(), device: newcomer.name().to_owned(), refused }
    };
    if matches!(buffer.lock().backing.allocation().provider(), Provider::Foreign(_)) {
        return Err(unreachable());
    }
    let new = buffer
        .core
        .allocate(&home, buffer.placement, buffer.size, false, accept)?
        .ok_or_else(unreachable)?;
    let state = lock_movable(buffer)?;
    if !seats.still_fit(&state) {
        // Somebody else was faster; the caller looks again.
        return Ok(());
    }
    relocate(buffer, state, new)
}

/// Takes the reservation of a buffer that may move now: nobody holds it, and no other device than its
/// home, which will copy it, is at work on it.
pub(super) fn lock_movable(buffer: &Arc<BufferInner>) -> Result<Guard<'_, State>> {
    let home = buffer.home_id();
    let state = buffer.lock_idle(Usage::Bookkeep, |fence| fence.device() != Some(home))?;
    if state.is_held() {
        return Err(buffer.busy(&state));
    }
    Ok(state)
}

/// Moves the bytes to `new`, pipelined behind the buffer's fences: the copy is submitted, not waited
/// for, and is a `Move` that everybody waits for. A failure leaves everything as it was.
pub(super) fn relocate(
    buffer: &Arc<BufferInner>,
    mut state: Guard<'_, State>,
    mut new: Backing,
) -> Result<()> {
    if state.backing.content() == Content::Own {
        let home = buffer.home();
        let from = home_view(buffer, &home, &state.backing)?;
        let to = home_view(buffer, &home, &new)?;
        let span =
            |view, backing: &Backing| Span { view, offset: backing.offset(), len: buffer.size };
        let cleared = clear_tail(buffer, &home, &to, &new)?;
        let copied = transfer::copy(&home, span(&from, &state.backing), span(&to, &new));
        let fence = match copied {
            Ok(fence) => fence,
            Err(error) => {
                retire(buffer, new, cleared);
                return Err(error);
            }
        };
        new.own();
        // What was running on the buffer is ordered before the copy by the home device's queue, so
        // the copy's fence covers it.
        state.fences.add(Usage::Move, fence.clone());
        publish(buffer, &mut state, new, fence);
    } else {
        publish(buffer, &mut state, new, Fence::signalled());
    }
    Ok(())
}

/// From here on nothing can fail.
fn publish(buffer: &BufferInner, state: &mut State, new: Backing, copied: Fence) {
    tracing::debug!(
        buffer = buffer.name(),
        from = %state.backing.domain(),
        to = %new.domain(),
        "moved"
    );
    let old = std::mem::replace(&mut state.backing, new);
    buffer.next_generation();
    retire(buffer, old, copied);
}

/// Lets go of a backing when `fence` has signalled.
fn retire(buffer: &BufferInner, backing: Backing, fence: Fence) {
    let mut fences = crate::sync::Fences::default();
    fences.add(Usage::Bookkeep, fence);
    buffer.core.retire.push(fences, Retired::Backing(backing));
}

/// Zeroes what an old owner may have left beyond the buffer's end, where the copy does not reach. The
/// home device's queue keeps it ahead of the copy.
fn clear_tail(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    view: &View,
    new: &Backing,
) -> Result<Fence> {
    // Whole words; the copy overwrites the bytes of the first one that are the buffer's.
    let start = buffer.size & !3;
    let len = new.extent(buffer.size) - start;
    if new.content() != Content::Stale || new.extent(buffer.size) == buffer.size {
        return Ok(Fence::signalled());
    }
    transfer::zero(home, Span { view, offset: new.offset() + start, len })
}

fn home_view(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    backing: &Backing,
) -> Result<Arc<View>> {
    let allocation = backing.allocation();
    match allocation.existing_view(home.id()) {
        Some(view) => Ok(view),
        None => allocation.view(home, buffer.take_at_home(allocation.provider())?),
    }
}

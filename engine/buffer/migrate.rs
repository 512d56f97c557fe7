//! Moving a buffer on request.

use std::sync::Arc;

use super::abandon::check_not_abandoned;
use super::clean::Clean;
use super::destination::{Destination, Lender};
use super::relief::with_relief;
use super::relocate::{Errand, Moved, no_mover, relocate};
use super::seats::Seats;
use super::shared::{BufferInner, SharedBuffer};
use crate::core::Wish;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{DomainId, DomainKind, Placement};
use crate::observe::MoveCause;
use crate::residency::{Demand, Terms};

/// What [`SharedBuffer::migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Nothing: it was there already. Nobody was told anything.
    None,
    /// It has moved, and is at this generation now.
    Done {
        /// The new generation.
        generation: u32,
    },
}

impl SharedBuffer {
    /// Moves the buffer: into a device's own memory, which then is its home (the kernel cannot change the
    /// exporter), or into system memory. Every importer is told once; what devices do with it is waited
    /// for; the copy runs on the GPU, and everybody waits for that before the next use. Where no device
    /// sees both places, the host carries the bytes, through staging memory that it shares with each, and this
    /// returns when they are there.
    ///
    /// A driver that has no memory left for it is given some, and the move begins again, at most three times;
    /// importers are then told again.
    ///
    /// The request overrides the buffer's [`SharedBuffer::placement`] until it has to move again.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while it is pinned, under host access, mapped statically, or handed out;
    /// [`Error::Unreachable`] if somebody attached cannot reach it there; [`Error::OutOfMemory`],
    /// [`Error::FdLimit`], [`Error::Timeout`], [`Error::DeviceLost`], [`Error::Revoked`], [`Error::Purged`],
    /// [`Error::Poisoned`]; [`Error::Unsupported`] for a stranger's memory; [`Error::ForeignEngine`] for a
    /// device that does not take part. None of them changes anything.
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "ttm_bo_validate")]
    pub fn migrate(&self, to: DomainId) -> Result<Migration> {
        let moved = self.move_to(MoveCause::Asked, |now| (now != to).then_some(to))?;
        if moved == Migration::None {
            // Nobody wants to be on a device that was given up, wherever it is.
            home_at(&self.0, to)?;
            self.0.want(&mut self.0.lock(), to);
        }
        Ok(moved)
    }

    /// Moves the buffer to other memory of the place where it is: out of a slab that is to become empty, or
    /// away from an fd that was handed out, once that guard is gone. Importers are told as for any move.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn relocate(&self) -> Result<Migration> {
        self.move_to(MoveCause::Asked, Some)
    }

    /// Moves it to what `choose` makes of where it is.
    pub(super) fn move_to(
        &self,
        cause: MoveCause,
        choose: impl Fn(DomainId) -> Option<DomainId>,
    ) -> Result<Migration> {
        let buffer = &self.0;
        buffer.core.give_up_lost();
        // Each turn ends with a move or an error, unless somebody else was faster.
        const TURNS: u32 = 100;
        for _ in 0..TURNS {
            buffer.check_there()?;
            let now = buffer.lock().place.domain();
            let Some(to) = choose(now) else { return Ok(Migration::None) };
            let home = home_at(buffer, to)?;
            let once = || {
                let terms = buffer.core.terms(buffer.demand());
                let Some(plan) = Plan::new(buffer, &home, to.kind(), &terms)? else {
                    return Ok(Moved::LookAgain);
                };
                let errand = Errand { clean: plan.clean, ..Errand::to_new(cause, Demand::Asked) };
                relocate(buffer, &home, &plan.seats, plan.new, errand)
            };
            match with_relief(&buffer.core, home.id(), [&**buffer], once)? {
                Moved::Yes => return Ok(Migration::Done { generation: buffer.generation() }),
                Moved::LookAgain | Moved::NotNow => {}
                Moved::NoMover => return Err(no_mover(&home)),
            }
        }
        Err(buffer.busy(&buffer.lock()))
    }
}

/// A move that is thought out, and not begun: nothing is locked.
pub(super) struct Plan<'a> {
    pub(super) buffer: &'a Arc<BufferInner>,
    pub(super) home: Arc<DeviceInner>,
    pub(super) seats: Seats,
    pub(super) new: Destination<'a>,
    /// Whether that is the clean copy of the buffer.
    pub(super) clean: bool,
}

impl<'a> Plan<'a> {
    /// With room in the new place, made on `terms`. `Ok(None)` if somebody moved the buffer meanwhile.
    ///
    /// Locks: none may be held.
    pub(super) fn new(
        buffer: &'a Arc<BufferInner>,
        home: &Arc<DeviceInner>,
        kind: DomainKind,
        terms: &Terms,
    ) -> Result<Option<Self>> {
        if !buffer.can_move() {
            return Err(Error::Unsupported {
                device: home.name().to_owned(),
                missing: "the right to move a stranger's memory".into(),
            });
        }
        let placement = match kind {
            DomainKind::Vram => Placement::Vram,
            DomainKind::System => Placement::System,
        };
        let seats = Seats::gather(buffer, home, placement.kinds(), None)?;
        if kind == DomainKind::System && !seats.were_at(home) {
            return Ok(None);
        }
        // The place that an earlier move has left may be free by now, and is known to everybody.
        buffer.core.retire.collect();
        let accept = |provider| seats.all_take(provider);
        if kind == DomainKind::System
            && let Some(new) = clean_copy(buffer, &seats)?
        {
            return Ok(Some(Self { buffer, home: Arc::clone(home), seats, new, clean: true }));
        }
        let (size, group) = (buffer.size, buffer.group());
        let wish = Wish { home, placement, size, dedicated: false, group };
        let new = buffer.core.allocate(&wish, terms, accept)?;
        let new = new.ok_or_else(|| {
            let stranded = seats.stranded(kind).map(|device| buffer.core.find(device));
            let stranded = stranded.and_then(Result::ok);
            buffer.unreachable(stranded.as_ref().unwrap_or(home), &seats)
        })?;
        let (home, new) = (Arc::clone(home), new.into());
        Ok(Some(Self { buffer, home, seats, new, clean: false }))
    }
}

/// Takes the buffer's clean copy out, where everybody can reach it.
///
/// # Errors
///
/// [`Error::Busy`] if the buffer has one that it cannot go to, because somebody holds it: there is no need to
/// take it out for that.
fn clean_copy<'a>(buffer: &'a BufferInner, seats: &Seats) -> Result<Option<Destination<'a>>> {
    let mut state = buffer.lock();
    if state.clean().is_none() {
        return Ok(None);
    }
    // As a move would.
    buffer.check_usable(&mut state)?;
    if state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0 {
        return Err(buffer.busy(&state));
    }
    let Some((generation, place)) = state.clean_mut().and_then(Clean::lend) else {
        return Ok(None);
    };
    drop(state);
    if seats.all_take(place.allocation().provider()) {
        return Ok(Some(Destination::lent(place, Lender { buffer, generation })));
    }
    // Nobody reads it any more, so it may go if it is not what is wanted.
    Ok(None)
}

/// Where a buffer is at home when it is there.
///
/// # Errors
///
/// [`Error::ForeignEngine`]; [`Error::DeviceLost`] for the memory of a device that was given up.
pub(super) fn home_at(buffer: &BufferInner, to: DomainId) -> Result<Arc<DeviceInner>> {
    match to {
        DomainId::Vram(device) => {
            let home = buffer.core.find(device)?;
            check_not_abandoned(&buffer.core, &home)?;
            Ok(home)
        }
        DomainId::System => Ok(buffer.home()),
    }
}

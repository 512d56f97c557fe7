//! Plans moves of a batch that are alike: what they have in common is found out for the first of them.

use std::sync::Arc;

use smallvec::SmallVec;

use super::copier::Copier;
use super::copy_path::CopyWay;
use super::plan::Plan;
use super::request::MoveRequest;
use super::shared::Shared;
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::ImportMatrix;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{Allocation, Backing, DomainId, DomainKind};
use crate::observe::MoveCause;
use crate::residency::Trigger;

/// What moves of a batch have in common that go to one domain, for buffers of one size, kind and place, which the same
/// devices have attached: the matrix, the copy paths, and memory that is charged and taken for all of them at once.
///
/// A buffer that differs is planned by itself. What is planned here is checked again under the reservation, as every plan.
pub(super) struct Alike {
    to: DomainId,
    size: u64,
    /// Whether the buffers are private, and may be in a device's memory while others are attached.
    flags: (bool, bool),
    home: Arc<DeviceInner>,
    matrix: Arc<ImportMatrix>,
    /// Memory for further buffers. The last one is the next.
    slots: Vec<Backing>,
    /// How bytes get from one allocation to another, which comes with it.
    ways: SmallVec<[(Arc<CopyWay>, Arc<Allocation>); WAYS]>,
}

/// How many pairs of allocations are remembered. Buffers that are alike are in a few blocks.
const WAYS: usize = 4;

/// The request of a move that the application has asked for.
pub(super) fn asked(clean: bool) -> MoveRequest {
    MoveRequest { clean, ..MoveRequest::to_new(MoveCause::Asked, Trigger::Asked) }
}

impl Alike {
    /// Makes the plan of one move the first one of up to `more` further moves. `None` if there is no memory for any of them,
    /// or the first one is of a kind that each buffer is planned for by itself.
    pub(super) fn new<'a>(
        set: &Buffers,
        to: DomainId,
        (plan, copier): (Plan<'a>, Copier),
        more: usize,
    ) -> ((Plan<'a>, Copier), Option<Self>) {
        let buffer = plan.buffer;
        let is_usual = more > 0 && !plan.clean && copier.is_by_device();
        let slots = match is_usual {
            true => set.allocate_more(&plan.new, buffer.size, more),
            false => Vec::new(),
        };
        if slots.is_empty() {
            return ((plan, copier), None);
        }
        let Plan { matrix, .. } = plan;
        let Copier { way, .. } = copier;
        let (matrix, way) = (matrix.share(), way.share());
        let known = (Arc::clone(&way), Arc::clone(plan.new.allocation()));
        let alike = Self {
            to,
            size: buffer.size,
            flags: flags(buffer),
            home: Arc::clone(&plan.home),
            matrix: Arc::clone(&matrix),
            slots,
            ways: SmallVec::from_iter([known]),
        };
        let plan = Plan { matrix: Shared::All(matrix), ..plan };
        let copier = Copier { way: Shared::All(way), ..copier };
        ((plan, copier), Some(alike))
    }

    /// Whether a move may be alike.
    pub(super) fn is_for(&self, buffer: &BufferInner, to: DomainId) -> bool {
        self.to == to && self.size == buffer.size && self.flags == flags(buffer)
    }

    /// For how many buffers it has memory left.
    pub(super) fn held(&self) -> usize {
        self.slots.len()
    }

    /// Gives back the memory that no buffer was planned for.
    pub(super) fn give_back(&mut self) {
        self.slots.clear();
    }

    /// Plans the move of a buffer for which [`Alike::is_for`] is true. `None` if it is not alike, or there is no memory for it
    /// here.
    ///
    /// # Errors
    ///
    /// Those of [`Copier::find`].
    ///
    /// Locks: the reservation.
    pub(super) fn plan<'a>(
        &mut self,
        buffer: &'a Arc<BufferInner>,
    ) -> Result<Option<(Plan<'a>, Copier)>> {
        let Some(new) = self.slots.last() else { return Ok(None) };
        let (generation, copier) = {
            let state = buffer.lock();
            let backing = buffer.backing(&state)?;
            if !self.suits(buffer, &state, new) {
                return Ok(None);
            }
            let ends = [backing.allocation(), new.allocation()];
            let known = self.ways.iter().find(|(way, target)| {
                Arc::ptr_eq(&way.old, ends[0]) && Arc::ptr_eq(target, ends[1])
            });
            let copier = known.map(|(way, _)| {
                Copier::like(buffer, Arc::clone(way), backing.offset(), asked(false))
            });
            (buffer.generation(), copier)
        };
        let copier = match copier {
            Some(copier) => copier,
            None => match self.find_way(buffer)? {
                Some(copier) => copier,
                None => return Ok(None),
            },
        };
        let Some(new) = self.slots.pop() else { return Ok(None) };
        let (home, matrix) = (Arc::clone(&self.home), Shared::All(Arc::clone(&self.matrix)));
        let plan = Plan { buffer, home, matrix, generation, new: new.into(), clean: false };
        Ok(Some((plan, copier)))
    }

    /// Whether the buffer is like the first one, so that its plan would be the same.
    fn suits(&self, buffer: &BufferInner, state: &State, new: &Backing) -> bool {
        // In system memory its clean copy would be the destination.
        let has_clean = self.to.kind() == DomainKind::System && state.clean().is_some();
        !has_clean && state.location().group() == new.group() && self.matrix.suits(buffer, state)
    }

    /// Finds a copier for the next destination, and remembers its way.
    fn find_way(&mut self, buffer: &BufferInner) -> Result<Option<Copier>> {
        let Some(new) = self.slots.last() else { return Ok(None) };
        let Some(copier) = Copier::find(buffer, &self.home, new, asked(false))? else {
            return Ok(None);
        };
        if !copier.is_by_device() {
            return Ok(Some(copier));
        }
        let way = copier.way.share();
        if self.ways.len() == WAYS {
            self.ways.remove(0);
        }
        self.ways.push((Arc::clone(&way), Arc::clone(new.allocation())));
        Ok(Some(Copier { way: Shared::All(way), ..copier }))
    }
}

fn flags(buffer: &BufferInner) -> (bool, bool) {
    (buffer.is_private(), buffer.peer_to_peer())
}

//! What a buffer's reservation protects.

use smallvec::SmallVec;

use crate::device::DeviceId;
use crate::memory::Backing;
use crate::sync::Fences;

/// The mutable part of a buffer. Kept small: there may be a million of them.
#[derive(Debug)]
pub(super) struct State {
    pub(super) backing: Backing,
    pub(super) fences: Fences,
    pub(super) seats: SmallVec<[Seat; 2]>,
    /// Live host accesses, and copies by the host.
    pub(super) host: u32,
    /// Live pins.
    pub(super) pinned: u32,
}

/// A device's seat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) device: DeviceId,
    /// Whether its [`crate::Attachment`] is alive. A seat whose attachment was dropped stays until its
    /// last mapping is.
    pub(super) attached: bool,
    pub(super) mapped: u32,
}

impl State {
    pub(super) fn new(backing: Backing) -> Self {
        Self { backing, fences: Fences::default(), seats: SmallVec::new(), host: 0, pinned: 0 }
    }

    pub(super) fn seat(&mut self, device: DeviceId) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.device == device)
    }

    /// Forgets a seat that nobody holds any more.
    pub(super) fn sweep(&mut self, device: DeviceId) {
        self.seats.retain(|seat| seat.device != device || seat.attached || seat.mapped > 0);
    }

    pub(super) fn mapped(&self) -> u32 {
        self.seats.iter().map(|seat| seat.mapped).sum()
    }

    /// Whether somebody relies on the bytes being where they are.
    pub(super) fn is_held(&self) -> bool {
        self.mapped() + self.host + self.pinned > 0
    }
}

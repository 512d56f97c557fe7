//! Backings that a buffer has left, kept for mappings of their generation.
//!
//! Kernel counterpart: TTM's ghost objects.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::device::DeviceId;
use crate::memory::{Allocation, Backing, DomainId};
use crate::sync::Fences;

/// A backing that a buffer has left, with the mappings that show it.
#[derive(Debug)]
pub(in crate::buffer) struct Ghost {
    pub(in crate::buffer) generation: u32,
    pub(super) mapped: Mappings,
    pub(super) backing: GhostBacking,
}

/// What is left of a ghost's memory.
#[derive(Debug)]
pub(super) enum GhostBacking {
    /// The backing. It is retired when the mappings are dropped, and released when these fences have
    /// signalled.
    Retained(Backing, Fences),
    /// The buffer was evicted, and its memory is in use by others. The mappings still hold views of this
    /// allocation, which must not be used.
    Evicted(Arc<Allocation>),
}

/// The number of live mappings by device.
pub(in crate::buffer) type Mappings = SmallVec<[(DeviceId, u32); 2]>;

/// Adds `mapped` to the mappings of a device.
pub(super) fn count(mappings: &mut Mappings, device: DeviceId, mapped: u32) {
    match mappings.iter_mut().find(|(of, _)| *of == device) {
        Some((_, count)) => *count += mapped,
        None if mapped > 0 => mappings.push((device, mapped)),
        None => {}
    }
}

impl GhostBacking {
    /// The allocation whose views the mappings hold: each device that has some is counted as one user.
    pub(super) fn allocation(&self) -> &Arc<Allocation> {
        match self {
            Self::Retained(backing, _) => backing.allocation(),
            Self::Evicted(allocation) => allocation,
        }
    }
}

impl Ghost {
    /// The allocation that its mappings show.
    pub(in crate::buffer) fn allocation(&self) -> &Arc<Allocation> {
        self.backing.allocation()
    }

    /// Its domain.
    pub(in crate::buffer) fn domain(&self) -> DomainId {
        self.backing.allocation().provider().domain()
    }

    /// Bytes that it keeps in use; none after an eviction.
    pub(in crate::buffer) fn bytes(&self) -> u64 {
        match &self.backing {
            GhostBacking::Retained(backing, _) => backing.footprint(),
            GhostBacking::Evicted(_) => 0,
        }
    }

    /// The devices that still have mappings of it, with their number.
    pub(in crate::buffer) fn mapped(&self) -> impl Iterator<Item = (DeviceId, u32)> {
        self.mapped.iter().copied()
    }
}

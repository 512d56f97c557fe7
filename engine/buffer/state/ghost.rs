//! A place that a buffer has left, kept for mappings of its generation.
//!
//! Kernel counterpart: TTM's ghost objects.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::device::DeviceId;
use crate::memory::{Allocation, Backing, DomainId};
use crate::sync::Fences;

/// A backing that a buffer has left.
#[derive(Debug)]
pub(in crate::buffer) struct Ghost {
    pub(in crate::buffer) generation: u32,
    pub(in crate::buffer) mapped: Mappings,
    pub(in crate::buffer) left: Left,
}

/// A place that a buffer has left.
#[derive(Debug)]
pub(in crate::buffer) enum Left {
    /// It is the mappings' until they are dropped, and until these fences have signalled.
    Kept(Backing, Fences),
    /// The buffer was evicted, and its bytes are somebody else's by now. The mappings still point at what
    /// devices see of this, though nobody may use them.
    Lost(Arc<Allocation>),
}

/// Live mappings by device.
pub(in crate::buffer) type Mappings = SmallVec<[(DeviceId, u32); 2]>;

/// Adds to the mappings of a device.
pub(in crate::buffer) fn count(mappings: &mut Mappings, device: DeviceId, mapped: u32) {
    match mappings.iter_mut().find(|(of, _)| *of == device) {
        Some((_, count)) => *count += mapped,
        None if mapped > 0 => mappings.push((device, mapped)),
        None => {}
    }
}

impl Ghost {
    /// Where it is.
    pub(in crate::buffer) fn domain(&self) -> DomainId {
        match &self.left {
            Left::Kept(backing, _) => backing.domain(),
            Left::Lost(allocation) => allocation.provider().domain(),
        }
    }

    /// Bytes that it has in use.
    pub(in crate::buffer) fn bytes(&self) -> u64 {
        match &self.left {
            Left::Kept(backing, _) => backing.footprint(),
            Left::Lost(_) => 0,
        }
    }

    /// Which devices still look at it, and with how many mappings.
    pub(in crate::buffer) fn mapped(&self) -> impl Iterator<Item = (DeviceId, u32)> {
        self.mapped.iter().copied()
    }
}

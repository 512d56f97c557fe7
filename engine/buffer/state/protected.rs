//! The state of a buffer: what its reservation protects.

use std::sync::{Arc, Weak};

use super::attachment_table::InlineTable;
use super::clean_copy::CleanCopy;
use super::eviction_entry::EvictionEntry;
use super::ghost::Ghost;
use super::location::Location;
use super::pin_counter::PinCounter;
use super::spilled_table::SpilledTable;
use super::tiled_bytes::TiledBytes;
use crate::memory::Backing;
use crate::observe::{Decision, History};
use crate::sync::{Fence, Fences, Signal};

/// The mutable part of a buffer. Small, because there may be a million of them.
///
/// Its methods are in this file, in `attachments` and in `holders`, by topic.
#[derive(Debug)]
pub(in crate::buffer) struct State {
    pub(super) location: Location,
    fences: Fences,
    entry: EvictionEntry,
    /// Live host accesses, copies by the host, and open accesses of applications, up to 255. The rest is in
    /// [`More::host`].
    pub(super) host: u8,
    /// The attachments, unless they are in [`More::spilled`].
    pub(super) inline: InlineTable,
    /// What only some buffers have.
    pub(super) more: Option<Box<More>>,
}

const _: () = assert!(size_of::<State>() <= 48, "there may be a million of them");

/// State that some buffers have.
#[derive(Debug, Default)]
pub(super) struct More {
    /// The attachments, if the inline table does not suffice.
    pub(super) spilled: SpilledTable,
    /// The last decisions about the buffer.
    history: History,
    /// Accesses beyond those that [`State::host`] can count.
    pub(super) host: u32,
    rare: Option<Box<Rare>>,
}

/// State that few buffers have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Backings that the buffer has left, and that mappings still show.
    pub(super) ghosts: Vec<Ghost>,
    /// Signalled when a move in progress has ended: the move fence.
    moving: Option<Fence>,
    /// Pins, by attachment and reason.
    pub(super) pins: Vec<Arc<PinCounter>>,
    /// Live exports.
    pub(super) exported: u32,
    /// The number of revocations so far, so that a waiter can tell one revocation from the next.
    pub(super) revocations: u32,
    /// The backing in system memory that the buffer came from, while it can be used again.
    clean: Option<CleanCopy>,
    /// What has put the bytes into tiles, if they are in tiles.
    tiled: Option<Weak<dyn TiledBytes>>,
    /// Signalled when the last mapping and the last access have ended. `Some` while a caller waits for that.
    pub(super) drained: Option<(Fence, Signal)>,
}

impl State {
    pub(in crate::buffer) fn new(backing: Backing, entry: EvictionEntry) -> Self {
        Self {
            location: Location::Resident(backing),
            entry,
            fences: Fences::default(),
            host: 0,
            inline: InlineTable::default(),
            more: None,
        }
    }

    /// Where the buffer's bytes are.
    #[inline]
    pub(in crate::buffer) fn location(&self) -> &Location {
        &self.location
    }

    pub(in crate::buffer) fn location_mut(&mut self) -> &mut Location {
        &mut self.location
    }

    /// The fences of the buffer. Mutable, because queries drop the fences that have signalled.
    #[inline]
    pub(in crate::buffer) fn fences(&mut self) -> &mut Fences {
        &mut self.fences
    }

    /// The preferred domain, and the entry in an eviction list.
    #[inline]
    pub(in crate::buffer) fn entry(&self) -> EvictionEntry {
        self.entry
    }

    pub(in crate::buffer) fn entry_mut(&mut self) -> &mut EvictionEntry {
        &mut self.entry
    }

    pub(super) fn rare(&self) -> Option<&Rare> {
        self.more.as_ref()?.rare.as_deref()
    }

    pub(super) fn rare_mut(&mut self) -> Option<&mut Rare> {
        self.more.as_mut()?.rare.as_deref_mut()
    }

    pub(super) fn make_rare(&mut self) -> &mut Rare {
        self.more.get_or_insert_default().rare.get_or_insert_default()
    }

    // ---- decisions ----

    /// Records a decision about the buffer.
    ///
    /// An ordinary one does not allocate: it is recorded only where a history can be kept already.
    pub(in crate::buffer) fn remember(&mut self, decision: &Decision) {
        if self.more.is_some() || !decision.is_ordinary() {
            self.more.get_or_insert_default().history.record(decision);
        }
    }

    /// The last decisions about a buffer of `bytes` bytes, latest first.
    pub(in crate::buffer) fn decisions(&self, bytes: u64) -> impl Iterator<Item = Decision> + '_ {
        self.more.iter().flat_map(move |more| more.history.decisions(bytes))
    }

    // ---- moves ----

    /// The move fence: signalled when the move in progress has ended. `None` if there is no such move.
    pub(in crate::buffer) fn moving(&self) -> Option<&Fence> {
        self.rare()?.moving.as_ref()
    }

    pub(in crate::buffer) fn set_moving(&mut self, move_fence: Option<Fence>) {
        if move_fence.is_some() || self.rare().is_some() {
            self.make_rare().moving = move_fence;
        }
    }

    /// What has put the bytes into tiles, if they are in tiles, and it is still there.
    pub(in crate::buffer) fn tiled(&self) -> Option<Arc<dyn TiledBytes>> {
        self.rare()?.tiled.as_ref()?.upgrade()
    }

    pub(in crate::buffer) fn set_tiled(&mut self, tiled: Option<Weak<dyn TiledBytes>>) {
        if tiled.is_some() || self.rare().is_some() {
            self.make_rare().tiled = tiled;
        }
    }

    /// The clean copy, if there is one.
    pub(in crate::buffer) fn clean(&self) -> Option<&CleanCopy> {
        self.rare()?.clean.as_ref()
    }

    pub(in crate::buffer) fn clean_mut(&mut self) -> Option<&mut CleanCopy> {
        self.rare_mut()?.clean.as_mut()
    }

    /// Replaces the clean copy, and returns the old one.
    pub(in crate::buffer) fn set_clean(&mut self, clean: Option<CleanCopy>) -> Option<CleanCopy> {
        if clean.is_none() && self.rare().is_none() {
            return None;
        }
        std::mem::replace(&mut self.make_rare().clean, clean)
    }
}

//! Moves a buffer to a domain, on top of the search for room, as the engine does.

use super::{Buffer, Fake, Lock, Refused, number};
use crate::memory::Room;
use crate::residency::eviction_failures::SkipReason;
use crate::residency::room::{PlacementOption, with_room};
use crate::residency::world::EvictionLimits;

/// What [`Fake::validate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::residency::tests) enum Validated {
    /// It was in one of the domains already.
    Stayed,
    /// It was moved to one of them.
    Moved,
    /// There was no domain, so it has lost its backing.
    Dropped,
}

/// How often a move is retried after a concurrent change.
const TURNS: u32 = 100;

impl Fake {
    /// Adds a buffer without a backing.
    pub(in crate::residency::tests) fn add(&self, buffer: Buffer) -> u32 {
        let mut inner = self.inner();
        inner.buffers.push(Some(buffer));
        // CAST: a few buffers.
        inner.buffers.len() as u32 - 1
    }

    /// Creates a buffer in a domain that has room for it.
    pub(in crate::residency::tests) fn create(&self, bytes: u64, at: usize) -> u32 {
        let buffer = self.add(Buffer::new(bytes));
        let made = self.validate(buffer, &super::super::places(&[at]), &super::super::limits());
        assert_eq!(made, Ok(Validated::Moved), "there is room");
        buffer
    }

    /// Moves a buffer to the first of `places` that is available.
    pub(in crate::residency::tests) fn validate(
        &self,
        buffer: u32,
        places: &[PlacementOption],
        limits: &EvictionLimits,
    ) -> Result<Validated, Refused> {
        for _ in 0..TURNS {
            let charge = {
                let mut inner = self.inner();
                let each = inner.buffer(buffer);
                if places.iter().any(|place| each.at == Some(number(place.domain))) {
                    return Ok(Validated::Stayed);
                }
                may_move(each)?;
                if places.is_empty() {
                    self.discard(&mut inner, buffer);
                    return Ok(Validated::Dropped);
                }
                (each.bytes, each.group)
            };
            let known = |place: &&PlacementOption| number(place.domain) < self.sites.len();
            let known: Vec<_> = places.iter().filter(known).copied().collect();
            let mut take = |domain, room: Room<'_>| self.provide(number(domain), room);
            let new = with_room(self, &known, charge, limits, &mut take)?;
            let Some(to) = new else { return Err(Refused::Failed) };
            if self.move_to(buffer, to.taken, limits)? {
                return Ok(Validated::Moved);
            }
        }
        Err(Refused::Kept(SkipReason::Locked))
    }

    /// Moves a buffer to a domain that has room for it. Returns `false` if it has moved elsewhere meanwhile and
    /// the caller must retry. If it does not move, the room is returned.
    fn move_to(&self, buffer: u32, to: usize, limits: &EvictionLimits) -> Result<bool, Refused> {
        let mut inner = self.inner();
        let bytes = (inner.buffer(buffer).bytes, inner.buffer(buffer).group);
        while inner.buffer(buffer).lock == Lock::Taken {
            let Some(again) = self.wait_unlocked(inner, limits) else {
                self.free(&mut self.inner(), to, bytes);
                return Err(Refused::Kept(SkipReason::Locked));
            };
            inner = again;
        }
        if let Err(refused) = may_move(inner.buffer(buffer)) {
            self.free(&mut inner, to, bytes);
            return Err(refused);
        }
        let from = inner.buffer(buffer).at;
        if from == Some(to) {
            self.free(&mut inner, to, bytes);
            return Ok(true);
        }
        if let Some(from) = from.filter(|&from| inner.no_way.contains(&(from, to))) {
            // Through the next slower domain, and from there in a second move.
            self.free(&mut inner, to, bytes);
            drop(inner);
            let hop = self.sites[from].slower.expect("a detour");
            self.validate(buffer, &super::super::places(&[hop]), limits)?;
            return Ok(false);
        }
        if inner.buffer(buffer).preferred == usize::MAX {
            inner.buffer(buffer).preferred = to;
        }
        self.commit(&mut inner, buffer, to);
        Ok(true)
    }
}

fn may_move(buffer: &Buffer) -> Result<(), Refused> {
    let kept = if buffer.pins > 0 {
        SkipReason::Pinned
    } else if buffer.held {
        SkipReason::Held
    } else if buffer.external && buffer.at.is_some() {
        SkipReason::Unreachable
    } else {
        return Ok(());
    };
    Err(Refused::Kept(kept))
}

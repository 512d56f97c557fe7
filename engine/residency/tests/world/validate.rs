//! Putting a buffer where it is to be, on top of the search for room, as the engine does it.

use super::{Buffer, Fake, Lock, Refused, number};
use crate::memory::Room;
use crate::residency::obstacles::Kept;
use crate::residency::room::{Place, Terms, with_room};

/// What [`Fake::validate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::residency::tests) enum Validated {
    /// It was in one of the places already.
    Stayed,
    /// It is in one of them now.
    Moved,
    /// There was none, so it has no bytes any more.
    Dropped,
}

/// How often somebody may come in between.
const TURNS: u32 = 100;

impl Fake {
    /// A buffer without any bytes yet.
    pub(in crate::residency::tests) fn add(&self, buffer: Buffer) -> u32 {
        let mut inner = self.inner();
        inner.buffers.push(Some(buffer));
        // CAST: a few buffers.
        inner.buffers.len() as u32 - 1
    }

    /// A buffer in a place that has room for it.
    pub(in crate::residency::tests) fn create(&self, bytes: u64, at: usize) -> u32 {
        let buffer = self.add(Buffer::new(bytes));
        let made = self.validate(buffer, &super::super::places(&[at]), &super::super::terms());
        assert_eq!(made, Ok(Validated::Moved), "there is room");
        buffer
    }

    /// Puts a buffer in the first of `places` that is to be had.
    pub(in crate::residency::tests) fn validate(
        &self,
        buffer: u32,
        places: &[Place],
        terms: &Terms,
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
            let known = |place: &&Place| number(place.domain) < self.sites.len();
            let known: Vec<_> = places.iter().filter(known).copied().collect();
            let mut take = |domain, room: Room<'_>| self.provide(number(domain), room);
            let new = with_room(self, &known, charge, terms, &mut take)?;
            let Some(to) = new else { return Err(Refused::Failed) };
            if self.settle_in(buffer, to.taken, terms)? {
                return Ok(Validated::Moved);
            }
        }
        Err(Refused::Kept(Kept::Locked))
    }

    /// Moves a buffer to a place that has room for it. `false` if it is elsewhere than it was, and has to be
    /// looked at again; if it does not move, the room is given back.
    fn settle_in(&self, buffer: u32, to: usize, terms: &Terms) -> Result<bool, Refused> {
        let mut inner = self.inner();
        let bytes = (inner.buffer(buffer).bytes, inner.buffer(buffer).group);
        while inner.buffer(buffer).lock == Lock::Taken {
            let Some(again) = self.wait_unlocked(inner, terms) else {
                self.free(&mut self.inner(), to, bytes);
                return Err(Refused::Kept(Kept::Locked));
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
            // Through what is slower than where it is, and from there once more.
            self.free(&mut inner, to, bytes);
            drop(inner);
            let hop = self.sites[from].slower.expect("a way around");
            self.validate(buffer, &super::super::places(&[hop]), terms)?;
            return Ok(false);
        }
        if inner.buffer(buffer).wanted == usize::MAX {
            inner.buffer(buffer).wanted = to;
        }
        self.commit(&mut inner, buffer, to);
        Ok(true)
    }
}

fn may_move(buffer: &Buffer) -> Result<(), Refused> {
    let kept = if buffer.pins > 0 {
        Kept::Pinned
    } else if buffer.held {
        Kept::Held
    } else if buffer.external && buffer.at.is_some() {
        Kept::Unreachable
    } else {
        return Ok(());
    };
    Err(Refused::Kept(kept))
}

//! What a submission runs: commands that are recorded, command buffers of the application, and what is recorded around
//! both.

use std::sync::Arc;

use ash::vk;
use smallvec::SmallVec;

use super::uses::{Use, Views};
use crate::buffer::object::Buffers;
use crate::device::{Body, DeviceInner, QueueKind, Submit};
use crate::error::Result;
use crate::sync::{Fence, Readings, Usage, waits_on_at};
use crate::transfer::{Scope, Span, acquire, release};

/// Records commands into a command buffer of peerbuf's.
type Record<'a> = Box<dyn FnMut(vk::CommandBuffer) + 'a>;

/// Records commands that depend on what was declared.
type RecordUse<'a> = Box<dyn FnMut(vk::CommandBuffer, AroundUse) + 'a>;

/// What is recorded around the commands of the application for one object.
struct Around<'a> {
    object: AroundObject,
    used: AroundUse,
    before: RecordUse<'a>,
    after: RecordUse<'a>,
}

/// An object that is used together with a declared buffer, and by which commands see that buffer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AroundObject {
    /// Its handle.
    pub(crate) key: u64,
    /// The buffer's number.
    pub(crate) buffer: u64,
}

/// What all declarations of one object in a submission say together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AroundUse {
    /// The stages and accesses.
    pub(crate) scope: Scope,
    /// Whether content is kept that was there before.
    pub(crate) keeps: bool,
    /// Whether content is written.
    pub(crate) writes: bool,
}

/// The commands of a submission: closures that record some, then command buffers of the application.
#[derive(Default)]
pub(super) struct Work<'a> {
    /// Dropped after the reservations are unlocked: the closures may own objects whose drop locks one.
    pub(super) records: SmallVec<[Record<'a>; 2]>,
    /// What is recorded before and behind all commands of the application, while the buffers are owned.
    around: Vec<Around<'a>>,
    pub(super) commands: SmallVec<[vk::CommandBuffer; 4]>,
    /// Whether the commands transfer ownership themselves.
    pub(super) transfers: bool,
    /// Semaphores of the application, each with its value; 0 for binary ones.
    pub(super) waits: SmallVec<[(vk::Semaphore, u64); 2]>,
    pub(super) signals: SmallVec<[(vk::Semaphore, u64); 2]>,
}

impl<'a> Work<'a> {
    /// Whether another object of the same buffer is declared, and it or `object`, if used so, writes. Each may have the
    /// bytes in a place of its own.
    pub(super) fn is_in_conflict(&self, object: AroundObject, writes: bool) -> bool {
        let mut others = self
            .around
            .iter()
            .filter(|known| known.object.buffer == object.buffer && known.object.key != object.key);
        others.any(|known| writes || known.used.writes)
    }

    /// Adds an object, or a use to its uses: [`super::Submission::around`].
    pub(super) fn around<Before, After>(
        &mut self,
        (object, used): (AroundObject, AroundUse),
        make: impl FnOnce() -> (Before, After),
    ) where
        Before: FnMut(vk::CommandBuffer, AroundUse) + 'a,
        After: FnMut(vk::CommandBuffer, AroundUse) + 'a,
    {
        match self.around.iter_mut().find(|known| known.object == object) {
            Some(Around { used: known, .. }) => {
                known.scope = known.scope.and(used.scope);
                known.keeps |= used.keeps;
                known.writes |= used.writes;
            }
            None => {
                let (before, after) = make();
                let (before, after) = (Box::new(before), Box::new(after));
                self.around.push(Around { object, used, before, after });
            }
        }
    }

    /// Whether it signals a binary semaphore, for which the application lets others wait.
    pub(super) fn signals_binary(&self) -> bool {
        self.signals.iter().any(|(_, value)| *value == 0)
    }

    /// Records the commands and submits them, ordered after `pending`.
    ///
    /// What is transferred: the declared buffers, unless the application does that. What is acquired is released in the
    /// same submission, behind all of its commands. So between submissions every buffer belongs to the outside family,
    /// whichever of these command buffers exist.
    #[expect(unsafe_code, reason = "ownership transfers around the application's commands")]
    pub(super) fn submit(
        &mut self,
        set: &Buffers,
        device: &Arc<DeviceInner>,
        (uses, views): (&[Use<'_>], &Views),
        pending: &[Fence],
        readings: &mut Readings,
    ) -> Result<Fence> {
        let mut waits = waits_on_at(&set.core.bridges, device, pending, readings)?;
        self.waits.iter().for_each(|&(semaphore, value)| waits.given(semaphore, value));
        let (mut spans, mut scope) = (SmallVec::<[Span<'_>; 8]>::new(), Scope::NONE);
        if !self.transfers {
            spans.reserve(uses.len());
            for used in uses.iter().filter(|used| used.usage != Usage::Bookkeep) {
                spans.push(views.span(used));
                scope = scope.and(used.scope);
            }
        }
        let Self { records, around, commands, signals, .. } = self;
        let transfers = !spans.is_empty();
        let recorded_here = if self.transfers { &mut [] } else { around.as_mut_slice() };
        let has_around = !recorded_here.is_empty();
        let (mut befores, mut afters): (Vec<_>, Vec<_>) = recorded_here
            .iter_mut()
            .map(|Around { used, before, after, .. }| ((*used, before), (*used, after)))
            .unzip();
        let has_records = !records.is_empty();
        let mut before = |commands| {
            if transfers {
                // SAFETY: the queue began `commands` for this device's family.
                unsafe { acquire(device, commands, &spans, scope) };
            }
            befores.iter_mut().for_each(|(used, before)| before(commands, *used));
            records.iter_mut().for_each(|record| record(commands));
        };
        let mut after = |commands| {
            afters.iter_mut().rev().for_each(|(used, after)| after(commands, *used));
            if transfers {
                // SAFETY: as above.
                unsafe { release(device, commands, &spans, scope) };
            }
        };
        let before: Option<&mut dyn FnMut(_)> =
            if transfers || has_around || has_records { Some(&mut before) } else { None };
        let after: Option<&mut dyn FnMut(_)> =
            if transfers || has_around { Some(&mut after) } else { None };
        let body = Body::Around { before, commands, after };
        let reading = readings.known(device, QueueKind::Main);
        let submit = Submit { body, signals, reading, ..Submit::nothing(waits) };
        Ok(Fence::new(device, device.submit_as(submit)?))
    }
}

//! What is noted of the uses of a submission: for eviction, auto-migration and traces.

use smallvec::SmallVec;

use super::uses::Use;
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::state::State;
use crate::buffer::tracking::mark_groups_used;
use crate::core::Core;
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::residency::policy::Slot;
use crate::sync::{Index, Locked};

/// Whether the uses of one submission have to be noted, which is seldom so while memory suffices. It calls no code of the
/// application.
pub(super) struct Notes<'a> {
    core: &'a Core,
    device: DeviceId,
    /// Whether all have to, for a trace or for age groups.
    all: bool,
    /// Whether auto-migration counts uses in a domain: that of the last buffer.
    counted: Option<(DomainId, bool)>,
}

impl<'a> Notes<'a> {
    /// The reservations are held.
    pub(super) fn new(set: &'a Buffers, device: DeviceId) -> Self {
        let core = &set.core;
        let all = core.tracer.is_on() || !core.bulk_groups.is_empty();
        Self { core, device, all, counted: None }
    }

    #[inline]
    pub(super) fn are_due(&mut self, buffer: &BufferInner, state: &State) -> bool {
        let Self { core, device, .. } = *self;
        let domain = state.location().domain();
        let cost = |user, domain| core.access_cost(user, domain);
        let counts = match self.counted {
            Some((last, counts)) if last == domain => counts,
            _ => core.auto_migration.concerns(device, domain, cost),
        };
        self.counted = Some((domain, counts));
        self.all || counts || state.entry().slot().is_some() || buffer.is_to_be_listed(state)
    }
}

/// Notes all uses of one submission, under one lock for each eviction list.
pub(super) fn note_uses(
    set: &Buffers,
    device: DeviceId,
    uses: &[Use<'_>],
    indices: &[Index],
    locked: &mut Locked<'_, State>,
) {
    let mut slots: SmallVec<[(DomainId, Slot); 8]> = SmallVec::new();
    for (used, &index) in uses.iter().zip(indices) {
        let state = locked.get_mut(index);
        used.buffer.trace_use(state, Some(device));
        used.buffer.count_access_to(state, device, used.buffer.size);
        used.buffer.enlist_late(state);
        match state.entry().slot() {
            Some(slot) => slots.push((state.entry().list_domain(), slot)),
            None => used.buffer.age_unlisted(),
        }
    }
    let mut rest = &mut *slots;
    while let Some(&mut (domain, _)) = rest.first_mut() {
        // A stable sort: within one eviction list the buffers keep the order in which they were declared.
        rest.sort_by_key(|(of, _)| *of != domain);
        let (listed, others) = rest.split_at_mut(rest.partition_point(|(of, _)| *of == domain));
        let ages = set
            .core
            .domain_state(domain)
            .eviction_list
            .mark_all_used(listed.iter().map(|(_, slot)| *slot));
        mark_groups_used(&set.core, Some(domain), ages);
        rest = others;
    }
}

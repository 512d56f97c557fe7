//! Making a buffer.

use std::sync::Arc;

use super::home::check_not_unplugged;
use crate::buffer::object::{BufferDescriptor, BufferInner, Buffers, Made, SharedBuffer};
use crate::buffer::state::{EvictionEntry, State, preferred_domain};
use crate::buffer::tracking::enlist;
use crate::core::BackingRequest;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::observe::Object;
use crate::residency::{Found, Trigger};

impl SharedBuffer {
    pub(crate) fn create(
        set: &Arc<Buffers>,
        home: &Arc<DeviceInner>,
        descriptor: BufferDescriptor,
    ) -> Result<Self> {
        descriptor.check(home.name())?;
        set.core.check(home)?;
        set.handle_lost_devices();
        check_not_unplugged(&set.core, home)?;
        set.core.retire.collect();
        let (size, placement) = (descriptor.size(), descriptor.placed());
        let id = set.next_id();
        let group = descriptor.account(set)?;
        let wish = BackingRequest { home, placement, size, dedicated: false, group };
        let trigger = Trigger::Room { bytes: size, by: Some(id) };
        let found = set.allocate_best(&wish, &set.core.eviction_limits(trigger), |_| true)?;
        let Found { taken: backing, instead_of } = found.ok_or_else(|| Error::Unsupported {
            device: home.name().to_owned(),
            missing: "any memory that it could share".into(),
        })?;
        set.core.groups.entered(group);
        let buffer = Self::new(set, home.id(), descriptor, backing, Some(id));
        // Whoever gives the device up from now on finds the buffer.
        check_not_unplugged(&set.core, home)?;
        buffer.0.record_placement(instead_of.as_ref());
        Ok(buffer)
    }

    /// A buffer with its backing; with its number if it is ours, and may go elsewhere.
    pub(in crate::buffer) fn new(
        set: &Arc<Buffers>,
        home: DeviceId,
        descriptor: BufferDescriptor,
        backing: Backing,
        ours: Option<u64>,
    ) -> Self {
        set.core.live.born(Object::Buffer);
        // INVARIANT: the backing was allocated for, or checked against, `size`.
        let now = backing.domain();
        let preferred = preferred_domain(descriptor.placed(), home);
        let preferred = if ours.is_some() { preferred } else { now };
        let mut entry =
            EvictionEntry::none(preferred, descriptor.prioritised(), descriptor.may_be_lost());
        let made = Made {
            id: ours.unwrap_or_else(|| set.next_id()),
            home,
            size: descriptor.size(),
            usage: descriptor.usages(),
            flags: descriptor.flags(),
            is_displaced: ours.is_some() && now != preferred,
            name: descriptor.into_name(),
        };
        Self(BufferInner::new(set, made, |slot| {
            if ours.is_some() {
                enlist(&set.core, &mut entry, slot, now, (backing.footprint(), backing.group()));
            }
            State::new(backing, entry)
        }))
    }

    /// What it was created as.
    pub fn descriptor(&self) -> BufferDescriptor {
        let flags = self.0.flags;
        let descriptor = BufferDescriptor::new(self.0.size).usage(self.0.usage);
        let descriptor = descriptor.placement(flags.placement()).priority(flags.priority());
        let descriptor = descriptor.peer_to_peer(flags.peer_to_peer());
        let descriptor = if flags.is_discardable() { descriptor.discardable() } else { descriptor };
        let descriptor = match self.client_group() {
            Some(group) => descriptor.client(&group),
            None => descriptor,
        };
        match self.0.given_name() {
            Some(name) => descriptor.name(&name),
            None => descriptor,
        }
    }
}

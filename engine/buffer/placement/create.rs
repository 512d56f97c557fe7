//! Creates a buffer.

use std::sync::Arc;

use super::home::check_not_unplugged;
use crate::buffer::object::{
    BufferDescriptor, BufferInner, Buffers, Made, SetRef, SetRefs, SharedBuffer,
};
use crate::buffer::state::{EvictionEntry, State, preferred_domain};
use crate::buffer::tracking::enlist;
use crate::core::BackingRequest;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind, Provider};
use crate::observe::Object;
use crate::residency::{Found, Trigger};

impl SharedBuffer {
    /// Creates a buffer with memory in a domain of its placement, evicting others if need be.
    ///
    /// Locks: none may be held.
    pub(crate) fn create(
        refs: &SetRefs<Buffers>,
        home: &Arc<DeviceInner>,
        descriptor: BufferDescriptor,
    ) -> Result<Self> {
        let set = refs.set();
        descriptor.check(home.name())?;
        set.core.check(home)?;
        check_limit(set, home, &descriptor)?;
        set.handle_lost_devices();
        check_not_unplugged(&set.core, home)?;
        // Views that were unused for long are given back where the budget is polled, with one look at the clock for both.
        set.core.retire.collect();
        let (size, placement) = (descriptor.size(), descriptor.placed());
        let id = set.ids.next();
        let group = descriptor.group_id(set)?;
        let request = BackingRequest {
            home,
            placement,
            size,
            dedicated: descriptor.is_dedicated(),
            private: descriptor.is_private(),
            sparing: false,
            sharers: set.core.predicted_sharers(home.id(), size, id),
            priority: descriptor.prioritised(),
            group,
        };
        // No device is attached whose memory it could use instead.
        let of_home = |provider: Provider| provider.exporter().is_none_or(|id| id == home.id());
        let found = match set.allocate_kept(&request, of_home) {
            Some(taken) => Some(Found { taken, instead_of: None }),
            None => {
                let trigger = Trigger::Room { bytes: size, by: Some(id) };
                set.allocate_best(&request, &set.core.eviction_limits(trigger), of_home)?
            }
        };
        let Found { taken: backing, instead_of } = found.ok_or_else(|| Error::Unsupported {
            device: home.name().to_owned(),
            missing: "memory that other devices can import".into(),
        })?;
        set.core.groups.entered(group);
        let buffer = Self::new(refs.mine(), home.id(), descriptor, backing, Some(id));
        // A device loss that is handled after this check finds the buffer in the set.
        check_not_unplugged(&set.core, home)?;
        buffer.0.record_placement(instead_of.as_ref());
        Ok(buffer)
    }

    /// Creates a buffer object around a backing. `own_id` is the buffer's number if peerbuf allocated the
    /// memory, and so may move the buffer. It is `None` for external memory.
    pub(in crate::buffer) fn new(
        set: SetRef<Buffers>,
        home: DeviceId,
        descriptor: BufferDescriptor,
        backing: Backing,
        own_id: Option<u64>,
    ) -> Self {
        set.core.live.born(Object::Buffer);
        // INVARIANT: the backing was allocated for, or checked against, `size`.
        let domain = backing.domain();
        let preferred = preferred_domain(descriptor.placed(), home);
        let preferred = if own_id.is_some() { preferred } else { domain };
        let mut entry =
            EvictionEntry::none(preferred, descriptor.prioritised(), descriptor.is_discardable());
        let made = Made {
            id: own_id.unwrap_or_else(|| set.ids.next()),
            home,
            size: descriptor.size(),
            usage: descriptor.usage_and_memory(),
            flags: descriptor.flags(),
            is_displaced: own_id.is_some() && domain != preferred,
            name: descriptor.into_name(),
        };
        Self(BufferInner::new(set, made, |core, slot| {
            if own_id.is_some() {
                enlist(core, &mut entry, slot, domain, (backing.footprint(), backing.group()));
            }
            State::new(backing, entry)
        }))
    }

    /// The descriptor that the buffer was created with.
    pub fn descriptor(&self) -> BufferDescriptor {
        let flags = self.0.flags;
        let descriptor = BufferDescriptor::new(self.0.size).usage(self.0.usage.usage());
        let descriptor = descriptor.placement(flags.placement()).priority(flags.priority());
        let descriptor = descriptor.peer_to_peer(flags.peer_to_peer());
        let descriptor = if flags.is_discardable() { descriptor.discardable() } else { descriptor };
        let descriptor = if flags.is_private() { descriptor.private() } else { descriptor };
        let is_dedicated = self.0.usage.is_dedicated();
        let descriptor = if is_dedicated { descriptor.dedicated() } else { descriptor };
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

/// Checks that the home device can have a buffer of that size at all.
///
/// # Errors
///
/// [`Error::Unsupported`] with the size that was asked for and the device's limit. If no domain is that large, the
/// allocation reports it.
fn check_limit(set: &Buffers, home: &DeviceInner, descriptor: &BufferDescriptor) -> Result<()> {
    let (size, limit) = (descriptor.size(), home.adapter().max_allocation());
    let could_hold = |kind: &DomainKind| {
        let domain = match kind {
            DomainKind::Vram => DomainId::Vram(home.id()),
            DomainKind::System => DomainId::System,
        };
        set.core.domain_state(domain).ledger.could_hold(size)
    };
    if size <= limit || !descriptor.placed().kinds().iter().any(could_hold) {
        return Ok(());
    }
    Err(Error::Unsupported {
        device: home.name().to_owned(),
        missing: format!("buffers of {size} bytes (its limit is {limit}; use several buffers)"),
    })
}

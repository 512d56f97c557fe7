//! Making a buffer.

use std::sync::Arc;

use super::home::check_not_abandoned;
use crate::buffer::object::{BufferDescriptor, BufferInner, Made, SharedBuffer, Traits};
use crate::buffer::state::{Berth, State, preferred_domain};
use crate::buffer::tracking::enlist;
use crate::core::{Core, Wish};
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::observe::Object;
use crate::residency::{Demand, Found};

impl SharedBuffer {
    pub(crate) fn create(
        core: &Arc<Core>,
        home: &Arc<DeviceInner>,
        descriptor: BufferDescriptor,
    ) -> Result<Self> {
        descriptor.check(home.name())?;
        core.check(home)?;
        core.give_up_lost();
        check_not_abandoned(core, home)?;
        core.retire.collect();
        let (size, placement) = (descriptor.size(), descriptor.placed());
        let id = core.next_buffer();
        let group = descriptor.account(core)?;
        let wish = Wish { home, placement, size, dedicated: false, group };
        let demand = Demand::Room { bytes: size, by: Some(id) };
        let found = core.find_backing(&wish, &core.terms(demand), |_| true)?;
        let Found { taken: backing, instead_of } = found.ok_or_else(|| Error::Unsupported {
            device: home.name().to_owned(),
            missing: "any memory that it could share".into(),
        })?;
        core.groups.entered(group);
        let buffer = Self::new(core, home.id(), descriptor, backing, Some(id));
        // Whoever gives the device up from now on finds the buffer.
        check_not_abandoned(core, home)?;
        buffer.0.decide_place(instead_of.as_ref());
        Ok(buffer)
    }

    /// A buffer with its backing; with its number if it is ours, and may go elsewhere.
    pub(in crate::buffer) fn new(
        core: &Arc<Core>,
        home: DeviceId,
        descriptor: BufferDescriptor,
        backing: Backing,
        ours: Option<u64>,
    ) -> Self {
        core.live.born(Object::Buffer);
        // INVARIANT: the backing was allocated for, or checked against, `size`.
        let now = backing.domain();
        let preferred = preferred_domain(descriptor.placed(), home);
        let preferred = if ours.is_some() { preferred } else { now };
        let mut entry = Berth::none(preferred, descriptor.prioritised(), descriptor.may_be_lost());
        let made = Made {
            id: ours.unwrap_or_else(|| core.next_buffer()),
            home,
            size: descriptor.size(),
            usage: descriptor.usages(),
            traits: Traits::of(&descriptor),
            is_displaced: ours.is_some() && now != preferred,
            name: descriptor.into_name(),
        };
        Self(BufferInner::new(core, made, |slot| {
            if ours.is_some() {
                enlist(core, &mut entry, slot, now, (backing.footprint(), backing.group()));
            }
            State::new(backing, entry)
        }))
    }
}

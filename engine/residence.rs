//! Who stays and who goes, by hand: budgets, and moving many at once because somebody says so.

use std::sync::Arc;

use crate::buffer::{self, Abandoned, Migration, SharedBuffer};
use crate::core::Core;
use crate::device::Device;
use crate::engine::Engine;
use crate::error::Result;
use crate::memory::{DomainId, DomainUsage, GroupId};
use crate::observe::{MoveCause, Moved, StallCause, Stalls};
use crate::residency::{self, Demand, Obstacles, Priority};

/// What [`Engine::evict_all`], [`Engine::set_cap`], [`Engine::model_heap`] and
/// [`crate::ClientGroup::set_cap`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Eviction {
    /// Bytes that have left.
    pub bytes: u64,
    /// What had to stay, and why.
    pub stayed: Obstacles,
}

impl Engine {
    /// Takes a device's memory to be so large: software devices have no heap of their own, and a real one can
    /// be made smaller for a test. Whoever does not fit any more is evicted.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    ///
    /// Locks: none may be held; waits, in bounds, for what is evicted.
    pub fn model_heap(&self, device: &Device, bytes: u64) -> Result<Eviction> {
        self.core.check(&device.0)?;
        let domain = DomainId::Vram(device.id());
        self.core.store(domain).ledger.model(bytes);
        Ok(self.budget_changed(domain))
    }

    /// Takes a device to read so many bytes in a second from a place; `None` for what is measured. What
    /// software devices have is the same memory everywhere, so without this nothing is drawn to them
    /// ([`crate::Rules::attraction`]).
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    #[doc(hidden)]
    pub fn model_speed(&self, device: &Device, place: DomainId, bytes: Option<u64>) -> Result<()> {
        self.core.check(&device.0)?;
        self.core.check_domain(place)?;
        let price = bytes.map(residency::Price::of_speed);
        self.core.attraction.prices().set(device.id(), place, price);
        Ok(())
    }

    /// Limits what buffers may have in use in a domain, now and while things run; `None` for no limit but the
    /// domain's own. Whoever does not fit any more is evicted.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`] for the VRAM of a device that does not take part.
    ///
    /// Locks: as [`Engine::model_heap`].
    pub fn set_cap(&self, domain: DomainId, bytes: Option<u64>) -> Result<Eviction> {
        self.core.check_domain(domain)?;
        self.core.store(domain).ledger.set_cap(bytes);
        Ok(self.budget_changed(domain))
    }

    fn budget_changed(&self, domain: DomainId) -> Eviction {
        self.core.give_up_lost();
        self.core.store(domain).budget_changed();
        fit(&self.core, domain, GroupId::NONE)
    }

    /// Moves everything that may go out of a device's memory, and gives that back to the driver: it is to be
    /// suspended, or to go. Buffers come
    /// back when they are used, or all together with [`Engine::restore`]; those that may lose their content
    /// ([`SharedBuffer::set_purgeable`]) lose it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]. What could not go is in the result.
    ///
    /// Locks: as [`Engine::model_heap`].
    #[doc(alias = "ttm_resource_manager_evict_all")]
    pub fn evict_all(&self, device: &Device) -> Result<Eviction> {
        self.core.check(&device.0)?;
        self.core.give_up_lost();
        let domain = DomainId::Vram(device.id());
        let terms = self.core.terms(Demand::All);
        let evicted = residency::evict_bytes(&*self.core, domain, u64::MAX, &terms);
        self.core.trim_in(domain);
        Ok(evicted.into())
    }

    /// Brings back to a device's memory what wants to be there, as far as there is room without evicting
    /// anybody; returns how many buffers came.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]. A buffer that cannot come stays where it is.
    ///
    /// Locks: none may be held.
    pub fn restore(&self, device: &Device) -> Result<usize> {
        self.core.check(&device.0)?;
        self.core.give_up_lost();
        Ok(buffer::restore(&self.core, DomainId::Vram(device.id())))
    }

    /// Gives up a device that is about to be unplugged, or is lost ([`crate::Error::DeviceLost`]), for good:
    /// buffers in its memory that have a clean copy elsewhere go on as that, and those that have none are
    /// poisoned, until somebody accepts that their bytes are gone ([`SharedBuffer::accept_content`]) and moves
    /// them somewhere else. Importers are told ([`crate::InvalidationCause::Evict`]). Buffers elsewhere, and
    /// the other devices, do not notice; but nobody returns to the device's memory, and moves into it, and new
    /// buffers at home on the device, are [`crate::Error::DeviceLost`]. A buffer that would be lost while a
    /// move of it waits for work of the host is given time, in bounds, to get out.
    ///
    /// Of a loss that a call has reported nobody need tell the engine: the next operation that makes a buffer
    /// or uses one, of this device or another, begins with this.
    ///
    /// A device is given up once. Who asks again, or after the engine, is told what was done then; while
    /// another thread is at it, what was done so far.
    ///
    /// To take a device away that still works, [`Engine::evict_all`] first: it loses nothing.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    ///
    /// # Panics
    ///
    /// If an importer does, when all buffers are done.
    ///
    /// Locks: each buffer's reservation, one at a time, but not while waiting.
    pub fn abandon(&self, device: &Device) -> Result<Abandoned> {
        self.core.check(&device.0)?;
        Ok(buffer::abandon(&self.core, &device.0))
    }

    /// How full a domain is.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`] for the VRAM of a device that does not take part.
    pub fn usage(&self, domain: DomainId) -> Result<DomainUsage> {
        self.core.check_domain(domain)?;
        if let DomainId::Vram(device) = domain {
            self.core.member(device).ask_budget(self.core.age());
        }
        Ok(self.core.store(domain).ledger.usage())
    }

    /// How much has moved for a cause since the engine began.
    pub fn moved(&self, cause: MoveCause) -> Moved {
        self.core.moved.get(cause)
    }

    /// How often and how long calls waited for a cause since the engine began, without the waits for fences that
    /// callers wait for themselves ([`crate::Fence::wait`]).
    pub fn stalls(&self, cause: StallCause) -> Stalls {
        self.core.stalls.get(cause)
    }
}

/// Less may be in use in a domain, or be a group's there: whoever does not fit any more goes.
pub(crate) fn fit(core: &Core, domain: DomainId, group: GroupId) -> Eviction {
    let store = core.store(domain);
    if store.gets_tight((0, group)) {
        buffer::tighten(core, domain);
    }
    let bytes = match group {
        GroupId::NONE => store.ledger.excess(),
        group => store.ledger.group_excess(group),
    };
    let terms = core.terms(Demand::Room { bytes, by: None });
    residency::fit(core, domain, group, &terms).into()
}

impl SharedBuffer {
    /// Moves the buffer out of the device memory where it is, to where it may go from there. Unlike
    /// [`SharedBuffer::migrate`] this changes nothing about where it wants to be: it comes back when it is
    /// used. Mappings of the old place do not keep that ([`crate::InvalidationCause::Evict`]).
    ///
    /// One that may lose its content ([`SharedBuffer::set_purgeable`]) loses it, wherever it is, and does not
    /// come back until it is renewed.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`].
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "ttm_bo_evict")]
    pub fn evict(&self) -> Result<Migration> {
        buffer::evict_one(&self.0)
    }

    /// Says how much it matters from now on that the buffer is where it wants to be.
    ///
    /// Locks: the reservation.
    pub fn set_priority(&self, priority: Priority) {
        self.0.set_priority(priority);
    }

    /// How much it matters that the buffer is where it wants to be.
    ///
    /// Locks: the reservation.
    pub fn priority(&self) -> Priority {
        self.0.priority()
    }

    /// Moves the buffer to where it wants to be, now, evicting others if need be: somebody is about to use it
    /// a lot.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`]; [`crate::Error::OutOfMemory`] says what stood in the way.
    ///
    /// Locks: the reservation, but not while waiting; waits, in bounds, until others are out.
    #[doc(alias = "ttm_bo_validate")]
    pub fn request_residency(&self) -> Result<Migration> {
        buffer::request(&self.0)
    }
}

impl From<residency::Evicted> for Eviction {
    fn from(evicted: residency::Evicted) -> Self {
        Self { bytes: evicted.moved, stayed: evicted.obstacles }
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Arc<Eviction>>();
};

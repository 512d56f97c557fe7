//! Who stays and who goes, by hand: budgets, and moving many at once because somebody says so.

use super::engine::Engine;
use crate::buffer::{self, Eviction, fit};
use crate::core::UnplugReport;
use crate::device::Device;
use crate::error::Result;
use crate::memory::{DomainId, DomainUsage, GroupId};
use crate::observe::{MoveCause, Moved, StallCause, Stalls};
use crate::residency::{self, Trigger};

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
        self.set.core.check(&device.0)?;
        let domain = DomainId::Vram(device.id());
        self.set.core.domain_state(domain).ledger.model(bytes);
        Ok(self.budget_changed(domain))
    }

    /// Sets how many bytes per second `device` reads from `domain`; `None` returns to the measured speed.
    ///
    /// The domains of software devices are the same memory, so without this nothing is auto-migrated to them
    /// ([`crate::ResidencyOptions::auto_migration`]). With the feature `testing` alone.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    #[cfg(feature = "testing")]
    pub fn model_speed(&self, device: &Device, domain: DomainId, bytes: Option<u64>) -> Result<()> {
        self.set.core.check(&device.0)?;
        self.set.core.check_domain(domain)?;
        let cost = bytes.map(residency::AccessCost::from_bandwidth);
        self.set.core.auto_migration.access_costs().set(device.id(), domain, cost);
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
        self.set.core.check_domain(domain)?;
        self.set.core.domain_state(domain).ledger.set_cap(bytes);
        Ok(self.budget_changed(domain))
    }

    fn budget_changed(&self, domain: DomainId) -> Eviction {
        self.set.handle_lost_devices();
        self.set.core.domain_state(domain).budget_changed();
        fit(&self.set, domain, GroupId::NONE)
    }

    /// Moves everything that may go out of a device's memory, and gives that back to the driver: it is to be
    /// suspended, or to go. Buffers come
    /// back when they are used, or all together with [`Engine::restore`]; those that may lose their content
    /// ([`crate::SharedBuffer::set_purgeable`]) lose it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]. What could not go is in the result.
    ///
    /// Locks: as [`Engine::model_heap`].
    #[doc(alias = "ttm_resource_manager_evict_all")]
    pub fn evict_all(&self, device: &Device) -> Result<Eviction> {
        self.set.core.check(&device.0)?;
        self.set.handle_lost_devices();
        let domain = DomainId::Vram(device.id());
        let limits = self.set.core.eviction_limits(Trigger::All);
        let evicted = residency::evict_bytes(&*self.set, domain, u64::MAX, &limits);
        self.set.trim_in(domain);
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
        self.set.core.check(&device.0)?;
        self.set.handle_lost_devices();
        Ok(buffer::restore(&self.set, DomainId::Vram(device.id())))
    }

    /// Gives up a device that is about to be unplugged, or is lost ([`crate::Error::DeviceLost`]), for good:
    /// buffers in its memory that have a clean copy elsewhere go on as that, and those that have none are
    /// poisoned, until somebody accepts that their bytes are gone ([`crate::SharedBuffer::accept_content`]) and moves
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
    #[doc(alias = "abandon")]
    pub fn unplug(&self, device: &Device) -> Result<UnplugReport> {
        self.set.core.check(&device.0)?;
        Ok(buffer::unplug(&self.set, &device.0))
    }

    /// How full a domain is.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`] for the VRAM of a device that does not take part.
    pub fn usage(&self, domain: DomainId) -> Result<DomainUsage> {
        self.set.core.check_domain(domain)?;
        if let DomainId::Vram(device) = domain {
            self.set.core.member(device).poll_budget(self.set.core.age());
        }
        Ok(self.set.core.domain_state(domain).ledger.usage())
    }

    /// How much has moved for a cause since the engine began.
    pub fn moved(&self, cause: MoveCause) -> Moved {
        self.set.core.counters.moved.get(cause)
    }

    /// How often and how long calls waited for a cause since the engine began, without the waits for fences that
    /// callers wait for themselves ([`crate::Fence::wait`]).
    pub fn stalls(&self, cause: StallCause) -> Stalls {
        self.set.core.counters.stalls.get(cause)
    }
}

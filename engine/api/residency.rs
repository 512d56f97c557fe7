//! Residency on request: budgets, caps and quotas, and the eviction and restore of many buffers.

use super::engine::Engine;
use crate::buffer::{self, COMPACTED_AT_ONCE, Compacted, Compaction, Eviction, fit};
use crate::device::Device;
use crate::error::Result;
use crate::memory::{DomainId, GroupId};
use crate::residency::{self, Trigger};

/// # Residency
///
/// How much memory buffers may use, and who must leave it. The options of the engine are
/// [`crate::ResidencyOptions`]; requests for one buffer are methods of [`crate::SharedBuffer`].
impl Engine {
    /// Sets the size of a device's memory. Buffers that no longer fit are evicted.
    ///
    /// Software devices have no heap of their own, so theirs is modelled. The memory of a real device can be made
    /// smaller for a test.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    ///
    /// Locks: none may be held; waits for evictions, for at most the engine timeout.
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

    /// Limits how many bytes buffers may use in a domain. The cap can change at any time. Buffers that no longer fit
    /// are evicted.
    ///
    /// `None` restores the default. For VRAM that is no cap. For system memory it is what is available when the engine
    /// is opened: the least of half of the machine's memory, `MemAvailable` of `/proc/meminfo`, and what the memory
    /// cgroups of the process have left, but at least 64 MiB. A larger cap may be set.
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

    /// Limits how many bytes `device` may keep pinned at once ([`crate::Attachment::pin`]). Initially there is no
    /// limit.
    ///
    /// Existing pins remain. The first call visits every buffer, and makes the device's pins slightly slower from
    /// then on.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    ///
    /// Locks: each buffer's reservation, one at a time.
    pub fn set_pin_quota(&self, device: &Device, bytes: u64) -> Result<()> {
        self.set.core.check(&device.0)?;
        buffer::limit_pins(&self.set, device.id(), bytes);
        Ok(())
    }

    /// Evicts everything that can be evicted from a device's memory, and returns that memory to the driver: before
    /// a suspend, or before the device is removed. Buffers of any placement are evicted.
    ///
    /// Buffers are restored when they are used, or all together by [`Engine::restore`]. Purgeable buffers
    /// ([`crate::SharedBuffer::set_purgeable`]) lose their content.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]. The result says what could not be evicted.
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

    /// Restores the buffers that prefer a device's memory, as far as there is room without an eviction. Returns how
    /// many buffers moved.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]. A buffer that cannot be restored stays in its domain.
    ///
    /// Locks: none may be held.
    pub fn restore(&self, device: &Device) -> Result<usize> {
        self.set.core.check(&device.0)?;
        self.set.handle_lost_devices();
        Ok(buffer::restore(&self.set, DomainId::Vram(device.id())))
    }

    /// Returns memory that no buffer uses to its providers, for an application that goes idle. Returns how many
    /// bytes.
    ///
    /// Clean copies are dropped too, so the next eviction of such a buffer copies again. Memory of the devices that
    /// should be returned as well must be evicted first ([`Engine::evict_all`]).
    ///
    /// Sparse blocks of memory are emptied first, as [`Engine::compact`] does, so idle buffers may move within their
    /// domain: 64 MiB at most. Call [`Engine::compact`] for more.
    ///
    /// Locks: none may be held; each buffer's reservation, one at a time.
    pub fn trim(&self) -> u64 {
        self.set.handle_lost_devices();
        let compacted = buffer::compact(&self.set, Compacted::all(COMPACTED_AT_ONCE));
        compacted.freed + self.set.trim()
    }

    /// Zeroes memory that no buffer uses, about `bytes` bytes, so that buffers which get it need not be zeroed when they
    /// are first used. It is for an application that is idle, or about to create buffers. Returns how many bytes.
    ///
    /// It waits for no device. Only memory in the host's caches is zeroed: where buffers were, and of each size that of the
    /// last used ones first. The last piece is zeroed as a whole, so it may be up to 256 MiB more. It ends early where another
    /// thread frees unused memory ([`Engine::trim`], a full domain, [`Engine::remove_device`]).
    ///
    /// Locks: none that a buffer needs. While a piece of memory is being zeroed, no buffer gets it.
    pub fn zero_unused(&self, bytes: u64) -> u64 {
        self.set.handle_lost_devices();
        self.set.core.retire.collect();
        self.set.core.zero_unused(bytes)
    }

    /// Empties sparse blocks of memory into fuller ones, and returns them to their providers. At most `budget` bytes of
    /// buffers move in one call.
    ///
    /// Idle buffers move, if nothing pins them and no static importer has mapped them. Dynamic importers are notified as
    /// for any move. It waits for no device, and evicts nothing.
    ///
    /// Locks: none may be held; each buffer's reservation, one at a time.
    pub fn compact(&self, budget: u64) -> Compaction {
        self.set.handle_lost_devices();
        buffer::compact(&self.set, Compacted::all(budget))
    }
}

//! The services of one engine: its devices, memory providers, routes, tools, and lists.
//!
//! Kernel counterpart: `struct ttm_device`.
//!
//! [`Core`] is a service registry. Its parts are independent, and each has its own lock where it needs one. A
//! function takes the part that it uses if that is only one.
//!
//! May be known here: devices, memory, fences, transfers, residency.
//!
//! What is not here: buffers. The tables that list buffers are generic ([`Registry`], [`ExportTable`]) or
//! hold their numbers ([`ProtectedSet`]).

mod backing;
mod bounds;
mod counters;
mod devices;
mod export_table;
mod ids;
mod import_table;
mod loss_guard;
mod pin_quota;
mod protected_set;
mod providers;
mod registry;
mod removal;
mod restore_turns;
mod routes;
mod sharing_habits;
mod tools;
mod views;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::{Call, Calls, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Domain, DomainId, Imports, SlabGrouping, SystemMemory};
use crate::observe::Live;
use crate::observe::trace::{Counters as Levels, Tracer};
use crate::residency::{
    AutoMigration, BulkGroupTable, DomainState, EvictionLimits, Groups, Priority, ResidencyOptions,
    Throttle, Trigger, policy,
};
use crate::sync::{Bridges, Retire, WaitQueues};
use crate::transfer::{CopySpeeds, Routes};

pub(crate) use bounds::Bounds;
pub(crate) use counters::Counters;
pub use devices::UnplugReport;
pub(crate) use devices::{DeviceEntry, DeviceTable};
pub(crate) use export_table::{EndedExports, ExportTable};
pub(crate) use ids::Ids;
pub(crate) use import_table::{ImportTable, ImportedPart};
pub(crate) use loss_guard::{LossGuard, Turn};
pub(crate) use pin_quota::PinQuota;
pub(crate) use protected_set::{ProtectedSet, Protection};
pub(crate) use providers::{BackingRequest, Providers};
pub(crate) use registry::{Registry, SlotId};
pub(crate) use restore_turns::{RestoreTurn, RestoreTurns};

/// The services of one engine.
// Dropped in this order: the threads of bridges end before the devices that they wait for, and memory is
// freed before the devices that it is on.
#[derive(Debug)]
pub(crate) struct Core {
    // Constant after creation.
    pub(crate) calls: Arc<Calls>,
    pub(crate) live: Arc<Live>,
    /// What devices have imported, and which views are unused.
    pub(crate) imports: Arc<Imports>,
    /// The engine timeout: the bound of waits for a device ([`Bounds::progress`]).
    pub(crate) timeout: Duration,
    pub(crate) bounds: Bounds,
    /// The state of system memory. That of a device's memory is in its [`DeviceEntry`].
    system: DomainState<SlotId>,
    /// The residency options, and the limit on how fast buffers are restored.
    pub(crate) throttle: Throttle,
    /// The access counters of auto-migration.
    pub(crate) auto_migration: AutoMigration,
    /// Records a trace, if it is on. Bridges have a reference, too.
    pub(crate) tracer: Arc<Tracer>,
    pub(crate) counters: Counters,
    pub(crate) protected: ProtectedSet,
    pub(crate) restore_turns: RestoreTurns,
    pub(crate) loss_guard: LossGuard,
    /// The copy speeds of host and devices, if the application has set them.
    given_speeds: Option<CopySpeeds>,
    /// When the engine was opened.
    began: Instant,
    // Each part has a lock of its own.
    pub(crate) routes: Routes,
    /// The client groups, and which buffers are in which age group.
    pub(crate) groups: Groups,
    pub(crate) bulk_groups: BulkGroupTable<SlotId>,
    /// Where threads sleep that wait for a reservation.
    pub(crate) queues: WaitQueues,
    pub(crate) bridges: Bridges,
    pub(crate) retire: Retire,
    pub(crate) providers: Providers,
    pub(crate) devices: DeviceTable,
}

impl Core {
    pub(crate) fn new(
        bounds: Bounds,
        memory: SystemMemory,
        options: ResidencyOptions,
        tracer: Tracer,
        given_speeds: Option<CopySpeeds>,
        grouping: SlabGrouping,
    ) -> Self {
        Self {
            calls: Arc::new(Calls::with_end_timeout(bounds.end)),
            live: Arc::default(),
            imports: Arc::default(),
            timeout: bounds.progress,
            bounds,
            system: DomainState::new(system_domain(memory), policy::lru),
            throttle: Throttle::new(options),
            auto_migration: AutoMigration::new(options.auto_migration),
            tracer: Arc::new(tracer),
            counters: Counters::default(),
            protected: ProtectedSet::default(),
            restore_turns: RestoreTurns::default(),
            loss_guard: LossGuard::default(),
            given_speeds,
            began: Instant::now(),
            routes: Routes::default(),
            groups: Groups::default(),
            bulk_groups: BulkGroupTable::default(),
            queues: WaitQueues::new(),
            bridges: Bridges::new(bounds.end),
            retire: Retire::default(),
            providers: Providers::new(grouping),
            devices: DeviceTable::new(),
        }
    }

    /// The entry of a device of this engine.
    pub(crate) fn member(&self, device: DeviceId) -> &Arc<DeviceEntry> {
        let Some(entry) = self.devices.get(device) else {
            unreachable!("devices of other engines are refused")
        };
        entry
    }

    /// The device with a number.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] if there is none; [`Error::DeviceRemoved`].
    pub(crate) fn find(&self, device: DeviceId) -> Result<Arc<DeviceInner>> {
        let Some(entry) = self.devices.get(device) else {
            return Err(Error::ForeignEngine { what: "the domain's device" });
        };
        let found = self.devices.device(device);
        check_present(&entry.device)?;
        found.ok_or_else(|| Error::DeviceRemoved(entry.device.name().to_owned()))
    }

    /// Checks that the device is of this engine: its calls are counted in this engine's counters.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] if it is not; [`Error::DeviceRemoved`] if it has left.
    pub(crate) fn check(&self, device: &DeviceInner) -> Result<()> {
        if Arc::ptr_eq(&self.calls, device.calls()) {
            check_present(device)
        } else {
            Err(Error::ForeignEngine { what: "the device" })
        }
    }

    // ---- memory ----

    /// All domains: the VRAM of each device, then system memory.
    pub(crate) fn domains(&self) -> impl Iterator<Item = DomainId> {
        let devices = self.devices.iter().map(|member| DomainId::Vram(member.device.id()));
        devices.chain([DomainId::System])
    }

    /// The domains that are parts of system memory: the memory of integrated devices.
    pub(crate) fn parts(&self) -> impl Iterator<Item = DomainId> {
        let parts = self.devices.iter().filter(|member| member.vram.ledger.is_part());
        parts.map(|member| DomainId::Vram(member.device.id()))
    }

    /// Checks that a domain is of this engine.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device of another engine.
    pub(crate) fn check_domain(&self, domain: DomainId) -> Result<()> {
        match domain {
            DomainId::Vram(device) => self.find(device).map(|_| ()),
            DomainId::System => Ok(()),
        }
    }

    /// A domain's ledger and eviction list.
    pub(crate) fn domain_state(&self, id: DomainId) -> &DomainState<SlotId> {
        match id {
            DomainId::Vram(device) => &self.member(device).vram,
            DomainId::System => &self.system,
        }
    }

    /// The limits of an eviction for a request that cannot do without memory: it may evict any buffer, and
    /// waits for at most the engine timeout.
    pub(crate) fn eviction_limits(&self, trigger: Trigger) -> EvictionLimits {
        EvictionLimits {
            evict: true,
            max_priority: Priority::Highest,
            wait: Some(Instant::now() + self.timeout),
            may_block: false,
            skip_busy: false,
            trigger,
            depth: 0,
        }
    }

    /// The time since the engine was opened, unless a test has stopped its clock.
    pub(crate) fn age(&self) -> Duration {
        self.calls.clock().unwrap_or_else(|| self.began.elapsed())
    }

    /// Records the level of a domain in the trace.
    pub(crate) fn trace_counters(&self, domain: DomainId) {
        if !self.tracer.is_on() {
            return;
        }
        let usage = self.domain_state(domain).ledger.usage();
        let in_flight = self.retire.bytes_in(domain);
        let budget = match domain {
            DomainId::System => u64::MAX,
            DomainId::Vram(_) => usage.budget,
        };
        self.tracer.counters(domain, Levels { budget, used: usage.used, in_flight });
    }
}

/// Checks that the device is not removed, and is not about to be.
fn check_present(device: &DeviceInner) -> Result<()> {
    if device.is_leaving() {
        return Err(Error::DeviceRemoved(device.name().to_owned()));
    }
    Ok(())
}

/// The ledger of system memory: of what this process may allocate at all, as much as is available now.
fn system_domain(memory: SystemMemory) -> Domain {
    Domain::with_default_cap(DomainId::System, memory.limit, memory.available)
}

impl Drop for Core {
    fn drop(&mut self) {
        // This is the end of the engine, not of a buffer: it waits for unfinished work, while there is progress
        // within the bound.
        self.retire.drain(self.bounds.end);
        for member in self.devices.iter() {
            if member.device.is_lost() && !member.device.wait_until_unused(Duration::ZERO) {
                // It may still be at work, also with its tools.
                tracing::error!(device = member.device.name(), "lost device still at work; leaked");
                std::mem::forget(Arc::clone(member));
            }
        }
        tracing::debug!(
            allocations = self.calls.made(Call::AllocateMemory),
            imports = self.calls.made(Call::ImportMemory),
            "engine closed"
        );
    }
}

//! A million buffers on eight devices: only the ledgers, the eviction lists, and the search for room.
//!
//! [`Simulation`] works with any number of buffers, so that the cost of an operation with many can be compared
//! with its cost with few.

use std::cell::{Cell, RefCell};

use super::world::site;
use super::{EvictionLimits, Make, PlacementOption, Random, UNIT, limits};
use crate::memory::{Domain, DomainId, GroupId};
use crate::residency::domain_state::DomainState;
use crate::residency::eviction_failures::{EvictionFailures, SkipReason};
use crate::residency::list_entry::Victim;
use crate::residency::policy::{self, Slot};
use crate::residency::priority::Priority;
use crate::residency::room::{Rejected, with_room};
use crate::residency::world::{Outcomes, ReleaseWait, Trigger, World};

/// One part in this many of a device's buffers fits in its memory.
const FITS: u64 = 4;
/// Sizes are from 1 to this many units.
const LARGEST: u64 = 16;

/// The model. Buffers have numbers and are assigned to the devices in turn.
#[derive(Debug)]
pub(super) struct Simulation {
    devices: Vec<DomainState<u32>>,
    system: DomainState<u32>,
    buffers: RefCell<Vec<Each>>,
    asked: Cell<u64>,
    evicted: Cell<u64>,
    returned: Cell<u64>,
}

/// Eight bytes each.
#[derive(Clone, Copy, Debug, Default)]
struct Each {
    slot: u32,
    units: u8,
    alive: bool,
    here: bool,
}

impl Each {
    fn bytes(self) -> u64 {
        UNIT * u64::from(self.units)
    }
}

impl Simulation {
    pub(super) fn new(make: Make, buffers: usize, devices: usize) -> Self {
        // CAST: a few million.
        let average = UNIT * (1 + LARGEST) / 2;
        let capacity = (buffers / devices) as u64 * average / FITS;
        let store = |id, bytes| DomainState::new(Domain::new(id, bytes), make);
        Self {
            devices: (0..devices).map(|device| store(site(device), capacity)).collect(),
            system: store(DomainId::System, u64::MAX),
            buffers: RefCell::new(vec![Each::default(); buffers]),
            asked: Cell::new(0),
            evicted: Cell::new(0),
            returned: Cell::new(0),
        }
    }

    fn device(&self, buffer: usize) -> usize {
        buffer % self.devices.len()
    }

    fn get(&self, buffer: usize) -> Each {
        self.buffers.borrow()[buffer]
    }

    /// Creates a buffer in its device's memory, with evictions if necessary.
    pub(super) fn create(&self, buffer: usize, units: u8, priority: Priority) {
        let bytes = UNIT * u64::from(units);
        self.take_room(buffer, bytes);
        let eviction_list = &self.devices[self.device(buffer)].eviction_list;
        // CAST: a few million.
        let slot = eviction_list.insert(buffer as u32, bytes, priority, true).0;
        self.buffers.borrow_mut()[buffer] = Each { slot, units, alive: true, here: true };
    }

    /// Uses a buffer. If it is displaced, it returns.
    pub(super) fn touch(&self, buffer: usize) {
        let (each, eviction_list) =
            (self.get(buffer), &self.devices[self.device(buffer)].eviction_list);
        eviction_list.mark_used(Slot(each.slot));
        if !each.here {
            self.take_room(buffer, each.bytes());
            self.system.ledger.credit(each.bytes());
            eviction_list.moved(Slot(each.slot), Some(each.bytes()));
            self.buffers.borrow_mut()[buffer].here = true;
            self.returned.set(self.returned.get() + 1);
        }
    }

    /// The number of buffers that a device would evict for so many bytes. Nothing is evicted.
    pub(super) fn pick(&self, device: usize, bytes: u64) -> usize {
        self.devices[device].eviction_list.victims(bytes, Priority::Highest, &|_| false).len()
    }

    pub(super) fn drop_buffer(&self, buffer: usize) {
        let each = std::mem::take(&mut self.buffers.borrow_mut()[buffer]);
        let store = &self.devices[self.device(buffer)];
        store.eviction_list.remove(Slot(each.slot));
        let ledger = if each.here { &store.ledger } else { &self.system.ledger };
        ledger.credit(each.bytes());
    }

    /// Bytes of bookkeeping of all devices.
    pub(super) fn footprint(&self) -> usize {
        self.devices.iter().map(|store| store.eviction_list.footprint()).sum()
    }

    fn take_room(&self, buffer: usize, bytes: u64) {
        let place = PlacementOption { domain: site(self.device(buffer)), fallback: false };
        let found = with_room(self, &[place], bytes, &limits(), &mut |_, room| {
            room.spend();
            Ok::<_, Rejected<()>>(())
        });
        let taken = found.map(|found| found.map(|found| found.taken));
        assert_eq!(taken, Ok(Some(())), "every buffer may be evicted");
    }

    /// Asserts that the ledgers and the eviction lists agree with the buffers.
    fn check(&self) {
        let buffers = self.buffers.borrow();
        let alive = |each: &&Each| each.alive;
        for (device, store) in self.devices.iter().enumerate() {
            let mine = buffers.iter().skip(device).step_by(self.devices.len()).filter(alive);
            let here: Vec<_> = mine.filter(|each| each.here).collect();
            let usage = store.ledger.usage();
            assert_eq!(usage.used, here.iter().map(|each| each.bytes()).sum::<u64>());
            assert!(usage.peak <= usage.budget, "{usage:?}");
            assert_eq!(store.eviction_list.residents().len(), here.len());
            let order = store.eviction_list.victims(u64::MAX, Priority::Highest, &|_| false);
            assert_eq!(order.len(), here.len());
            let all_match = order.iter().all(|victim| {
                let each = buffers[victim.key as usize];
                each.here && (each.slot, each.bytes()) == (victim.slot.0, victim.bytes)
            });
            assert!(all_match, "device {device}");
        }
        let away = buffers.iter().filter(alive).filter(|each| !each.here);
        assert_eq!(self.system.ledger.used(), away.map(|each| each.bytes()).sum::<u64>());
        assert_eq!(self.asked.get(), self.evicted.get(), "no eviction fails");
    }
}

impl World for Simulation {
    type Key = u32;
    type Error = ();

    fn domain_state(&self, domain: DomainId) -> &DomainState<u32> {
        match domain {
            DomainId::Vram(device) => &self.devices[device.index()],
            DomainId::System => &self.system,
        }
    }

    fn start_tracking(&self, _: DomainId) {}

    fn reclaim(&self, _: DomainId, _: GroupId, _: &dyn Fn() -> bool) {}

    fn trim(&self, _: DomainId) -> u64 {
        0
    }

    fn compact(&self, _: DomainId, _: Trigger) -> u64 {
        0
    }

    fn evict(&self, from: DomainId, victims: &[Victim<u32>], _: &EvictionLimits) -> Outcomes {
        let (store, mut buffers) = (self.domain_state(from), self.buffers.borrow_mut());
        self.asked.set(self.asked.get() + victims.len() as u64);
        let go = |victim: &Victim<u32>| {
            let each = &mut buffers[victim.key as usize];
            if !each.here {
                return Err(SkipReason::Gone);
            }
            each.here = false;
            store.eviction_list.moved(victim.slot, None);
            store.ledger.credit(victim.bytes);
            self.system.ledger.charge(victim.bytes).ok_or(SkipReason::NoRoom)?.spend();
            self.evicted.set(self.evicted.get() + 1);
            Ok(())
        };
        victims.iter().map(go).collect()
    }

    fn in_flight(&self, _: DomainId, _: GroupId) -> u64 {
        0
    }

    fn wait_for_release(
        &self,
        _: DomainId,
        _: &EvictionLimits,
        _: &dyn Fn() -> bool,
    ) -> ReleaseWait {
        ReleaseWait::NothingInFlight
    }

    fn name_kept(&self, _: u32, _: SkipReason, _: &mut EvictionFailures) {}

    fn no_room(&self, _: DomainId, _: u64, _: Option<GroupId>, _: EvictionFailures) {}
}

/// Creates, uses, chooses and drops so many buffers, with as many uses.
fn simulate(make: Make, buffers: usize, devices: usize) -> Simulation {
    let simulation = Simulation::new(make, buffers, devices);
    let mut random = Random(1);
    let units: Vec<u8> = (0..buffers)
        // CAST: at most 16.
        .map(|_| 1 + random.below(LARGEST) as u8)
        .collect();
    for (buffer, &units) in units.iter().enumerate() {
        simulation.create(buffer, units, *random.pick(Priority::ALL));
    }
    simulation.check();
    let footprint = simulation.footprint();
    // Each policy also has tables, whose size does not depend on the number of buffers.
    let tables = 64 * 1024 * Priority::ALL.len() * devices;
    let allowed = 128 * buffers + tables;
    assert!(footprint <= allowed, "{footprint} bytes for {buffers} buffers");

    // CAST: a few million, here and below.
    for _ in 0..buffers {
        simulation.touch(random.below(buffers as u64) as usize);
    }
    simulation.check();
    let returned = simulation.returned.get();
    assert!(returned > buffers as u64 / 4, "{returned} returned, most being displaced");

    let evicted = simulation.evicted.get();
    for device in 0..devices {
        for units in 1..=LARGEST {
            let picked = simulation.pick(device, units * UNIT);
            assert!((1..=units as usize).contains(&picked), "{picked} for {units} units");
        }
    }
    assert_eq!(simulation.evicted.get(), evicted, "a choice evicts nothing");

    // Drop the second half and create others in their slots; then drop all. The first time policies may learn what is
    // new to them, which takes memory.
    let mut again = 0;
    for round in 0..if buffers <= 1000 { 10 } else { 1 } {
        (buffers / 2..buffers).for_each(|buffer| simulation.drop_buffer(buffer));
        simulation.check();
        for (buffer, &units) in units.iter().enumerate().skip(buffers / 2) {
            simulation.create(buffer, units, Priority::Normal);
        }
        simulation.check();
        let now = simulation.footprint();
        assert!(now <= footprint * 2 + tables && (round < 2 || now == again), "slots are reused");
        again = now;
    }
    (0..buffers).for_each(|buffer| simulation.drop_buffer(buffer));
    simulation.check();
    simulation
}

#[test]
fn a_million_buffers_on_eight_devices() {
    for make in [policy::lru, policy::adaptive] {
        let simulation = simulate(make, 1_000_000, 8);
        let used: u64 = simulation.devices.iter().map(|store| store.ledger.used()).sum();
        assert_eq!((used, simulation.system.ledger.used()), (0, 0));
    }
}

#[test]
fn a_hundred_buffers_on_one_device() {
    for (_, make) in super::POLICIES {
        simulate(make, 100, 1);
    }
}

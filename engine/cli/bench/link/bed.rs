//! What everything is measured with.

use std::path::Path;
use std::time::Duration;

use peerbuf::{Device, Engine};

use super::super::run::Hop;
use super::super::sysfs;
use super::leg::{Leg, Plan};
use super::place::Pool;
use super::plant::Plant;
use super::stop::Stop;

/// What everything is measured with.
pub(super) struct Bed<'a> {
    pub(super) engine: &'a Engine,
    pub(super) devices: &'a [Device],
    pub(super) timeout: Duration,
    pub(super) pool: Pool<'a>,
    pub(super) stop: Stop,
    /// The next seed of a pattern.
    pub(super) seed: u32,
    pub(super) quick: bool,
    pub(super) root: &'a Path,
    /// Faults of tests.
    pub(super) plants: &'a [Plant],
}

impl<'a> Bed<'a> {
    /// A copy with buffers of `size` bytes. `number` is its own among those that run at once.
    pub(super) fn leg(
        &mut self,
        plan: &Plan,
        size: u64,
        number: usize,
    ) -> peerbuf::Result<Leg<'a>> {
        let with = (self.engine, self.devices, self.timeout);
        Leg::new(with, &mut self.pool, plan, size, number)
    }

    pub(super) fn next_seed(&mut self) -> u32 {
        self.seed = self.seed.wrapping_add(1);
        self.seed
    }

    /// How long the noise of one class of sizes is measured.
    pub(super) fn noise_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 500 } else { 3000 })
    }

    /// The links of all devices, as they are now.
    pub(super) fn hops(&self) -> Vec<Hop> {
        let addresses = self.devices.iter().filter_map(|device| device.adapter().pci());
        addresses.flat_map(|address| sysfs::hops(self.root, &address.to_string())).collect()
    }
}

//! `peerbuf bench link`: measures how fast two devices, and a device and the host, exchange bytes, by which way.
//!
//! The run is made of blocks. Within a block cells are visited in rounds, in a shuffled order, so that a machine that
//! becomes slower or faster does so for all of them. The first visit of a cell fills its buffers with a pattern of its own,
//! and compares every byte through the consumer after the times were taken.

mod blocks;
mod facts;
mod job;
mod label;
mod latency;
mod leg;
mod options;
mod place;
mod plan;
mod plant;
mod progress;
mod stop;
mod yardsticks;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerbuf::{Device, Engine};

use super::run::{Hop, Key, Program, Run, SCHEMA};
use super::sysfs;
use crate::demo::fresh_seed;
use crate::failure::Result;
use crate::lineup::Lineup;

use leg::{Leg, Plan};
use place::Pool;
use plan::{Planned, Planner};
use plant::Plant;
use progress::Progress;
use stop::Stop;

pub(crate) use options::Options;

/// What everything is measured with.
struct Bed<'a> {
    engine: &'a Engine,
    devices: &'a [Device],
    timeout: Duration,
    pool: Pool<'a>,
    stop: Stop,
    /// The next seed of a pattern.
    seed: u32,
    quick: bool,
    root: &'a Path,
    /// Faults of tests.
    plants: &'a [Plant],
}

impl<'a> Bed<'a> {
    /// A copy with buffers of `size` bytes. `number` is its own among those that run at once.
    fn leg(&mut self, plan: &Plan, size: u64, number: usize) -> peerbuf::Result<Leg<'a>> {
        let with = (self.engine, self.devices, self.timeout);
        Leg::new(with, &mut self.pool, plan, size, number)
    }

    /// The cells of one copy at a time that are wanted.
    fn plan(&mut self, wants: &dyn Fn(&Key) -> bool) -> Planned {
        let (engine, devices) = (self.engine, self.devices);
        let mut planner = Planner { engine, devices, pool: &mut self.pool, wants };
        planner.single(blocks::SIZE)
    }

    fn next_seed(&mut self) -> u32 {
        self.seed = self.seed.wrapping_add(1);
        self.seed
    }

    /// How long the noise of one class of sizes is measured.
    fn noise_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 500 } else { 3000 })
    }

    /// The links of all devices, as they are now.
    fn hops(&self) -> Vec<Hop> {
        let addresses = self.devices.iter().filter_map(|device| device.adapter().pci());
        addresses.flat_map(|address| sysfs::hops(self.root, &address.to_string())).collect()
    }
}

/// Measures what the options ask for. `Ok(None)` if that is nothing: the list of what there is was printed then.
pub(crate) fn measure(options: &Options) -> Result<Option<Run>> {
    let root = Path::new("/");
    let started = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs());
    let stop = Stop::new(options.time_limit());
    let lineup = Lineup::open(&options.devices, options.timeout(), None)?;
    let (engine, devices) = (&lineup.engine, &lineup.devices[..]);
    let progress = Progress::new(options.is_silent());
    progress.say("proving routes");
    let access = facts::access(&lineup);
    let mut bed = Bed {
        engine,
        devices,
        timeout: lineup.timeout,
        pool: Pool::new(engine, devices),
        stop,
        seed: fresh_seed(),
        quick: options.quick,
        root,
        plants: options.plants(),
    };
    let wants = |key: &Key| options.wants_cell(key);
    let planned = bed.plan(&wants);
    let latencies = latency::names(devices.len(), &|name| options.wants_name(name));
    if options.list {
        options.print_list(&planned, &latencies)?;
        return Ok(None);
    }
    if planned.specs.is_empty() && latencies.is_empty() {
        progress.end();
        let (all, latencies) = (bed.plan(&|_| true), latency::names(devices.len(), &|_| true));
        options.print_what_there_is(&all, &latencies)?;
        return Ok(None);
    }
    let mut run = Run {
        schema: SCHEMA,
        program: Program::Link,
        quick: options.quick,
        ended_early: None,
        started_unix_seconds: started,
        duration_seconds: None,
        tool: facts::tool(),
        machine: facts::machine(root),
        devices: facts::devices(root, devices),
        noise: vec![],
        access,
        cells: vec![],
        latency: vec![],
        figures: vec![],
    };
    progress.say("measuring the host's memory");
    run.machine.host = yardsticks::host(&mut bed);
    progress.say("measuring the noise of this run");
    run.noise = yardsticks::noise(&mut bed);
    run.cells = blocks::measure(&mut bed, planned, &wants, &progress);
    bed.pool.clear();
    let within = blocks::latency_time(&bed, latencies.len());
    run.latency =
        latency::measure(&bed, within, &|name| options.wants_name(name), |name| progress.say(name));
    if bed.stop.reason().is_none() {
        // Once more, since the machine may have been busy at the beginning: what is possible is the best that was seen.
        progress.say("measuring the host's memory again");
        yardsticks::keep_best(&mut run.machine.host, yardsticks::host(&mut bed));
    }
    progress.end();
    run.ended_early = bed.stop.reason();
    run.duration_seconds = Some(bed.stop.start.elapsed().as_secs_f64());
    Ok(Some(run))
}

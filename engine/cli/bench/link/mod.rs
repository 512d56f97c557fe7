//! `peerbuf bench link`: measures how fast two devices, and a device and the host, exchange bytes, by which way.
//!
//! The run is made of blocks. Within a block cells are visited in rounds, in a shuffled order, so that a machine that
//! becomes slower or faster does so for all of them. The first visit of a cell fills its buffers with a pattern of its own,
//! and compares every byte through the consumer after the times were taken.

mod bed;
mod blocks;
mod child;
mod facts;
mod held;
mod job;
mod label;
mod latency;
mod leg;
mod machine;
mod options;
mod peer;
mod place;
mod plan;
mod plant;
mod progress;
mod stop;
mod yardsticks;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::run::{Key, Program, Run, SCHEMA};
use crate::demo::fresh_seed;
use crate::failure::Result;
use crate::lineup::Lineup;

use bed::Bed;
use place::Pool;
use plan::{Planned, Planner};
use progress::Progress;
use stop::Stop;

pub(crate) use options::Options;
pub(crate) use peer::Peer;

/// The cells of one copy at a time that are wanted.
fn plan(bed: &mut Bed<'_>, wants: &dyn Fn(&Key) -> bool) -> Planned {
    let (engine, devices) = (bed.engine, bed.devices);
    let quick = bed.quick;
    let mut planner = Planner { engine, devices, pool: &mut bed.pool, wants, quick };
    planner.single(blocks::SIZE)
}

/// Measures what the options ask for. `Ok(None)` if that is nothing: the list of what there is was printed then.
pub(crate) fn measure(options: &Options) -> Result<Option<Run>> {
    let root = Path::new(machine::ROOT);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs());
    // Before the time for it is spent.
    options.printing.check()?;
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
    let planned = plan(&mut bed, &wants);
    let latencies = latency::names(devices.len(), &|name| options.wants_name(name));
    if options.list {
        options.print_list(&planned, &latencies)?;
        return Ok(None);
    }
    if planned.specs.is_empty() && latencies.is_empty() {
        progress.end();
        let (all, latencies) =
            (plan(&mut bed, &|_| true), latency::names(devices.len(), &|_| true));
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
        tool: machine::tool(),
        machine: machine::machine(root),
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
    run.cells = blocks::measure(&mut bed, &mut run.machine.host, planned, &wants, &progress);
    bed.pool.clear();
    run.cells.extend(peer::measure(&mut bed, &wants, &progress));
    let within = blocks::latency_time(&bed, latencies.len());
    run.latency =
        latency::measure(&bed, within, &|name| options.wants_name(name), |name| progress.say(name));
    progress.end();
    run.ended_early = bed.stop.reason();
    run.duration_seconds = Some(bed.stop.start.elapsed().as_secs_f64());
    Ok(Some(run))
}

//! `peerbuf devices`: who is there, and which routes carry data between them.

use std::time::Duration;

use peerbuf::transfer::Working;
use peerbuf::{AdapterSelector, Verdict, WaitRoute};

use crate::lineup::Lineup;
use crate::report::{
    DeviceFacts, DevicesReport, RefusalFacts, RouteFacts, SCHEMA, UnusableFacts, WorkingFacts,
};
use crate::{Outcome, Result, output, show};

/// A probe moves 1 MiB; a device that needs longer than this does not work.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the command.
pub(crate) fn run(selected: &[AdapterSelector], json: bool) -> Result<Outcome> {
    let lineup = Lineup::open(selected, TIMEOUT, None)?;
    let report = DevicesReport {
        schema: SCHEMA,
        devices: DeviceFacts::of_all(&lineup.devices),
        routes: lineup.pairs().map(|(from, to)| prove(&lineup, from, to)).collect(),
        unusable: UnusableFacts::of_all(&lineup.unusable),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&show::devices(&report))?;
    }
    Ok(Outcome::of(report.routes.iter().all(|route| route.verified)))
}

fn prove(lineup: &Lineup, from: usize, to: usize) -> RouteFacts {
    let (first, second) = (&lineup.devices[from], &lineup.devices[to]);
    let wait = lineup.engine.wait_route(first, second).ok().map(WaitRoute::name);
    match lineup.engine.route(first, second) {
        Ok(verdict) => RouteFacts { wait, ..facts(from, to, &verdict) },
        // One device that does not even run a pass need not hide what the others can do.
        Err(error) => RouteFacts {
            from,
            to,
            route: None,
            verified: false,
            working: vec![],
            refused: vec![],
            wait,
            error: Some(error.to_string()),
        },
    }
}

fn facts(from: usize, to: usize, verdict: &Verdict) -> RouteFacts {
    let working = |working: &Working| WorkingFacts {
        route: working.route.name(),
        // CAST: a rate needs no more digits. A read takes some time, so this is finite.
        read_bytes_per_second: verdict.probe_bytes as f64
            / working.read.max(Duration::from_nanos(1)).as_secs_f64(),
    };
    RouteFacts {
        from,
        to,
        route: verdict.verified.then(|| verdict.route.name()),
        verified: verdict.verified,
        working: verdict.working.iter().map(working).collect(),
        refused: verdict.refused.iter().map(RefusalFacts::from).collect(),
        wait: None,
        error: None,
    }
}

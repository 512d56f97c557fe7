//! `peerbuf devices`: which devices are present, and which routes carry data between them.

use std::time::Duration;

use peerbuf::transfer::{Pass, Trial, Working};
use peerbuf::{AdapterSelector, Verdict, WaitRoute};

use crate::failure::Result;
use crate::images::{self, Wanted};
use crate::lineup::Lineup;
use crate::outcome::Outcome;
use crate::report::{
    DeviceFacts, DevicesReport, RefusalFacts, RouteFacts, SCHEMA, TrialFacts, UnusableFacts,
    WorkingFacts,
};
use crate::{output, show};

/// Runs the command, with images of some formats if they are named. Waits for a device, all routes of a pair, and each
/// probe of an image take at most about `timeout`.
pub(crate) fn run(
    selected: &[AdapterSelector],
    images: Option<&[Wanted]>,
    timeout: Duration,
    (json, verbose): (bool, bool),
) -> Result<Outcome> {
    let lineup = Lineup::open(selected, timeout, None)?;
    // All pairs at once, so that each device is opened once more, and not once for each pair. What cannot be proved is
    // reported pair by pair.
    let _ = lineup.engine.prove_routes(&lineup.devices);
    let report = DevicesReport {
        schema: SCHEMA,
        devices: DeviceFacts::of_all(&lineup.devices),
        routes: lineup.pairs().map(|(from, to)| prove(&lineup, from, to)).collect(),
        images: images
            .map(|wanted| lineup.engine.with_proofs_open(|| images::prove(&lineup, wanted))),
        unusable: UnusableFacts::of_all(&lineup.unusable),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&show::devices(&report, verbose))?;
    }
    Ok(Outcome::of(report.routes.iter().all(|route| route.verified)))
}

fn prove(lineup: &Lineup, from: usize, to: usize) -> RouteFacts {
    let (first, second) = (&lineup.devices[from], &lineup.devices[to]);
    let wait = lineup.engine.wait_route(first, second).ok().map(WaitRoute::name);
    match lineup.engine.route(first, second) {
        Ok(verdict) => RouteFacts { wait, ..facts(from, to, &verdict) },
        // If one device cannot even run a compute kernel, the others are still reported.
        Err(error) => RouteFacts {
            from,
            to,
            route: None,
            verified: false,
            working: vec![],
            refused: vec![],
            untried: vec![],
            trials: vec![],
            wait,
            error: Some(error.with_causes()),
        },
    }
}

fn facts(from: usize, to: usize, verdict: &Verdict) -> RouteFacts {
    let working = |working: &Working| WorkingFacts {
        route: working.route.name(),
        // CAST: a rate needs no more digits. The divisor is at least 1 ns, so the rate is finite.
        read_bytes_per_second: working.bytes as f64
            / working.read.max(Duration::from_nanos(1)).as_secs_f64(),
        drags_out: working.drags_out(),
    };
    RouteFacts {
        from,
        to,
        route: verdict.verified.then(|| verdict.route.name()),
        verified: verdict.verified,
        working: verdict.working.iter().map(working).collect(),
        refused: verdict.refused.iter().map(RefusalFacts::from).collect(),
        untried: verdict.untried.iter().map(RefusalFacts::from).collect(),
        trials: verdict.trials.iter().map(trial).collect(),
        wait: None,
        error: None,
    }
}

fn trial(trial: &Trial) -> TrialFacts {
    TrialFacts {
        route: trial.route.name(),
        bytes: trial.bytes,
        passes: trial.passes.iter().copied().map(Pass::name).collect(),
        age_seconds: trial.at.elapsed().ok().map(|age| age.as_secs_f64()),
    }
}

#![expect(clippy::print_stderr, reason = "a program prints why it failed")]
//! Bytes that the eviction policies move, against Belady's choice, which knows the future, and the policies' cost:
//! `cargo bench --bench policy`. `-- --json` prints JSON. `-- --trace FILE…` replays recorded traces
//! (`PEERBUF_TRACE=file`) instead, for domains that hold 50, 75 and 90 % of the buffers; `--capacity 256M` sets
//! another size.
//!
//! Bytes are counted, not measured: they are the same in every run. All bytes that are brought in count, also
//! those of a buffer's first use, which no policy can avoid. If there is nothing else (`streaming`), the ratio
//! is 1. On `random 10` no policy without knowledge of the future does better than 1.51: with room for a tenth
//! of the buffers, nine uses of ten miss. (For random uses of twice as many buffers as fit, that bound is 2.57.)
//!
//! Six policies of the literature run beside it on a second catalogue. A half of that serves to adjust the policy, the
//! other half is only measured: `policy_unseen_geomean` and `policy_unseen_worst_regret` are of that half.
//!
//! Times are medians of paired ratios: both contenders in turn, in both orders.

mod bytes;
mod cost;
mod figure;
mod options;
mod recorded;
mod unseen;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use peerbuf::residency::policy::traces;
use serde_json::json;

use crate::figure::Figure;
use crate::options::Options;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("policy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if !options.traces.is_empty() {
        return replay(options);
    }
    let (rows, mut figures) = (bytes::rows(traces::catalogue()), Vec::new());
    figures.extend(bytes::figures(&rows));
    let (learnt, measured) = (unseen::learnt(), unseen::measured());
    figures.extend(unseen::figures(&measured));
    let costs = cost::costs();
    figures.extend(cost::figures(&costs));
    let mut out = io::stdout().lock();
    if options.json {
        let traces: Vec<_> = rows.iter().map(bytes::Row::json).collect();
        let unseen: Vec<_> = measured.iter().map(unseen::Row::json).collect();
        let costs: Vec<_> = costs.iter().map(cost::Cost::json).collect();
        let figures: Vec<_> = figures.iter().map(Figure::json).collect();
        let all = json!({ "schema": 1, "figures": figures, "traces": traces, "unseen": unseen, "costs": costs });
        writeln!(out, "{all:#}")?;
    } else {
        bytes::write(&mut out, &rows)?;
        unseen::write(&mut out, "Times Belady's: to learn from", &learnt)?;
        unseen::write(&mut out, "Times Belady's: only measured", &measured)?;
        cost::write(&mut out, &costs)?;
        figure::write(&mut out, &figures)?;
    }
    Ok(())
}

/// Replays recorded traces through each policy and prints the bytes that it would have moved.
fn replay(options: &Options) -> Result<(), Box<dyn Error>> {
    let capacities = match &*options.capacities {
        [] => &recorded::CAPACITIES[..],
        said => said,
    };
    let mut recorded = Vec::new();
    for file in &options.traces {
        recorded.extend(recorded::traces(file, capacities)?);
    }
    let rows = bytes::rows(recorded);
    let mut out = io::stdout().lock();
    if options.json {
        let traces: Vec<_> = rows.iter().map(bytes::Row::json).collect();
        writeln!(out, "{:#}", json!({ "schema": 1, "traces": traces }))?;
    } else {
        bytes::write(&mut out, &rows)?;
    }
    Ok(())
}

#![expect(clippy::print_stderr, reason = "a program prints why it failed")]
//! The figures of `prime` and `stream`, each with its baseline: `cargo bench --bench frames`, here.
//!
//! `-- --json` prints JSON; `-- --filter A,B` runs the figures whose id contains `A` or `B`; `-- --quick` takes few rounds.
//! BENCHMARKS.md says what they mean. A figure that misses its target is not a failure; wrong pictures and failed calls are.

mod belady;
#[path = "../../../benches/figures/figure.rs"]
#[expect(dead_code, reason = "kinds of other figures")]
mod figure;
#[path = "../../../benches/figures/measure.rs"]
#[expect(dead_code, reason = "plans of other figures")]
mod measure;
mod on_demand;
#[path = "../../../benches/figures/options.rs"]
mod options;
mod prime;
mod prime_by_hand;
mod queue;
mod stream;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::figure::{Figure, Table};
use crate::options::Options;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The ids of the figures of one measurement, and the function that measures them.
struct Group {
    ids: &'static [&'static str],
    measure: fn() -> Outcome<Vec<Figure>>,
}

static GROUPS: &[Group] = &[
    Group {
        ids: &["prime_frame_4k", "prime_frame_4k_own", "prime_overhead"],
        measure: prime::frames,
    },
    Group {
        ids: &["copies_per_frame", "copies_per_frame_own", "calls_per_frame", "waits_per_frame"],
        measure: prime::counts,
    },
    Group { ids: &["route_switch"], measure: prime::switches },
    Group { ids: &["stream_p99"], measure: stream::p99 },
    Group { ids: &["stream_bytes"], measure: stream::bytes },
];

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("frames: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let groups: Vec<_> =
        GROUPS.iter().filter(|group| group.ids.iter().any(|id| options.wants(id))).collect();
    if groups.is_empty() {
        let known: Vec<_> = GROUPS.iter().flat_map(|group| group.ids.iter().copied()).collect();
        return Err(format!("no figure matches; there are {}", known.join(", ")).into());
    }
    if options.quick {
        measure::be_quick();
    }
    let mut figures = Vec::new();
    for group in groups {
        figures.extend((group.measure)()?.into_iter().filter(|figure| options.wants(figure.id)));
    }
    let mut out = io::stdout().lock();
    if options.json {
        let figures: Vec<_> = figures.iter().map(Figure::json).collect();
        let all = json!({ "schema": 1, "quick": options.quick, "figures": figures });
        writeln!(out, "{all:#}")?;
    } else {
        write!(out, "{}", Table(&figures))?;
    }
    Ok(())
}

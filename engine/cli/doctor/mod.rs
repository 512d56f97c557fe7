//! `peerbuf doctor`: whether this machine is ready, and if not, what to do.
//!
//! What loads Vulkan runs in child processes of this program, each with a bound: one for the loader, one for each
//! driver, one for each pair of devices. A driver that crashes or hangs ends its own process and is a finding.

mod child;
mod drivers;
mod kernel;
mod known;
mod layers;
mod limits;
pub(crate) mod manifests;
mod nodes;
mod part;
pub(crate) mod report;
mod root;
mod routes;

use crate::failure::Result;
use crate::outcome::Outcome;
use crate::report::SCHEMA;
use crate::{output, show};

pub(crate) use part::Part;

use report::{DoctorReport, Severity};

/// Runs the command.
pub(crate) fn run(json: bool, verbose: bool) -> Result<Outcome> {
    let report = examine();
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&show::doctor(&report, verbose))?;
    }
    Ok(Outcome::of(report.ready))
}

/// Does one part, in a child process.
pub(crate) fn run_part(part: Part, pair: &[String]) -> Outcome {
    part::run(part, pair);
    Outcome::Proved
}

fn examine() -> DoctorReport {
    let limits = limits::read();
    limits::raise(&limits);
    let mut findings = Vec::new();
    let loader = drivers::loader(&mut findings);
    let (drivers, devices) = drivers::all(&loader, &mut findings);
    findings.extend(known::judge(&devices));
    let routes = routes::all(&devices, &mut findings);
    let memory = limits::memory();
    let nodes = nodes::find();
    let kernel = kernel::read();
    findings.extend(nodes::judge(&nodes, &devices, &kernel, memory.container.is_some()));
    let (layers, of_layers) = layers::find();
    findings.extend(of_layers);
    findings.extend(limits::judge(&limits));
    findings.extend(limits::judge_memory(&memory));
    findings.extend(kernel::judge(&kernel));
    DoctorReport {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        ready: findings.iter().all(|finding| finding.severity != Severity::Problem),
        findings,
        loader,
        drivers,
        devices,
        routes,
        nodes,
        layers,
        limits,
        kernel,
        memory,
    }
}

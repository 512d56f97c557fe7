//! peerbuf beside other projects: the README says what is compared.

#[expect(dead_code, reason = "shared with figures, which uses the rest")]
#[path = "../../figures/by_hand.rs"]
mod by_hand;
mod churn;
#[expect(dead_code, reason = "shared with figures, which uses the rest")]
#[path = "../../figures/figure.rs"]
mod figure;
#[expect(dead_code, reason = "shared with figures, which uses the rest")]
#[path = "../../figures/hand.rs"]
mod hand;
mod link;
#[expect(dead_code, reason = "shared with figures, which uses the rest")]
#[path = "../../figures/measure.rs"]
mod measure;
#[expect(dead_code, reason = "shared with figures, which uses the rest")]
#[path = "../../figures/queue_by_hand.rs"]
mod queue_by_hand;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use peerbuf::device::AdapterKind;
use peerbuf::{Adapter, Device, Engine, EngineDescriptor};
use serde_json::json;

use crate::churn::{Churn, GpuAllocator, Ours, Sizes, Vma};
use crate::figure::{Figure, Table};
use crate::measure::{Plan, compare};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let as_json = arguments.iter().position(|it| it == "--json").map(|at| arguments.remove(at));
    let done = match arguments.split_first() {
        Some((first, files)) if first == "link" => link::run(as_json.is_some(), files),
        Some((first, _)) => Err(format!("{first:?}: there are `link` and `--json`").into()),
        None => run(as_json.is_some()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(as_json: bool) -> Outcome<()> {
    let engine = Engine::open(&EngineDescriptor::new())?;
    let device = open(&engine)?;
    let rows = [
        ("churn_vma", "churn_gpu_allocator", Sizes::SMALL, [Some(3.0), Some(40.0)]),
        ("churn_vma_large", "churn_gpu_allocator_large", Sizes::LARGE, [None, None]),
    ];
    let mut figures = vec![];
    for (vma, gpu_allocator, sizes, targets) in rows {
        // One peer at a time, since each holds the memory of all its buffers.
        let compared =
            measured(&engine, &device, sizes, &mut Churn::new(Vma::new(&device)?, sizes)?)?;
        figures.push(figure(vma, "the same with vk-mem", targets[0], compared));
        let mut theirs = Churn::new(GpuAllocator::new(&device)?, sizes)?;
        let compared = measured(&engine, &device, sizes, &mut theirs)?;
        figures.push(figure(gpu_allocator, "the same with gpu-allocator", targets[1], compared));
    }
    let mut out = io::stdout().lock();
    if as_json {
        let rows: Vec<_> = figures.iter().map(Figure::json).collect();
        writeln!(out, "{:#}", json!({ "schema": 1, "device": device.name(), "figures": rows }))?;
    } else {
        writeln!(out, "{}\n\n{}", device.name(), Table(&figures))?;
    }
    Ok(())
}

fn measured<T: churn::Contender>(
    engine: &Engine,
    device: &Device,
    sizes: Sizes,
    theirs: &mut Churn<T>,
) -> Outcome<measure::Compared> {
    let mut ours = Churn::new(Ours::new(engine, device), sizes)?;
    compare(Plan::MICROSECONDS, || ours.step(), || theirs.step())
}

fn figure(
    id: &'static str,
    baseline: &'static str,
    target: Option<f64>,
    compared: measure::Compared,
) -> Figure {
    Figure::speed(id, "drop one of 10,000 buffers, create one", baseline, target, compared)
}

/// The first adapter that can be used: a GPU if there is one.
fn open(engine: &Engine) -> Outcome<Device> {
    let usable = engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
    let rank = |adapter: &&Adapter| {
        let is_lavapipe = adapter.driver_name().contains("llvmpipe");
        (adapter.kind() == AdapterKind::Cpu, !is_lavapipe)
    };
    let adapter = usable.min_by_key(rank).ok_or("no adapter can be used")?;
    Ok(engine.open_device(adapter)?)
}

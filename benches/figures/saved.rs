//! The figures in the format of `peerbuf bench`, so that its `show` and `compare` read them.

use std::time::{SystemTime, UNIX_EPOCH};

use peerbuf::Device;
use peerbuf::device::AdapterKind;

use crate::Outcome;
use crate::figure::Figure;
use crate::noise::{Line, Noise};
use crate::run::{self, Access, End, Heap, Machine, Program, Run, SCHEMA, Tool};
use crate::setup::{Setup, processor};

/// A run; `started` is when it began.
pub(crate) fn run(
    setup: &Setup,
    quick: bool,
    started: SystemTime,
    noise: &Noise,
    figures: &[Figure],
) -> Outcome<Run> {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (from, to) = (End::Device(0), End::Device(1));
    let shared_by =
        Access { from, to, chosen: Some(setup.handle.to_string()), wait: None, ways: vec![] };
    let figure = |figure: &Figure| serde_json::from_value::<run::Figure>(figure.json());
    Ok(Run {
        schema: SCHEMA,
        program: Program::Figures,
        quick,
        ended_early: None,
        started_unix_seconds: started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()),
        duration_seconds: started.elapsed().ok().map(|took| took.as_secs_f64()),
        tool: Tool {
            name: "figures".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("PEERBUF_COMMIT").map(str::to_owned),
            command: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
            build: build.to_owned(),
        },
        machine: machine(),
        devices: vec![device(0, &setup.near), device(1, &setup.far)],
        noise: noise.0.iter().map(Line::saved).collect(),
        access: vec![shared_by],
        cells: vec![],
        latency: vec![],
        figures: figures.iter().map(figure).collect::<Result<_, _>>()?,
    })
}

fn machine() -> Machine {
    let processors = std::thread::available_parallelism().ok();
    Machine {
        cpu: Some(processor()),
        processors: processors.and_then(|it| it.get().try_into().ok()),
        kernel: Some(rustix::system::uname().release().to_string_lossy().into_owned()),
        ..Machine::default()
    }
}

fn device(index: u32, device: &Device) -> run::Device {
    let adapter = device.adapter();
    let heap = |heap: &peerbuf::device::Heap| Heap {
        size_bytes: heap.size,
        device_local: heap.device_local,
        host_visible: None,
    };
    run::Device {
        index,
        adapter: u32::try_from(adapter.index()).ok(),
        name: adapter.name().to_owned(),
        driver: Some(adapter.driver_name().to_owned()),
        driver_info: Some(adapter.driver_info().to_owned()).filter(|info| !info.is_empty()),
        kind: adapter.kind().name().to_owned(),
        software: adapter.kind() == AdapterKind::Cpu,
        uuid: Some(adapter.device_uuid().to_string()),
        driver_uuid: Some(adapter.driver_uuid().to_string()),
        heaps: adapter.heaps().iter().map(heap).collect(),
        timestamp_bits: None,
        pci_address: adapter.pci().map(|pci| pci.to_string()),
        pci: None::<run::Pci>,
    }
}

//! Made runs.

use super::super::run::*;
use super::super::{stats, verdict};
use super::Random;

/// A run of `devices`, without cells.
pub(crate) fn run(devices: Vec<Device>) -> Run {
    Run {
        schema: SCHEMA,
        program: Program::Link,
        quick: false,
        ended_early: None,
        started_unix_seconds: Some(1_796_000_000),
        duration_seconds: Some(42.0),
        tool: Tool {
            name: "peerbuf".into(),
            version: "0.1.0".into(),
            commit: None,
            command: vec!["peerbuf".into(), "bench".into(), "link".into()],
            build: "release".into(),
        },
        machine: Machine {
            cpu: Some("A processor".into()),
            processors: Some(16),
            memory_bytes: Some(64 << 30),
            numa_nodes: Some(1),
            kernel: Some("6.18.0".into()),
            governor: Some("performance".into()),
            load_average: Some(0.25),
            host: vec![],
        },
        devices,
        noise: vec![Noise {
            what: "memcpy".into(),
            size_bytes: Some(64 << 20),
            ratio: 1.0,
            ratio_lo: 0.995,
            ratio_hi: 1.004,
            median_ns: 4e6,
        }],
        access: vec![],
        cells: vec![],
        latency: vec![],
        figures: vec![],
    }
}

/// A device of a PCI bus.
pub(crate) fn gpu(index: u32, address: &str, pci: Option<Pci>) -> Device {
    Device {
        index,
        adapter: Some(index),
        name: format!("GPU {index}"),
        driver: Some("driver".into()),
        driver_info: Some("1.2.3".into()),
        kind: "discrete".into(),
        software: false,
        uuid: Some(format!("uuid-{index}")),
        driver_uuid: None,
        heaps: vec![Heap { size_bytes: 16 << 30, device_local: true, host_visible: Some(true) }],
        timestamp_bits: Some(64),
        pci_address: Some(address.into()),
        pci,
    }
}

/// A software device.
pub(crate) fn software(index: u32) -> Device {
    Device {
        name: "llvmpipe".into(),
        kind: "cpu".into(),
        software: true,
        pci_address: None,
        ..gpu(index, "", None)
    }
}

/// A copy of 64 MiB from one end to the other, as a dma-buf and by the transfer queue.
pub(crate) fn key(from: End, to: End) -> Key {
    Key {
        from,
        to,
        way: "dma_buf".into(),
        engine: CopyEngine::TransferQueue,
        direction: Direction::There,
        actor: Actor::Exporter,
        size_bytes: 64 << 20,
        pattern: Pattern::Pair,
        processes: 1,
    }
}

/// A cell of about so many bytes per second, with noise of half a percent.
pub(crate) fn cell(key: Key, bytes_per_second: f64, random: &mut Random) -> Cell {
    let bytes = key.size_bytes;
    let ns = bytes as f64 * 1e9 / bytes_per_second;
    let mut sample = || ns * (1.0 + 0.005 * random.normal());
    let rounds: Vec<Vec<f64>> = (0..8).map(|_| (0..10).map(|_| sample()).collect()).collect();
    Cell {
        summary: stats::summary(&rounds),
        bytes: Some(bytes),
        device_summary: None,
        queued_summary: None,
        samples_ns: rounds,
        ended: Some(Ended::Narrow),
        bound: None,
        bound_at_best: None,
        verdict: Verdict::NotMeasured,
        causes: vec![],
        loaded: vec![],
        host_cached: None,
        verified: Some(Verified { bytes, wrong_bytes: 0 }),
        counters: Some(Counters {
            copies_per_byte: Some(1.0),
            submissions: Some(1),
            allocations: Some(0),
        }),
        note: None,
        key,
    }
}

/// A run of two GPUs and of everything that a page shows.
pub(crate) fn rich(seed: u64) -> Run {
    let mut random = Random::new(seed);
    let pci = |address: &str, lanes| Pci {
        path: vec![Hop {
            address: address.into(),
            speed_gts: Some(2.5),
            speed_max_gts: Some(16.0),
            width: Some(lanes),
            width_max: Some(16),
            runtime_status: Some("active".into()),
            power_state: Some("D0".into()),
            acs_redirects: None,
        }],
        numa_node: Some(0),
        bar_bytes: Some(16 << 30),
        vram_bytes: Some(16 << 30),
        iommu: Some("DMA-FQ".into()),
    };
    let addresses = ["0000:01:00.0", "0000:41:00.0"];
    let [first, second] = addresses;
    let mut run =
        run(vec![gpu(0, first, Some(pci(first, 16))), gpu(1, second, Some(pci(second, 4)))]);
    run.machine.host = [4_u64 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 1 << 30]
        .map(|size_bytes| HostSpeed {
            copy: HostCopy::Memcpy,
            node: None,
            size_bytes,
            bytes_per_second: 18e9,
        })
        .into();
    let ends = [End::Host, End::Device(0), End::Device(1)];
    let loaded: Vec<Hop> = addresses
        .iter()
        .zip([16, 4])
        .map(|(address, lanes)| Hop { speed_gts: Some(16.0), ..pci(address, lanes).path.remove(0) })
        .collect();
    for (from, to) in ends.iter().flat_map(|from| ends.map(|to| (*from, to))) {
        let most = match (from, to) {
            (End::Host, End::Host) => continue,
            (from, to) if from == to => 420e9,
            (from, to) if [from, to].contains(&End::Device(1)) => 6.9e9,
            _ => 26.4e9,
        };
        let ways: &[(&str, CopyEngine, f64)] = match (from, to) {
            (from, to) if from == to => &[("local", CopyEngine::TransferQueue, 1.0)],
            (End::Host, _) | (_, End::Host) => &[("host_visible", CopyEngine::TransferQueue, 1.0)],
            _ => &[
                ("dma_buf", CopyEngine::TransferQueue, 1.0),
                ("dma_buf", CopyEngine::Compute, 0.9),
                ("staged", CopyEngine::Ring, 0.45),
            ],
        };
        for (way, engine, part) in ways {
            for size_bytes in (12..=30).step_by(2).map(|bits| 1_u64 << bits) {
                let fixed_ns = 9000.0;
                let ns = fixed_ns + size_bytes as f64 * 1e9 / (most * part);
                let key = Key { size_bytes, way: (*way).into(), engine: *engine, ..key(from, to) };
                let speed = size_bytes as f64 * 1e9 / ns;
                let made = cell(key, speed, &mut random);
                run.cells.push(Cell { loaded: loaded.clone(), ..made });
            }
        }
        for (direction, part) in
            [(Direction::BothThere, 0.7), (Direction::BothBack, 0.7), (Direction::BothSum, 1.4)]
        {
            let key = Key { direction, way: ways[0].0.into(), ..key(from, to) };
            if from != to && from != End::Host {
                let made = cell(key, most * part, &mut random);
                run.cells.push(Cell { loaded: loaded.clone(), ..made });
            }
        }
    }
    run.cells.push(Cell {
        summary: None,
        bytes: None,
        samples_ns: vec![],
        ended: None,
        verified: None,
        counters: None,
        note: Some("no memory for 4 GiB: 2.1 GiB were free".into()),
        ..cell(Key { size_bytes: 4 << 30, ..key(End::Device(0), End::Device(1)) }, 1e9, &mut random)
    });
    for (from, to) in [(End::Device(0), End::Device(1)), (End::Device(1), End::Device(0))] {
        run.access.push(Access {
            from,
            to,
            chosen: Some("dma_buf".into()),
            wait: Some("sync_fd".into()),
            ways: vec![
                AccessWay {
                    way: "dma_buf".into(),
                    state: WayState::Proved,
                    reason: None,
                    read_bytes_per_second: Some(6.9e9),
                },
                AccessWay {
                    way: "opaque_fd".into(),
                    state: WayState::Refused,
                    reason: Some("the devices have different driver UUIDs".into()),
                    read_bytes_per_second: None,
                },
            ],
        });
        for (operation, ns) in [
            ("submit_and_wait", 9000.0),
            ("share", 11_000.0),
            ("cached_share", 170.0),
            ("migrate_4k", 21_000.0),
        ] {
            let samples: Vec<f64> = (0..500).map(|_| ns * (1.0 + random.unit().powi(9))).collect();
            run.latency.push(Latency {
                key: LatencyKey {
                    operation: operation.into(),
                    from,
                    to,
                    way: Some("dma_buf".into()),
                    processes: 1,
                },
                percentiles: stats::percentiles(&[samples]),
                note: None,
            });
        }
    }
    verdict::judge(&mut run);
    run
}

//! Several threads use the same devices concurrently, and every byte stays right.

use crate::common::{Rig, bytes};
use peerbuf::{Access, BufferDescriptor, CopyRegion, Device, Engine, Error, Placement};

const THREADS: u64 = 4;
const ROUNDS: u64 = 40;

/// Returns the next number of a thread's own sequence.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn pick<'a, T>(state: &mut u64, from: &'a [T]) -> &'a T {
    // CAST: an index below the length.
    &from[next(state) as usize % from.len()]
}

/// Creates, shares, writes, copies and drops buffers; fails at the first wrong byte.
fn work(engine: &Engine, devices: &[Device], thread: u64) {
    let mut state = thread + 1;
    for round in 0..ROUNDS {
        let seed = thread << 32 | round;
        // CAST: a seed of compute passes.
        let pass_seed = (thread << 16 | round) as u32;
        let sizes = [4, 252, 4096, 30_000, 200_000];
        let places = [Placement::VramOrSystem, Placement::System];
        let (home, peer) = (pick(&mut state, devices), pick(&mut state, devices));
        let size = *pick(&mut state, &sizes);
        let create = |device, place| {
            let descriptor = BufferDescriptor::new(size).placement(place);
            engine.create_buffer(device, descriptor).expect("there is room")
        };
        let what = format!("thread {thread} round {round}: {} {}", home.name(), peer.name());
        let buffer = create(home, *pick(&mut state, &places));
        let attachment = buffer.attach(peer).expect("every device reaches it");
        bytes::assert_zero(&buffer, &what);
        if next(&mut state) & 1 == 0 {
            bytes::write(&buffer, seed);
        } else {
            let mapping = attachment.map(Access::ReadWrite).expect("mapped");
            mapping.fill(pass_seed).expect("a pass");
            assert!(mapping.verify(pass_seed).expect("a pass").is_clean(), "{what}");
            drop(mapping);
            bytes::write(&buffer, seed);
        }
        let target = create(pick(&mut state, devices), Placement::VramOrSystem);
        engine.copy(&buffer, &target, CopyRegion::first(size)).expect("a copy");
        if next(&mut state) & 1 == 0 {
            drop((attachment, buffer));
        }
        bytes::assert_sequence(&target, seed, &what);
    }
}

#[test]
fn threads_share_devices_without_seeing_each_others_bytes() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (engine, devices) = (rig.engine(), &devices);
            scope.spawn(move || work(engine, devices, thread));
        }
    });
}

#[test]
fn threads_attach_to_one_buffer_in_turns() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let buffer =
        rig.engine().create_buffer(&devices[0], BufferDescriptor::new(4096)).expect("a buffer");
    // Attach every device once, so that later attaches need no move while the buffer is busy.
    drop(devices.iter().map(|d| buffer.attach(d).expect("attached")).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for device in &devices {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        match buffer.attach(device) {
                            Ok(attachment) => {
                                let mapping = attachment.map(Access::Read).expect("mapped");
                                assert_eq!(mapping.view().expect("handles").size, 4096);
                            }
                            // Another thread has the device attached.
                            Err(Error::AlreadyAttached { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        }
    });
    for device in &devices {
        drop(buffer.attach(device).expect("all attachments have ended"));
    }
}

#[test]
fn copies_in_opposite_directions_do_not_deadlock() {
    let rig = Rig::new();
    let devices = rig.all();
    let [a, b] = [&devices[0], &devices[devices.len() - 1]].map(|device| {
        let descriptor = BufferDescriptor::new(8192).placement(Placement::System);
        rig.engine().create_buffer(device, descriptor).expect("a buffer")
    });
    bytes::write(&a, 1);
    bytes::write(&b, 1);
    std::thread::scope(|scope| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    rig.engine().copy(from, to, CopyRegion::first(8192)).expect("a copy");
                }
            });
        }
    });
    bytes::assert_sequence(&a, 1, "both always had the same bytes");
    bytes::assert_sequence(&b, 1, "both always had the same bytes");
}

#[test]
fn concurrent_trims_disturb_no_other_thread() {
    let rig = Rig::new();
    let devices = rig.all();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (engine, devices) = (rig.engine(), &devices);
            scope.spawn(move || work(engine, devices, thread));
        }
        scope.spawn(|| {
            for _ in 0..ROUNDS * 5 {
                rig.engine().trim();
                std::thread::yield_now();
            }
        });
    });
}

#[test]
fn concurrent_route_queries_return_the_same_verdict() {
    let rig = Rig::new();
    let devices = rig.all();
    let (first, last) = (&devices[0], &devices[devices.len() - 1]);
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let ask = || rig.engine().route(first, last).expect("a verdict");
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(verdicts.windows(2).all(|pair| std::sync::Arc::ptr_eq(&pair[0], &pair[1])));
}

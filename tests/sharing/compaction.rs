//! Compaction: buffers that are left in many blocks move together, and the blocks are returned.

use crate::common::recorder::Recorder;
use crate::common::{Rig, assert_pattern, bytes, fill, wait_idle};
use peerbuf::observe::MoveCause;
use peerbuf::{Access, BufferDescriptor, Device, DomainId, Engine, Placement, SharedBuffer};

#[test]
fn compaction_empties_sparse_blocks() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        for placement in [Placement::Vram, Placement::System] {
            let of = |seed: u64| {
                let descriptor = BufferDescriptor::new(4096).placement(placement);
                let buffer = engine.create_buffer(&device, descriptor).expect("there is room");
                bytes::write(&buffer, seed);
                buffer
            };
            let all: Vec<_> = (1..=700).map(of).collect();
            let domain = all[0].domain();
            let held = || engine.usage(domain).expect("of this engine").held;
            let full = held();
            let mut kept: Vec<_> = (1..).zip(all).filter(|(seed, _)| seed % 16 == 0).collect();
            // One is mapped, and stays.
            let (seed, used) = kept.pop().expect("there are 43");
            let attachment = used.attach(&device).expect("its own");
            let mapping = attachment.map(Access::Read).expect("mapped");
            let generation = used.generation();
            wait_idle(&[&device]);
            let moved = engine.compact(u64::MAX).buffers;
            // The copies have ended.
            wait_idle(&[&device]);
            engine.trim();
            let what =
                format!("{placement:?} of {}: {} of {full} bytes held", device.name(), held());
            // The block with the mapped buffer stays, and so does the one that the others have moved to.
            assert!(held() <= full * 2 / 3, "{what}");
            assert_eq!(used.generation(), generation, "{what}");
            mapping.view().expect("it has not moved");
            for (seed, buffer) in &kept {
                bytes::assert_sequence(buffer, *seed, &what);
                assert_eq!(buffer.domain(), domain);
            }
            bytes::assert_sequence(&used, seed, &what);
            assert!(
                moved > 0 && engine.moved(MoveCause::Compacted).moves >= moved as u64,
                "{what}"
            );
            drop((mapping, attachment, used, kept));
            engine.trim();
        }
    }
}

/// Work still used them when they were dropped, and has ended since.
#[test]
fn memory_of_dropped_buffers_whose_work_has_ended_is_room() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let create = |_| {
            let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096));
            let buffer = buffer.expect("there is room");
            fill(&buffer.attach(&device).expect("its own buffer"), 1);
            buffer
        };
        let all: Vec<_> = (0..700).map(create).collect();
        let domain = all[0].domain();
        let full = engine.usage(domain).expect("of this engine").held;
        engine.calls().set_pretend_busy(true);
        let kept: Vec<_> = all.into_iter().step_by(16).collect();
        engine.calls().set_pretend_busy(false);
        wait_idle(&[&device]);
        let moved = engine.compact(u64::MAX).buffers;
        assert!(moved > 0, "{}: {full} bytes are held", device.name());
        wait_idle(&[&device]);
        engine.trim();
        let held = engine.usage(domain).expect("of this engine").held;
        assert!(held <= full * 2 / 3, "{}: {held} of {full} bytes held", device.name());
        for buffer in &kept {
            let attachment = buffer.attach(&device).expect("its own buffer");
            assert_pattern(&attachment, 1, "moved");
        }
        drop(kept);
        engine.trim();
    }
}

/// Creates buffers with bytes of their own, and keeps every `step`-th with its seed.
fn scattered(
    engine: &Engine,
    device: &Device,
    count: u64,
    step: usize,
) -> Vec<(u64, SharedBuffer)> {
    let make = |seed| {
        let descriptor = BufferDescriptor::new(4096).placement(Placement::Vram);
        let buffer = engine.create_buffer(device, descriptor).expect("there is room");
        bytes::write(&buffer, seed);
        (seed, buffer)
    };
    let all: Vec<_> = (1..=count).map(make).collect();
    wait_idle(&[device]);
    all.into_iter().step_by(step).collect()
}

#[test]
fn compaction_stops_at_its_budget_and_goes_on_where_it_stopped() {
    const BUDGET: u64 = 10 * 4096;
    let rig = Rig::new();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    // Others are larger than the budget, and do not end the search.
    let large = |size| engine.create_buffer(&device, BufferDescriptor::new(size)).expect("room");
    let _large: Vec<_> = (0..40).map(|number| large((1 << 20) + number)).collect();
    let kept = scattered(engine, &device, 3000, 16);
    let held = || engine.usage(kept[0].1.domain()).expect("of this engine").held;
    let before = held();
    let mut calls = 0;
    loop {
        let done = engine.compact(BUDGET);
        wait_idle(&[&device]);
        assert!(done.bytes <= BUDGET && done.bytes == done.buffers as u64 * 4096, "{done:?}");
        assert!(!done.is_partial || done.buffers == 10, "{done:?}");
        calls += 1;
        assert!(calls <= kept.len(), "{done:?}");
        if !done.is_partial {
            break;
        }
    }
    engine.compact(u64::MAX);
    assert!(calls > 2, "{calls} calls");
    // The small buffers had 12 MiB.
    assert!(before - held() >= 6 << 20, "{} of {before} bytes held", held());
    kept.iter().for_each(|(seed, buffer)| bytes::assert_sequence(buffer, *seed, "compacted"));
}

#[test]
fn compaction_notifies_dynamic_importers_and_leaves_pinned_buffers() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    let kept = scattered(engine, &device, 1500, 16);
    let recorder = Recorder::new(true);
    let attach = |(_, buffer): &(u64, SharedBuffer)| {
        let attachment = buffer.attach_dynamic(&device, recorder.clone()).expect("its own");
        let mapping = attachment.map(Access::Read).expect("mapped");
        (attachment, mapping)
    };
    let mut used: Vec<_> = kept.iter().map(attach).collect();
    let pinned: Vec<_> = used
        .iter()
        .step_by(2)
        .map(|(attachment, _)| attachment.pin("shown").expect("no limit"))
        .collect();
    let generations: Vec<_> = kept.iter().map(|(_, buffer)| buffer.generation()).collect();
    let done = engine.compact(u64::MAX);
    assert!(done.buffers > 0, "{done:?}");
    assert_eq!(recorder.invalidated().len(), done.buffers, "one call for each");
    for (at, (attachment, mapping)) in used.iter_mut().enumerate() {
        let (seed, buffer) = &kept[at];
        let has_moved = buffer.generation() != generations[at];
        assert!(!has_moved || at % 2 == 1, "buffer {at} is pinned");
        assert_eq!(mapping.view().is_err(), has_moved, "buffer {at}");
        attachment.remap(mapping).expect("remapped");
        bytes::assert_sequence(buffer, *seed, "compacted");
    }
    drop(pinned);
}

/// As `held_full` and `held_after_drop` of `figures`, for other sizes.
#[test]
fn little_more_is_held_than_was_asked_for_and_after_most_were_dropped() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    let vram = DomainId::Vram(device.id());
    for (count, least, most) in
        [(10_000, 256_u64, 64_u64 << 10), (600, 4 << 10, 1 << 20), (40, 1 << 20, 16 << 20)]
    {
        engine.trim();
        let before = engine.usage(vram).expect("of this engine").held;
        let held = || (engine.usage(vram).expect("of this engine").held - before) as f64;
        let mut seed = count as u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 11) as f64 / (1_u64 << 53) as f64
        };
        let sizes = (0..count).map(|_| least as f64 * (most as f64 / least as f64).powf(random()));
        let create = |size: f64| {
            // CAST: at most `most`.
            let descriptor = BufferDescriptor::new(size as u64).placement(Placement::Vram);
            engine.create_buffer(&device, descriptor).expect("there is room")
        };
        let all: Vec<_> = sizes.map(create).collect();
        let asked = |all: &[SharedBuffer]| all.iter().map(SharedBuffer::size).sum::<u64>() as f64;
        let full = held() / asked(&all);
        let kept: Vec<_> = all.into_iter().step_by(10).collect();
        let done = engine.compact(u64::MAX);
        engine.trim();
        let after = held() / asked(&kept);
        let what = format!("{count} of {least} to {most}: {full:.3}, {after:.3}, {done:?}");
        assert!(full <= 1.15 && after <= 1.25, "{what}");
    }
}

#[test]
fn a_trim_empties_sparse_blocks_too() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    let kept = scattered(engine, &device, 3000, 16);
    let held = || engine.usage(kept[0].1.domain()).expect("of this engine").held;
    let (before, moves) = (held(), engine.moved(MoveCause::Compacted).moves);
    let freed = engine.trim();
    assert!(engine.moved(MoveCause::Compacted).moves > moves, "{freed} bytes freed");
    // The copies have ended.
    wait_idle(&[&device]);
    let freed = freed + engine.trim();
    assert_eq!(before - held(), freed);
    assert!(freed >= 6 << 20, "{freed} of {before} bytes");
    kept.iter().for_each(|(seed, buffer)| bytes::assert_sequence(buffer, *seed, "compacted"));
}

/// A move that must not wait is not refused for ever because the host would have to zero much before it.
#[test]
fn compaction_moves_buffers_of_reused_memory_that_the_host_has_touched_in_part() {
    const SIZE: u64 = 256 << 10;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let create = || {
            let descriptor = BufferDescriptor::new(SIZE).placement(Placement::Vram);
            engine.create_buffer(&device, descriptor).expect("there is room")
        };
        let old: Vec<_> = (0..160).map(|_| create()).collect();
        old.iter().for_each(|buffer| bytes::write(buffer, 7));
        wait_idle(&[&device]);
        drop(old);
        let touch = |_| {
            let buffer = create();
            let access = buffer.host_access(Access::Write).expect("host access");
            access.write(SIZE / 2, &[5; 16]).expect("in range");
            access.end().expect("it ends");
            buffer
        };
        let new: Vec<_> = (0..160).map(touch).collect();
        let kept: Vec<_> = new.into_iter().step_by(5).collect();
        let done = engine.compact(u64::MAX);
        assert!(done.buffers > 0, "{}: {done:?}", device.name());
        let mut expected = vec![0; SIZE as usize];
        expected[SIZE as usize / 2..][..16].fill(5);
        for buffer in &kept {
            bytes::assert_same(&bytes::read(buffer), &expected, device.name());
        }
        drop(kept);
        wait_idle(&[&device]);
        engine.trim();
    }
}

//! A pinned buffer stays where it is, for as long as somebody has a reason, and up to a quota.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common;
use crate::common::Rig;
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Error, Importer, Invalidation, Migration,
    SharedBuffer,
};

struct Indifferent;

impl Importer for Indifferent {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(8192).name("scanout")).expect("a buffer")
}

/// Moves it by itself, or as one of many.
fn migrate(
    rig: &Rig,
    buffer: &SharedBuffer,
    to: DomainId,
    together: bool,
) -> peerbuf::Result<Migration> {
    if !together {
        return buffer.migrate(to);
    }
    let other = create(rig, &buffer.home());
    let mut moved = rig.engine().migrate_many(&[(buffer, to), (&other, to)]);
    moved.pop().expect("one for each").expect("nobody holds the other one");
    moved.pop().expect("one for each")
}

/// upstream: `ttm_bo_pin_basic`, `ttm_bo_multiple_pin_one_unpin`, `ttm_bo_validate_pinned`
#[test]
fn it_stays_until_the_last_pin_is_gone() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("a seat");
    let pins = [(); 3].map(|()| seat.pin("scanout").expect("within the quota"));
    assert_eq!(pins[0].reason(), "scanout");
    for (pin, count) in pins.into_iter().rev().zip([3, 2, 1]) {
        for together in [false, true] {
            let error = migrate(&rig, &buffer, DomainId::System, together).expect_err("pinned");
            assert!(matches!(error, Error::Busy { pinned, .. } if pinned == count), "{error}");
        }
        // A move that was refused does not keep others from pinning.
        drop(seat.pin("scanout").expect("within the quota"));
        assert_eq!((buffer.generation(), buffer.domain()), (0, DomainId::Vram(home.id())));
        drop(pin);
    }
    assert_eq!(buffer.migrate(DomainId::System).expect("free"), Migration::Done { generation: 1 });
}

#[test]
fn a_static_mapping_is_a_pin_and_a_dynamic_one_is_not() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let (fixed, moving) = (
        buffer.attach(&peer).expect("a seat"),
        buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("another"),
    );
    assert!(moving.is_dynamic() && !fixed.is_dynamic());
    let free = moving.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("nobody minds");
    let held = fixed.map(Access::Read).expect("mapped");
    let error = buffer.migrate(DomainId::Vram(home.id())).expect_err("mapped statically");
    assert!(matches!(error, Error::Busy { mapped: 1, .. }), "{error}");
    drop(held);
    buffer.migrate(DomainId::Vram(home.id())).expect("only while it is mapped");
    drop(free);
}

#[test]
fn a_quota_bounds_what_a_device_may_pin() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    rig.engine().set_pin_quota(&peer, 2 * 8192).expect("our device");
    let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home)).collect();
    let seats: Vec<_> =
        buffers.iter().map(|buffer| buffer.attach(&peer).expect("a seat")).collect();
    let pins: Vec<_> = seats[..2].iter().map(|seat| seat.pin("rdma").expect("fits")).collect();
    let error = seats[2].pin("rdma").expect_err("too much");
    let Error::PinQuota { requested: 8192, used: 16_384, quota: 16_384, .. } = error else {
        panic!("{error}");
    };
    // Another device has its own quota.
    let at_home = buffers[2].attach(&home).expect("a seat");
    drop(at_home.pin("scanout").expect("no limit"));
    drop(pins);
    drop(seats[2].pin("rdma").expect("there is room again"));
}

#[test]
fn what_is_handed_out_or_open_stays_as_well() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach_dynamic(&home, Arc::new(Indifferent)).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let busy = |what: &str| {
        let error = buffer.migrate(DomainId::System).expect_err(what);
        assert!(matches!(error, Error::Busy { .. }), "{what}: {error}");
    };
    {
        let _host = buffer.host_access(Access::Read).expect("the host reads");
        busy("under host access");
    }
    {
        let open = mapping.begin_access(Access::Write).expect("current");
        assert_eq!(open.view(), mapping.view().expect("current"));
        busy("while an application submits");
        open.end(home.submitted().expect("an empty submission"));
    }
    drop(mapping);
    {
        let _export = buffer.export_foreign().expect("an fd");
        busy("handed out");
    }
    buffer.migrate(DomainId::System).expect("free again");
}

/// A limit that comes late counts what is pinned already, in the usual way and in others.
#[test]
fn a_quota_that_comes_late_counts_what_is_pinned() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home)).collect();
    let seats: Vec<_> =
        buffers.iter().map(|buffer| buffer.attach(&peer).expect("a seat")).collect();
    let mut pins: Vec<_> = seats.iter().map(|seat| seat.pin("rdma").expect("no quota")).collect();
    pins.push(seats[0].pin("another reason").expect("no quota"));
    let refused = |at: usize, used: u64| {
        let error = seats[at].pin("rdma").expect_err("too much");
        let Error::PinQuota { requested: 8192, used: told, .. } = error else { panic!("{error}") };
        assert_eq!(told, used);
    };
    rig.engine().set_pin_quota(&peer, 3 * 8192).expect("our device");
    refused(0, 4 * 8192);
    drop(pins.pop());
    refused(1, 3 * 8192);
    drop(pins.remove(0));
    let again = seats[2].pin("rdma").expect("there is room for one");
    refused(0, 3 * 8192);
    drop((pins, again));
    // What one device gives up another one may not have; and all is given back.
    let three: Vec<_> = (0..3).map(|_| seats[1].pin("rdma").expect("there is room")).collect();
    refused(1, 3 * 8192);
    rig.engine().set_pin_quota(&peer, u64::MAX).expect("our device");
    drop(seats[1].pin("rdma").expect("no limit again"));
    drop(three);
    buffers[1].migrate(DomainId::System).expect("nobody holds it");
}

/// In the middle of a move lets another thread pin, and gives it time to be done too early.
struct Tempter {
    now: Mutex<Option<Sender<()>>>,
    pinned: Mutex<Receiver<()>>,
}

impl Importer for Tempter {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        if let Some(now) = self.now.lock().expect("nobody panics with it").take() {
            now.send(()).expect("somebody wants to pin");
            let pinned = self.pinned.lock().expect("nobody panics with it");
            // The usual end is that of the bound: a pin that was there now would be one too early.
            let _ = pinned.recv_timeout(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_pin_that_comes_in_the_middle_of_a_move_waits_for_its_end() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for (usual, together) in [("scanout", false), ("rdma", false), ("scanout", true)] {
        let buffer = create(&rig, &home);
        let (now, go) = channel();
        let (done, pinned) = channel();
        let (now, pinned) = (Mutex::new(Some(now)), Mutex::new(pinned));
        let seat = buffer.attach_dynamic(&peer, Arc::new(Tempter { now, pinned })).expect("a seat");
        // Where this was the reason before, the next pin takes no lock.
        drop(seat.pin(usual).expect("no quota"));
        std::thread::scope(|scope| {
            let (seat, buffer) = (&seat, &buffer);
            let pinner = scope.spawn(move || {
                go.recv().expect("the importer is told");
                let pin = seat.pin("scanout").expect("no quota");
                let seen = (buffer.generation(), buffer.domain());
                // The importer may be gone.
                let _ = done.send(());
                (pin, seen)
            });
            let moved = migrate(&rig, buffer, DomainId::System, together);
            assert_eq!(moved.expect("nobody held it"), Migration::Done { generation: 1 });
            let (pin, seen) = pinner.join().expect("it pins");
            assert_eq!(seen, (1, DomainId::System), "pinned in the middle of a move");
            assert!(buffer.migrate(DomainId::Vram(home.id())).is_err(), "pinned");
            drop(pin);
        });
    }
}

#[test]
fn pinning_and_moving_at_once_never_moves_what_is_pinned() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("a seat");
    let turns: u32 = if common::in_vm() { 50 } else { 200 };
    let moves = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let pinner = scope.spawn(|| {
            for turn in 0..turns {
                if turn % 10 == 5 {
                    // However the threads take turns: it moves in between.
                    let before = moves.load(Ordering::Acquire);
                    while moves.load(Ordering::Acquire) == before {
                        std::thread::yield_now();
                    }
                }
                let reason = if turn % 4 == 3 { "rdma" } else { "scanout" };
                let pin = seat.pin(reason).expect("no quota");
                let (place, generation) = (buffer.domain(), buffer.generation());
                for _ in 0..20 {
                    assert_eq!(buffer.generation(), generation, "pinned, and it moved");
                    std::thread::yield_now();
                }
                assert_eq!(buffer.domain(), place);
                drop(pin);
                std::thread::yield_now();
            }
        });
        while !pinner.is_finished() {
            for (to, together) in [
                (DomainId::System, false),
                (DomainId::Vram(home.id()), true),
                (DomainId::System, true),
                (DomainId::Vram(home.id()), false),
            ] {
                match migrate(&rig, &buffer, to, together) {
                    Ok(Migration::Done { .. }) => _ = moves.fetch_add(1, Ordering::Release),
                    Ok(Migration::None) | Err(Error::Busy { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        pinner.join().expect("it never moved while pinned");
    });
    let moves = moves.into_inner();
    assert!(moves >= turns / 10, "{moves} moves");
    assert_eq!(buffer.generation(), moves);
    assert_eq!(rig.engine().report().totals().pins, 0);
}

/// Whoever is refused by its quota was never there: nobody meets such a pin.
#[test]
fn a_pin_that_is_refused_keeps_nobody_from_moving() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("a seat");
    let moves = if common::in_vm() { 200 } else { 2000 };
    // From here on each move closes what it opened.
    drop(seat.pin("scanout").expect("no quota yet"));
    rig.engine().set_pin_quota(&peer, buffer.size() - 1).expect("our device");
    let (refused, done) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let pinner = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let error = seat.pin("scanout").expect_err("the quota is too small");
                assert!(matches!(error, Error::PinQuota { used: 0, .. }), "{error}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
        for turn in 0..moves {
            let to = [DomainId::System, DomainId::Vram(home.id())][turn % 2];
            let moved = buffer.migrate(to);
            if moved.is_err() || pinner.is_finished() {
                done.store(true, Ordering::Relaxed);
            }
            moved.expect("nobody has pinned it");
        }
        while refused.load(Ordering::Relaxed) == 0 && !pinner.is_finished() {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        pinner.join().expect("it is refused every time");
    });
    assert_eq!(rig.engine().report().totals().pins, 0);
}

#[test]
fn a_pin_outlives_everything_else() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for reasons in [["scanout", "scanout"], ["scanout", "rdma"]] {
        let buffer = create(&rig, &home);
        let seat = buffer.attach(&peer).expect("a seat");
        let [first, second] = reasons.map(|reason| seat.pin(reason).expect("no quota"));
        drop((seat, buffer));
        assert_eq!(first.buffer().size(), 8192);
        drop(first);
        assert_eq!(second.reason(), reasons[1]);
        let buffer = second.buffer();
        assert!(buffer.migrate(DomainId::System).is_err(), "pinned");
        // A new seat has pins of its own.
        let seat = buffer.attach(&peer).expect("the seat is free");
        let third = seat.pin(reasons[1]).expect("no quota");
        drop(second);
        assert!(buffer.migrate(DomainId::System).is_err(), "pinned");
        drop(third);
        buffer.migrate(DomainId::System).expect("nobody holds it");
    }
}

//! Pins: a buffer stays in its backing while it is pinned, and a device may pin up to its quota.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common;
use crate::common::Rig;
use crate::common::until::until;
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

/// Moves the buffer alone, or in a batch.
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
    moved.pop().expect("one for each").expect("the other one is not busy");
    moved.pop().expect("one for each")
}

/// upstream: `ttm_bo_pin_basic`, `ttm_bo_multiple_pin_one_unpin`, `ttm_bo_validate_pinned`
#[test]
fn a_pinned_buffer_stays_until_its_last_pin_is_dropped() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("attached");
    let pins = [(); 3].map(|()| attachment.pin("scanout").expect("within the quota"));
    assert_eq!(pins[0].reason(), "scanout");
    for (pin, count) in pins.into_iter().rev().zip([3, 2, 1]) {
        for together in [false, true] {
            let error = migrate(&rig, &buffer, DomainId::System, together).expect_err("pinned");
            assert!(matches!(error, Error::Busy { pinned, .. } if pinned == count), "{error}");
        }
        // A refused move does not block further pins.
        drop(attachment.pin("scanout").expect("within the quota"));
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
        buffer.attach(&peer).expect("attached"),
        buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("another"),
    );
    assert!(moving.is_dynamic() && !fixed.is_dynamic());
    let free = moving.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("not busy");
    let held = fixed.map(Access::Read).expect("mapped");
    let error = buffer.migrate(DomainId::Vram(home.id())).expect_err("mapped statically");
    assert!(matches!(error, Error::Busy { mapped: 1, .. }), "{error}");
    drop(held);
    buffer.migrate(DomainId::Vram(home.id())).expect("no longer mapped");
    drop(free);
}

#[test]
fn a_quota_limits_the_pinned_bytes_of_a_device() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    rig.engine().set_pin_quota(&peer, 2 * 8192).expect("our device");
    let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home)).collect();
    let attachments: Vec<_> =
        buffers.iter().map(|buffer| buffer.attach(&peer).expect("attached")).collect();
    let pins: Vec<_> =
        attachments[..2].iter().map(|attachment| attachment.pin("rdma").expect("fits")).collect();
    let error = attachments[2].pin("rdma").expect_err("too much");
    let Error::PinQuota { requested: 8192, used: 16_384, quota: 16_384, .. } = error else {
        panic!("{error}");
    };
    // Each device has its own quota.
    let at_home = buffers[2].attach(&home).expect("attached");
    drop(at_home.pin("scanout").expect("no limit"));
    drop(pins);
    drop(attachments[2].pin("rdma").expect("there is room again"));
}

#[test]
fn exported_and_accessed_buffers_do_not_move() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach_dynamic(&home, Arc::new(Indifferent)).expect("attached");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
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
        busy("exported");
    }
    buffer.migrate(DomainId::System).expect("free again");
}

/// A quota that is set late counts existing pins, of the usual reason and of others.
#[test]
fn a_quota_set_late_counts_existing_pins() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home)).collect();
    let attachments: Vec<_> =
        buffers.iter().map(|buffer| buffer.attach(&peer).expect("attached")).collect();
    let mut pins: Vec<_> =
        attachments.iter().map(|attachment| attachment.pin("rdma").expect("no quota")).collect();
    pins.push(attachments[0].pin("another reason").expect("no quota"));
    let refused = |at: usize, used: u64| {
        let error = attachments[at].pin("rdma").expect_err("too much");
        let Error::PinQuota { requested: 8192, used: reported, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(reported, used);
    };
    rig.engine().set_pin_quota(&peer, 3 * 8192).expect("our device");
    refused(0, 4 * 8192);
    drop(pins.pop());
    refused(1, 3 * 8192);
    drop(pins.remove(0));
    let again = attachments[2].pin("rdma").expect("there is room for one");
    refused(0, 3 * 8192);
    drop((pins, again));
    // Bytes freed at one buffer may be pinned at another one, and all of them are returned.
    let three: Vec<_> =
        (0..3).map(|_| attachments[1].pin("rdma").expect("there is room")).collect();
    refused(1, 3 * 8192);
    rig.engine().set_pin_quota(&peer, u64::MAX).expect("our device");
    drop(attachments[1].pin("rdma").expect("no limit again"));
    drop(three);
    buffers[1].migrate(DomainId::System).expect("not busy");
}

/// Lets another thread pin during a move, and gives it time to succeed too early.
struct PinDuringMove {
    now: Mutex<Option<Sender<()>>>,
    pinned: Mutex<Receiver<()>>,
}

impl Importer for PinDuringMove {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        if let Some(now) = self.now.lock().expect("not poisoned").take() {
            now.send(()).expect("the pinning thread listens");
            let pinned = self.pinned.lock().expect("not poisoned");
            // The wait usually times out. A pin that arrives now would be too early.
            let _ = pinned.recv_timeout(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_pin_taken_during_a_move_waits_for_its_end() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for (usual, together) in [("scanout", false), ("rdma", false), ("scanout", true)] {
        let buffer = create(&rig, &home);
        let (now, go) = channel();
        let (done, pinned) = channel();
        let (now, pinned) = (Mutex::new(Some(now)), Mutex::new(pinned));
        let attachment = buffer
            .attach_dynamic(&peer, Arc::new(PinDuringMove { now, pinned }))
            .expect("attached");
        // If this was the reason of the previous pin, the next one takes no lock.
        drop(attachment.pin(usual).expect("no quota"));
        std::thread::scope(|scope| {
            let (attachment, buffer) = (&attachment, &buffer);
            let pinner = scope.spawn(move || {
                go.recv().expect("the importer is notified");
                let pin = attachment.pin("scanout").expect("no quota");
                let seen = (buffer.generation(), buffer.domain());
                // The importer may have been dropped.
                let _ = done.send(());
                (pin, seen)
            });
            let moved = migrate(&rig, buffer, DomainId::System, together);
            assert_eq!(moved.expect("not busy"), Migration::Done { generation: 1 });
            let (pin, seen) = pinner.join().expect("it pins");
            assert_eq!(seen, (1, DomainId::System), "pinned during a move");
            assert!(buffer.migrate(DomainId::Vram(home.id())).is_err(), "pinned");
            drop(pin);
        });
    }
}

#[test]
fn concurrent_pins_and_moves_never_move_a_pinned_buffer() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("attached");
    let turns: u32 = if common::in_vm() { 50 } else { 200 };
    let moves = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let pinner = scope.spawn(|| {
            for turn in 0..turns {
                if turn % 10 == 5 {
                    // Wait for a move in between, however the threads are scheduled.
                    let before = moves.load(Ordering::Acquire);
                    until(|| moves.load(Ordering::Acquire), |&moves| moves != before);
                }
                let reason = if turn % 4 == 3 { "rdma" } else { "scanout" };
                let pin = attachment.pin(reason).expect("no quota");
                let (place, generation) = (buffer.domain(), buffer.generation());
                for _ in 0..20 {
                    assert_eq!(buffer.generation(), generation, "moved while pinned");
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
                    Ok(_) | Err(Error::Busy { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        pinner.join().expect("never moved while pinned");
    });
    let moves = moves.into_inner();
    assert!(moves >= turns / 10, "{moves} moves");
    assert_eq!(buffer.generation(), moves);
    assert_eq!(rig.engine().report().totals().pins, 0);
}

/// A pin that the quota refuses never counts, so no move finds it.
#[test]
fn a_refused_pin_blocks_no_move() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("attached");
    let moves = if common::in_vm() { 200 } else { 2000 };
    // From here on, each move closes the pin counter that this pin opened.
    drop(attachment.pin("scanout").expect("no quota yet"));
    rig.engine().set_pin_quota(&peer, buffer.size() - 1).expect("our device");
    let (refused, done) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let pinner = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let error = attachment.pin("scanout").expect_err("the quota is too small");
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
            moved.expect("not pinned");
        }
        until(
            || (refused.load(Ordering::Relaxed), pinner.is_finished()),
            |&(refused, finished)| refused > 0 || finished,
        );
        done.store(true, Ordering::Relaxed);
        pinner.join().expect("every pin is refused");
    });
    assert_eq!(rig.engine().report().totals().pins, 0);
}

#[test]
fn a_pin_outlives_its_attachment_and_the_handles() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for reasons in [["scanout", "scanout"], ["scanout", "rdma"]] {
        let buffer = create(&rig, &home);
        let attachment = buffer.attach(&peer).expect("attached");
        let [first, second] = reasons.map(|reason| attachment.pin(reason).expect("no quota"));
        drop((attachment, buffer));
        assert_eq!(first.buffer().size(), 8192);
        drop(first);
        assert_eq!(second.reason(), reasons[1]);
        let buffer = second.buffer();
        assert!(buffer.migrate(DomainId::System).is_err(), "pinned");
        // A new attachment has its own pins.
        let attachment = buffer.attach(&peer).expect("the attachment has ended");
        let third = attachment.pin(reasons[1]).expect("no quota");
        drop(second);
        assert!(buffer.migrate(DomainId::System).is_err(), "pinned");
        drop(third);
        buffer.migrate(DomainId::System).expect("not busy");
    }
}

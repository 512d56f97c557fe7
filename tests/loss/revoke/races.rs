//! Revocation beside moves, detachments and drops.

use super::*;

#[test]
fn a_revoked_buffer_does_not_move() {
    const ROUNDS: u32 = 30;
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 8);
    let recorder = Arc::new(Recorder::default());
    let attachment =
        buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("an attachment");
    let done = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let domains = [DomainId::System, DomainId::Vram(peer.id()), DomainId::Vram(home.id())];
            let mut moves = 0;
            for domain in domains.into_iter().cycle() {
                if done.load(Ordering::Acquire) {
                    break;
                }
                match buffer.migrate(domain) {
                    Ok(Migration::Done { .. }) => moves += 1,
                    Ok(_) => {}
                    Err(error) => assert!(matches!(error, Error::Revoked { .. }), "{error}"),
                }
            }
            moves
        });
        for round in 0..ROUNDS {
            let before = buffer.generation();
            until(|| buffer.generation(), |&generation| generation != before);
            buffer.revoke().expect("moves end");
            let state = (buffer.generation(), buffer.domain());
            buffer.revoke().expect("complete already");
            assert_eq!((buffer.generation(), buffer.domain()), state, "round {round}");
            buffer.unrevoke().expect("not held");
        }
        done.store(true, Ordering::Release);
        mover.join().expect("no panic")
    });
    let notifications = recorder.invalidated();
    let causes = |cause| notifications.iter().filter(|(_, why)| *why == cause).count();
    assert_eq!(causes(Cause::Revoke), ROUNDS as usize);
    assert_eq!(buffer.generation(), moves, "only moves change the generation");
    assert!(causes(Cause::Move) >= moves as usize);
    bytes::assert_sequence(&buffer, 8, "after all moves");
    drop(attachment);
}

/// An importer that delays a move until the test drops its signal.
#[derive(Default)]
struct Delays(Mutex<Option<(peerbuf::Fence, Signal)>>, Mutex<Option<Signal>>);

impl Importer for Delays {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        if let Some((fence, signal)) = self.0.lock().expect("not poisoned").take() {
            invalidation.add_fence(Access::Read, fence);
            *self.1.lock().expect("not poisoned") = Some(signal);
        }
    }
}

#[test]
fn revocation_cancels_a_waiting_move() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 2);
    let delays = Arc::new(Delays::default());
    *delays.0.lock().expect("not poisoned") = Some(rig.engine().host_fence());
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&delays) as _).expect("an attachment");
    let domain = buffer.domain();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        until(|| delays.1.lock().expect("not poisoned").is_some(), |&delayed| delayed);
        let revoker = scope.spawn(|| buffer.revoke());
        until_marked(&buffer);
        drop(delays.1.lock().expect("not poisoned").take());
        assert!(is_revoked(mover.join().expect("no panic")));
        revoker.join().expect("no panic").expect("no move in progress");
    });
    assert_eq!((buffer.generation(), buffer.domain()), (0, domain));
    buffer.unrevoke().expect("not held");
    bytes::assert_sequence(&buffer, 2, "not moved");
    buffer.migrate(DomainId::System).expect("the cancelled move has no effect");
    drop(attachment);
}

/// An importer whose attachment another thread drops during the notification. The notifying thread may then hold
/// the last reference, and with it a mapping.
struct Detaches {
    notified: Sender<()>,
    held: Mutex<Option<Mapping>>,
}

impl Importer for Detaches {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        // After the first notification the receiver is gone.
        let _ = self.notified.send(());
    }
}

#[test]
fn an_importer_detached_during_its_notification_is_dropped_safely() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for _ in 0..50 {
        let buffer = create(&rig, &home);
        let (notified, receiver) = channel();
        let detaches = Arc::new(Detaches { notified, held: Mutex::default() });
        let attachment =
            buffer.attach_dynamic(&peer, Arc::clone(&detaches) as _).expect("an attachment");
        *detaches.held.lock().expect("not poisoned") =
            Some(attachment.map(Access::Read).expect("mapped"));
        drop(detaches);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                receiver.recv().expect("notified");
                drop(attachment);
            });
            buffer.revoke().expect("the importer drops the mapping");
        });
    }
}

#[test]
fn revocation_tolerates_concurrent_drops() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for round in 0..40 {
        let buffer = create(&rig, &home);
        let fixed = buffer.attach(&home).expect("an attachment");
        let moving =
            buffer.attach_dynamic(&peer, Arc::new(Recorder::default())).expect("an attachment");
        let mapping = fixed.map(Access::ReadWrite).expect("mapped");
        if round % 2 == 0 {
            mapping.fill(1).expect("a pass");
        }
        let seen = moving.map(Access::Read).expect("mapped");
        let pin = moving.pin("short").expect("no limit");
        let (one, other) = (buffer.clone(), buffer);
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                drop((fixed, mapping));
            });
            scope.spawn(move || {
                start.wait();
                drop((pin, seen, moving));
            });
            scope.spawn(move || {
                start.wait();
                one.revoke().expect("all holders release it");
            });
            start.wait();
            drop(other);
        });
    }
}

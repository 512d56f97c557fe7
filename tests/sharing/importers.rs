//! The three importers of the library: each handles an invalidation in its own way.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::common::{Rig, bytes};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Error, FenceAndResume, Importer, Refault,
    Revocable, SharedBuffer,
};

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    let buffer = rig.engine().create_buffer(home, BufferDescriptor::new(70_000).name("shared"));
    let buffer = buffer.expect("a buffer");
    bytes::write(&buffer, 3);
    buffer
}

#[test]
fn a_refaulting_importer_remaps_before_the_next_use() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let importer = Arc::new(Refault::new());
    let attachment =
        buffer.attach_dynamic(&peer, Arc::clone(&importer) as Arc<dyn Importer>).expect("attached");
    let mut mapping = attachment.map(Access::ReadWrite).expect("mapped");
    assert!(!importer.take_stale());
    for (round, place) in [DomainId::System, DomainId::Vram(home.id())].into_iter().enumerate() {
        buffer.migrate(place).expect("not busy");
        assert!(matches!(mapping.view(), Err(Error::Stale { .. })));
        assert!(importer.take_stale() && !importer.take_stale(), "once");
        attachment.remap(&mut mapping).expect("the new backing");
        mapping.view().expect("current");
        assert_eq!(importer.notifications(), round as u64 + 1);
    }
    drop(mapping);
    bytes::assert_sequence(&buffer, 3, "after two moves");
}

#[test]
fn a_move_waits_for_a_fencing_importer() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let engine = Arc::new(rig.take_engine());
    let (stop, stopped) = channel();
    let fences = Arc::clone(&engine);
    let importer = Arc::new(FenceAndResume::new(Access::ReadWrite, move || {
        let (fence, signal) = fences.host_fence();
        stop.send(signal).expect("the receiver listens");
        fence
    }));
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&importer) as _).expect("attached");
    let before = buffer.generation();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        let signal = stopped.recv().expect("the importer is notified");
        // The importer's work may still write, so the move waits.
        assert_eq!(buffer.generation(), before);
        drop(signal);
        mover.join().expect("no panic").expect("it moves after the work has stopped");
    });
    assert!(importer.take_stale());
    assert_eq!((importer.notifications(), buffer.generation()), (1, before + 1));
    let mapping = attachment.map(Access::Read).expect("the importer resumes");
    assert_eq!(mapping.generation(), before + 1);
    drop(mapping);
    bytes::assert_sequence(&buffer, 3, "after the move");
    drop((attachment, buffer, importer));
}

#[test]
fn a_revocable_importer_unmaps_and_stays_revoked() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let (notify, notified) = channel();
    let notify = Mutex::new(notify);
    let importer = Arc::new(Revocable::new(move || {
        notify.lock().expect("not poisoned").send(()).expect("the receiver listens");
    }));
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&importer) as _).expect("attached");
    let mapping = attachment.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("the importer follows a move");
    assert!(importer.take_stale() && !importer.is_revoked());
    std::thread::scope(|scope| {
        let owner = scope.spawn(|| buffer.revoke());
        notified.recv().expect("the importer is notified");
        drop(mapping);
        owner.join().expect("no panic").expect("no longer busy");
    });
    assert!(importer.is_revoked());
    assert!(matches!(attachment.map(Access::Read), Err(Error::Revoked { .. })));
    buffer.unrevoke().expect("access is restored");
    attachment.map(Access::Read).expect("usable again");
    assert!(importer.is_revoked(), "the importer keeps its state");
}

//! The three kinds of importers that come with the library: each is told, and copes in its own way.

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
fn who_refaults_maps_again_before_the_next_use() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let told = Arc::new(Refault::new());
    let seat =
        buffer.attach_dynamic(&peer, Arc::clone(&told) as Arc<dyn Importer>).expect("a seat");
    let mut mapping = seat.map(Access::ReadWrite).expect("mapped");
    assert!(!told.take_stale());
    for (round, place) in [DomainId::System, DomainId::Vram(home.id())].into_iter().enumerate() {
        buffer.migrate(place).expect("nobody holds it");
        assert!(matches!(mapping.view(), Err(Error::Stale { .. })));
        assert!(told.take_stale() && !told.take_stale(), "once");
        seat.remap(&mut mapping).expect("the new place");
        mapping.view().expect("current");
        assert_eq!(told.times_told(), round as u64 + 1);
    }
    drop(mapping);
    bytes::assert_sequence(&buffer, 3, "after two moves");
}

#[test]
fn who_fences_and_resumes_is_waited_for() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let engine = Arc::new(rig.take_engine());
    let (stop, stopped) = channel();
    let fences = Arc::clone(&engine);
    let importer = Arc::new(FenceAndResume::new(Access::ReadWrite, move || {
        let (fence, signal) = fences.host_fence();
        stop.send(signal).expect("its thread listens");
        fence
    }));
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&importer) as _).expect("a seat");
    let before = buffer.generation();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        let signal = stopped.recv().expect("it is told to stop");
        // What it runs may still write: the move waits.
        assert_eq!(buffer.generation(), before);
        drop(signal);
        mover.join().expect("no panic").expect("it moves when that has stopped");
    });
    assert!(importer.take_stale());
    assert_eq!((importer.times_told(), buffer.generation()), (1, before + 1));
    let mapping = seat.map(Access::Read).expect("and it goes on there");
    assert_eq!(mapping.generation(), before + 1);
    drop(mapping);
    bytes::assert_sequence(&buffer, 3, "after the move");
    drop((seat, buffer, importer));
}

#[test]
fn who_is_revocable_lets_go_and_stays_away() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let (give_up, gives_up) = channel();
    let give_up = Mutex::new(give_up);
    let importer = Arc::new(Revocable::new(move || {
        give_up.lock().expect("not poisoned").send(()).expect("its thread listens");
    }));
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&importer) as _).expect("a seat");
    let mapping = seat.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("it copes with a move");
    assert!(importer.take_stale() && !importer.is_revoked());
    std::thread::scope(|scope| {
        let owner = scope.spawn(|| buffer.revoke());
        gives_up.recv().expect("it is told to give up");
        drop(mapping);
        owner.join().expect("no panic").expect("nobody holds it any more");
    });
    assert!(importer.is_revoked());
    assert!(matches!(seat.map(Access::Read), Err(Error::Revoked { .. })));
    buffer.rearm().expect("given back");
    seat.map(Access::Read).expect("usable again");
    assert!(importer.is_revoked(), "but it remembers");
}

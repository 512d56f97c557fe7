//! Buffers of one submission are not evicted for each other; searches of other threads and `evict_all` may evict
//! them.

use std::sync::Arc;

use super::restores::Meanwhile;
use crate::common::until::rounds;
use crate::common::{Rig, bytes, wait_idle};
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Mapping, Placement, Refault,
    ResidencyOptions, Scope, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// An engine that restores at each use, whatever the size, and moves no buffer to the device that uses it most.
fn eager_rig() -> Rig {
    let options = ResidencyOptions::new().uses_before_return(1).auto_migration(false);
    Rig::with(|d| d.residency(options.bytes_per_ms(1 << 40).bytes_per_submission(1 << 40)))
}

fn use_all(engine: &Engine, device: &Device, mappings: &[&Mapping]) {
    let submitted = engine.submit(device, |submission| {
        mappings.iter().try_for_each(|m| submission.uses(m, Access::Read, Scope::ALL).map(drop))
    });
    drop(submitted.expect("all mappings are current"));
}

/// Two buffers of one submission, one of them displaced, and a third one that has to be evicted for it. The heap
/// has room for two.
struct Scene {
    resident: SharedBuffer,
    displaced: SharedBuffer,
    victim: SharedBuffer,
    importer: Arc<Meanwhile>,
    attachments: Vec<Attachment>,
}

impl Scene {
    fn new(engine: &Engine, first: &Device, second: &Device) -> (Self, [Mapping; 2]) {
        engine.model_heap(first, 2 * MIB).expect("of this engine");
        let [resident, displaced, victim] = [1, 2, 3].map(|seed| {
            let buffer =
                engine.create_buffer(first, BufferDescriptor::new(MIB)).expect("room is made");
            bytes::write(&buffer, seed);
            buffer
        });
        let importer = Arc::new(Meanwhile::default());
        engine.set_cap(vram(first), Some(0)).expect("of this engine");
        let refault = || Arc::new(Refault::new());
        let attachments = vec![
            resident.attach_dynamic(second, refault()).expect("an attachment"),
            displaced.attach_dynamic(second, refault()).expect("an attachment"),
        ];
        let displaced_mapping = attachments[1].map(Access::Read).expect("mapped");
        engine.set_cap(vram(first), None).expect("of this engine");
        for buffer in [&resident, &victim] {
            buffer.request_residency().expect("there is room");
        }
        let resident_mapping = attachments[0].map(Access::Read).expect("mapped");
        wait_idle(&[first, second]);
        let mut scene = Self { resident, displaced, victim, importer, attachments };
        // Last, so that the importer is notified of the eviction alone.
        let importer = Arc::clone(&scene.importer);
        let attached = scene.victim.attach_dynamic(second, importer as _);
        scene.attachments.push(attached.expect("an attachment"));
        let domains = [&scene.resident, &scene.displaced, &scene.victim].map(SharedBuffer::domain);
        assert_eq!(domains, [vram(first), DomainId::System, vram(first)]);
        (scene, [resident_mapping, displaced_mapping])
    }

    /// Runs `meanwhile` on another thread while the submission of the two evicts the third one.
    fn during_submission(
        &self,
        engine: &Engine,
        device: &Device,
        mappings: &[Mapping; 2],
        meanwhile: impl FnOnce() + Send,
    ) {
        // Asked without the reservation, which the other search takes only if it is free.
        let generation = self.resident.generation();
        self.importer.during_notification(
            || use_all(engine, device, &[&mappings[0], &mappings[1]]),
            meanwhile,
            || self.resident.generation() > generation,
        );
    }

    fn assert_bytes(&self) {
        let all = [&self.resident, &self.displaced, &self.victim];
        for (seed, buffer) in (1..).zip(all) {
            bytes::assert_sequence(buffer, seed, "after the evictions");
        }
    }
}

#[test]
fn a_submissions_own_search_passes_over_its_buffers() {
    let rig = eager_rig();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let (mut scene, [resident, displaced]) = Scene::new(engine, &first, &second);
    // Without the third buffer, the resident one alone could make room.
    drop(scene.attachments.pop());
    scene.victim.evict().expect("not held");
    engine.model_heap(&first, MIB).expect("of this engine");
    let evicted = engine.moved(MoveCause::Evicted).moves;
    for _ in 0..10 {
        use_all(engine, &second, &[&resident, &displaced]);
    }
    assert_eq!(engine.moved(MoveCause::Evicted).moves, evicted, "none is evicted");
    assert_eq!(scene.resident.domain(), vram(&first));
    // For a submission that does not use it, it is evicted: once the copies of before have ended.
    for _ in rounds() {
        use_all(engine, &second, &[&displaced]);
        if scene.resident.domain() == DomainId::System {
            break;
        }
    }
    assert_eq!(scene.resident.domain(), DomainId::System);
    scene.assert_bytes();
}

#[test]
fn evict_all_evicts_the_buffers_of_another_threads_submission() {
    let rig = eager_rig();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let (scene, mappings) = Scene::new(engine, &first, &second);
    scene.during_submission(engine, &second, &mappings, || {
        engine.evict_all(&first).expect("of this engine");
    });
    assert_eq!(scene.resident.domain(), DomainId::System);
    drop(mappings);
    scene.assert_bytes();
}

#[test]
fn a_search_of_another_thread_evicts_the_buffers_of_a_submission() {
    let rig = eager_rig();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let (scene, mappings) = Scene::new(engine, &first, &second);
    scene.during_submission(engine, &second, &mappings, || {
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::Vram);
        drop(engine.create_buffer(&first, descriptor).expect("room is made"));
    });
    assert_eq!(scene.resident.domain(), DomainId::System);
    drop(mappings);
    scene.assert_bytes();
}

//! A driver runs out of memory for internal objects during an import, a move or an export: the engine evicts other
//! buffers and retries a few times.
#![expect(unsafe_code, reason = "imports an fd of its own")]

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::common::{Rig, assert_pattern, bytes, fill, wait_idle};
use ash::vk::Result as Code;
use peerbuf::device::Call;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, ForeignExport, Mapping,
    Migration, Placement, Refault, Result, SharedBuffer,
};

const MIB: u64 = 1 << 20;
const CODES: [Code; 2] = [Code::ERROR_OUT_OF_DEVICE_MEMORY, Code::ERROR_OUT_OF_HOST_MEMORY];
/// The number of retries.
const RETRIES: u64 = 3;

/// A device, and a second one of the same adapter, with all routes between them proved.
struct Scene<'a> {
    engine: &'a Engine,
    home: &'a Device,
    peer: &'a Device,
}

/// Runs `test` with two devices of each adapter. The routes between them are proved first, so that the injected
/// failures do not hit a proof.
fn for_each_pair(rig: &Rig, test: impl Fn(&Scene<'_>)) {
    for code in ["VK_ERROR_OUT_OF_DEVICE_MEMORY", "VK_ERROR_OUT_OF_HOST_MEMORY"] {
        rig.provokes(code);
    }
    for home in rig.all() {
        let peer = rig.open(&home.adapter().clone());
        let scene = Scene { engine: rig.engine(), home: &home, peer: &peer };
        let buffer = scene.create(Placement::VramOrSystem);
        let attachment = scene.attach(&buffer);
        for to in [DomainId::System, DomainId::Vram(home.id())] {
            buffer.migrate(to).expect("not held");
            fill(&attachment, 1);
        }
        drop((attachment, buffer));
        scene.drop_views();
        test(&scene);
        scene.drop_views();
    }
}

impl Scene<'_> {
    fn create(&self, placement: Placement) -> SharedBuffer {
        let descriptor = BufferDescriptor::new(MIB).placement(placement);
        let buffer = self.engine.create_buffer(self.home, descriptor).expect("a buffer");
        bytes::write(&buffer, 5);
        buffer
    }

    fn attach(&self, buffer: &SharedBuffer) -> Attachment {
        buffer.attach_dynamic(self.peer, Arc::new(Refault::new())).expect("an attachment")
    }

    /// Frees all cached views.
    fn drop_views(&self) {
        wait_idle(&[self.home, self.peer]);
        self.engine.trim();
    }
}

/// Runs `work` on a new subject with the first calls failing, up to as many as are retried, and then once more
/// often, which is an error. After an error, `work` runs again without failures. `check` verifies the result.
fn check<T>(
    (scene, engine, call): (&Scene<'_>, &Engine, Call),
    make: impl Fn() -> T,
    mut work: impl FnMut(&mut T) -> Result<()>,
    check: impl Fn(T, &str),
) {
    for code in CODES {
        for times in 1..=RETRIES + 1 {
            let what = format!("{}, {times} x {code:?} of {}", scene.home.name(), call.name());
            scene.drop_views();
            let mut subject = make();
            wait_idle(&[scene.home, scene.peer]);
            (1..=times).for_each(|nth| engine.calls().fail_nth(call, nth, code));
            let result = work(&mut subject);
            assert!(!engine.calls().clear_faults(), "{what}: fewer calls than injected failures");
            match result {
                Ok(()) if times <= RETRIES => {}
                Err(error) if times > RETRIES => {
                    assert!(error.is_out_of_memory(), "{what}: {error:?}");
                    work(&mut subject).expect("no more failures");
                }
                other => panic!("{what}: {other:?}"),
            }
            check(subject, &what);
        }
    }
}

#[test]
fn an_attach_retries_after_out_of_memory() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let make = || (scene.create(Placement::System), None);
        let attach = |(buffer, attachment): &mut (SharedBuffer, Option<Attachment>)| {
            *attachment = Some(buffer.attach(scene.peer)?);
            Ok(())
        };
        let subject = (scene, scene.engine, Call::ImportMemory);
        check(subject, make, attach, |(buffer, attachment), what| {
            bytes::assert_sequence(&buffer, 5, what);
            let attachment = attachment.as_ref().expect("it has attached");
            fill(attachment, 7);
            assert_pattern(attachment, 7, what);
            buffer.relocate().expect("not held");
        });
    });
}

/// The first retry only returns unused memory; the second one evicts.
#[test]
fn a_retry_evicts_other_buffers_of_the_device() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        for times in [1, 2] {
            scene.drop_views();
            let other = BufferDescriptor::new(MIB);
            let other = scene.engine.create_buffer(scene.peer, other).expect("a buffer");
            bytes::write(&other, 6);
            let buffer = scene.create(Placement::System);
            for nth in 1..=times {
                scene.engine.calls().fail_nth(Call::ImportMemory, nth, CODES[0]);
            }
            drop(buffer.attach(scene.peer).expect("retried"));
            assert!(!scene.engine.calls().clear_faults());
            let expected =
                if times > 1 { DomainId::System } else { DomainId::Vram(scene.peer.id()) };
            assert_eq!(other.domain(), expected, "failed {times} times");
            bytes::assert_sequence(&other, 6, "afterwards");
            bytes::assert_sequence(&buffer, 5, "afterwards");
        }
    });
}

/// A buffer that has moved to a domain where its attachment has no view yet, and a mapping of the old backing.
struct Followed {
    buffer: SharedBuffer,
    attachment: Attachment,
    mapping: Mapping,
}

impl Followed {
    fn new(scene: &Scene<'_>) -> Self {
        let buffer = scene.create(Placement::VramOrSystem);
        let attachment = scene.attach(&buffer);
        let mapping = attachment.map(Access::ReadWrite).expect("mapped");
        buffer.migrate(DomainId::System).expect("not held");
        Self { buffer, attachment, mapping }
    }

    fn check(self, what: &str) {
        let Self { buffer, mapping, .. } = self;
        bytes::assert_sequence(&buffer, 5, what);
        mapping.fill(8).expect("a current mapping");
        assert!(mapping.verify(8).expect("a pass").is_clean(), "{what}");
        buffer.relocate().expect("not held");
    }
}

/// Runs one way to follow a move.
fn check_follow(follow: impl Fn(&mut Followed) -> Result<()>) {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let subject = (scene, scene.engine, Call::ImportMemory);
        let work = |followed: &mut Followed| {
            let before = followed.mapping.generation();
            let result = follow(followed);
            let now = followed.mapping.generation();
            assert_eq!(now, if result.is_ok() { 1 } else { before });
            result
        };
        check(subject, || Followed::new(scene), work, |followed, what| followed.check(what));
    });
}

#[test]
fn a_map_retries_after_out_of_memory() {
    check_follow(|Followed { attachment, mapping, .. }| {
        *mapping = attachment.map(Access::ReadWrite)?;
        Ok(())
    });
}

#[test]
fn a_remap_retries_after_out_of_memory() {
    check_follow(|Followed { attachment, mapping, .. }| attachment.remap(mapping));
}

#[test]
fn a_remap_of_all_mappings_retries_after_out_of_memory() {
    check_follow(|Followed { buffer, attachment, mapping }| {
        buffer.remap_all(&mut [(attachment, mapping)])
    });
}

/// The host cannot copy instead.
#[test]
fn a_move_retries_after_out_of_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    for_each_pair(&rig, |scene| {
        let migrate = |buffer: &mut SharedBuffer| {
            let before = (buffer.domain(), buffer.generation());
            let result = buffer.migrate(DomainId::System);
            let now = (buffer.domain(), buffer.generation());
            assert!(result.is_ok() || now == before, "a failed move changes nothing");
            result.map(drop)
        };
        let subject = (scene, scene.engine, Call::QueueSubmit);
        let make = || scene.create(Placement::VramOrSystem);
        check(subject, make, migrate, |buffer, what| {
            assert_eq!((buffer.domain(), buffer.generation()), (DomainId::System, 1), "{what}");
            bytes::assert_sequence(&buffer, 5, what);
        });
    });
}

#[test]
fn a_batch_of_moves_retries_after_out_of_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    for_each_pair(&rig, |scene| {
        let all = [(); 2].map(|()| scene.create(Placement::VramOrSystem));
        wait_idle(&[scene.home]);
        // The submission of the batch, one for each buffer, and one retry fail.
        for nth in 1..=4 {
            scene.engine.calls().fail_nth(Call::QueueSubmit, nth, CODES[0]);
        }
        let moves = all.each_ref().map(|buffer| (buffer, DomainId::System));
        for moved in scene.engine.migrate_many(&moves) {
            assert_eq!(moved.expect("retried"), Migration::Done { generation: 1 });
        }
        assert!(!scene.engine.calls().clear_faults());
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 5, "moved"));
    });
}

#[test]
fn an_export_retries_after_out_of_memory() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let make = || (scene.create(Placement::VramOrSystem), None);
        let export = |(buffer, export): &mut (SharedBuffer, Option<ForeignExport>)| {
            *export = Some(buffer.export_foreign()?);
            Ok(())
        };
        let subject = (scene, scene.engine, Call::GetMemoryFd);
        check(subject, make, export, |(buffer, export), what| {
            assert_eq!(buffer.generation(), 1, "{what}: moved out of its slab");
            assert!(buffer.evict().is_err(), "{what}: exported");
            drop(export);
            buffer.evict().expect("no longer held");
            bytes::assert_sequence(&buffer, 5, what);
        });
    });
}

#[test]
fn an_import_retries_after_out_of_memory() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let other_engine = rig.external_engine();
        let device = rig.open_on(&other_engine, scene.home);
        let make = || {
            let export = scene.create(Placement::System).export_foreign().expect("an fd");
            (export, None)
        };
        let import = |(export, imported): &mut (ForeignExport, Option<SharedBuffer>)| {
            let (fd, info) = (export.as_fd(), export.info());
            // SAFETY: an fd of the other engine with its own facts.
            *imported = Some(unsafe { other_engine.import_foreign(&device, fd, info, None) }?);
            Ok(())
        };
        let subject = (scene, &other_engine, Call::ImportMemory);
        check(subject, make, import, |(_, imported), what| {
            bytes::assert_sequence(&imported.expect("imported"), 5, what);
        });
    });
}

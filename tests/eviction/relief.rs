//! A driver has no memory left for what is no buffer's, while something is taken in, moved or handed out: others
//! make room, and it is asked again, a few times.
#![expect(unsafe_code, reason = "taking in one's own fd")]

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
/// As often as it is given some.
const RELIEFS: u64 = 3;

/// A device, a second one of the same adapter, and what was asked of them already.
struct Scene<'a> {
    engine: &'a Engine,
    home: &'a Device,
    peer: &'a Device,
}

/// With two devices of each adapter, where it is known who reaches whose memory, so that what fails does not
/// fail while that is found out.
fn for_each_pair(rig: &Rig, test: impl Fn(&Scene<'_>)) {
    for code in ["VK_ERROR_OUT_OF_DEVICE_MEMORY", "VK_ERROR_OUT_OF_HOST_MEMORY"] {
        rig.provokes(code);
    }
    for home in rig.all() {
        let peer = rig.open(&home.adapter().clone());
        let scene = Scene { engine: rig.engine(), home: &home, peer: &peer };
        let buffer = scene.create(Placement::VramOrSystem);
        let seat = scene.sit(&buffer);
        for to in [DomainId::System, DomainId::Vram(home.id())] {
            buffer.migrate(to).expect("nobody holds it");
            fill(&seat, 1);
        }
        drop((seat, buffer));
        scene.forget();
        test(&scene);
        scene.forget();
    }
}

impl Scene<'_> {
    fn create(&self, placement: Placement) -> SharedBuffer {
        let descriptor = BufferDescriptor::new(MIB).placement(placement);
        let buffer = self.engine.create_buffer(self.home, descriptor).expect("a buffer");
        bytes::write(&buffer, 5);
        buffer
    }

    fn sit(&self, buffer: &SharedBuffer) -> Attachment {
        buffer.attach_dynamic(self.peer, Arc::new(Refault::new())).expect("a seat")
    }

    /// Nobody has a view any more of what others had.
    fn forget(&self) {
        wait_idle(&[self.home, self.peer]);
        self.engine.trim();
    }
}

/// Does `work` on something new each time, where the first calls fail, as many as may; and once more often,
/// which is an error. Then it is done again, and `check` looks at what there is.
fn check<T>(
    (scene, engine, call): (&Scene<'_>, &Engine, Call),
    make: impl Fn() -> T,
    mut work: impl FnMut(&mut T) -> Result<()>,
    check: impl Fn(T, &str),
) {
    for code in CODES {
        for times in 1..=RELIEFS + 1 {
            let what = format!("{}, {times} x {code:?} of {}", scene.home.name(), call.name());
            scene.forget();
            let mut subject = make();
            wait_idle(&[scene.home, scene.peer]);
            (1..=times).for_each(|nth| engine.calls().fail_nth(call, nth, code));
            let result = work(&mut subject);
            assert!(!engine.calls().clear_faults(), "{what}: not so many calls");
            match result {
                Ok(()) if times <= RELIEFS => {}
                Err(error) if times > RELIEFS => {
                    assert!(error.is_out_of_memory(), "{what}: {error:?}");
                    work(&mut subject).expect("there is memory again");
                }
                other => panic!("{what}: {other:?}"),
            }
            check(subject, &what);
        }
    }
}

#[test]
fn a_device_attaches_as_soon_as_there_is_memory() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let make = || (scene.create(Placement::System), None);
        let attach = |(buffer, seat): &mut (SharedBuffer, Option<Attachment>)| {
            *seat = Some(buffer.attach(scene.peer)?);
            Ok(())
        };
        let subject = (scene, scene.engine, Call::ImportMemory);
        check(subject, make, attach, |(buffer, seat), what| {
            bytes::assert_sequence(&buffer, 5, what);
            let seat = seat.as_ref().expect("it has attached");
            fill(seat, 7);
            assert_pattern(seat, 7, what);
            buffer.relocate().expect("nobody holds it");
        });
    });
}

/// At first only what nobody has goes.
#[test]
fn others_leave_the_devices_memory_for_it() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        for times in [1, 2] {
            scene.forget();
            let other = BufferDescriptor::new(MIB);
            let other = scene.engine.create_buffer(scene.peer, other).expect("a buffer");
            bytes::write(&other, 6);
            let buffer = scene.create(Placement::System);
            for nth in 1..=times {
                scene.engine.calls().fail_nth(Call::ImportMemory, nth, CODES[0]);
            }
            drop(buffer.attach(scene.peer).expect("at last"));
            assert!(!scene.engine.calls().clear_faults());
            let expected =
                if times > 1 { DomainId::System } else { DomainId::Vram(scene.peer.id()) };
            assert_eq!(other.domain(), expected, "failed {times} times");
            bytes::assert_sequence(&other, 6, "afterwards");
            bytes::assert_sequence(&buffer, 5, "afterwards");
        }
    });
}

/// A buffer that has moved to where one of its devices has not been yet, with its mapping of the old place.
struct Followed {
    buffer: SharedBuffer,
    seat: Attachment,
    mapping: Mapping,
}

impl Followed {
    fn new(scene: &Scene<'_>) -> Self {
        let buffer = scene.create(Placement::VramOrSystem);
        let seat = scene.sit(&buffer);
        let mapping = seat.map(Access::ReadWrite).expect("mapped");
        buffer.migrate(DomainId::System).expect("nobody holds it");
        Self { buffer, seat, mapping }
    }

    fn check(self, what: &str) {
        let Self { buffer, mapping, .. } = self;
        bytes::assert_sequence(&buffer, 5, what);
        mapping.fill(8).expect("a current one");
        assert!(mapping.verify(8).expect("a pass").is_clean(), "{what}");
        buffer.relocate().expect("nobody holds it");
    }
}

/// In each of the ways that there are.
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
fn so_does_who_maps() {
    check_follow(|Followed { seat, mapping, .. }| {
        *mapping = seat.map(Access::ReadWrite)?;
        Ok(())
    });
}

#[test]
fn and_who_maps_again() {
    check_follow(|Followed { seat, mapping, .. }| seat.remap(mapping));
}

#[test]
fn and_who_maps_all_again() {
    check_follow(|Followed { buffer, seat, mapping }| buffer.remap_all(&mut [(seat, mapping)]));
}

/// Where the host does not copy instead.
#[test]
fn a_buffer_moves_as_soon_as_there_is_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    for_each_pair(&rig, |scene| {
        let migrate = |buffer: &mut SharedBuffer| {
            let before = (buffer.domain(), buffer.generation());
            let result = buffer.migrate(DomainId::System);
            let now = (buffer.domain(), buffer.generation());
            assert!(result.is_ok() || now == before, "nothing has changed");
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
fn so_do_many_that_move_together() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    for_each_pair(&rig, |scene| {
        let all = [(); 2].map(|()| scene.create(Placement::VramOrSystem));
        wait_idle(&[scene.home]);
        // All together, each by itself, and the first one once more.
        for nth in 1..=4 {
            scene.engine.calls().fail_nth(Call::QueueSubmit, nth, CODES[0]);
        }
        let moves = all.each_ref().map(|buffer| (buffer, DomainId::System));
        for moved in scene.engine.migrate_many(&moves) {
            assert_eq!(moved.expect("at last"), Migration::Done { generation: 1 });
        }
        assert!(!scene.engine.calls().clear_faults());
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 5, "moved"));
    });
}

#[test]
fn a_buffer_is_handed_out_as_soon_as_there_is_memory() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let make = || (scene.create(Placement::VramOrSystem), None);
        let export = |(buffer, export): &mut (SharedBuffer, Option<ForeignExport>)| {
            *export = Some(buffer.export_foreign()?);
            Ok(())
        };
        let subject = (scene, scene.engine, Call::GetMemoryFd);
        check(subject, make, export, |(buffer, export), what| {
            assert_eq!(buffer.generation(), 1, "{what}: out of its slab");
            assert!(buffer.evict().is_err(), "{what}: it is handed out");
            drop(export);
            buffer.evict().expect("nobody holds it any more");
            bytes::assert_sequence(&buffer, 5, what);
        });
    });
}

#[test]
fn a_strangers_memory_is_taken_in_as_soon_as_there_is_memory() {
    let rig = Rig::new();
    for_each_pair(&rig, |scene| {
        let stranger = rig.stranger();
        let device = rig.open_on(&stranger, scene.home);
        let make = || {
            let export = scene.create(Placement::System).export_foreign().expect("an fd");
            (export, None)
        };
        let import = |(export, taken): &mut (ForeignExport, Option<SharedBuffer>)| {
            let (fd, facts) = (export.as_fd(), export.facts());
            // SAFETY: an fd of the other engine with its own facts.
            *taken = Some(unsafe { stranger.import_foreign(&device, fd, facts, None) }?);
            Ok(())
        };
        let subject = (scene, &stranger, Call::ImportMemory);
        check(subject, make, import, |(_, taken), what| {
            bytes::assert_sequence(&taken.expect("it was taken in"), 5, what);
        });
    });
}

//! Look-ups at mappings: one looks at its buffer once, and again only after a change in its piece of memory. And every
//! change that ends a mapping is seen by a mapping that was looked at before.

use std::sync::Arc;

use crate::common::Rig;
use crate::common::until::until;
use peerbuf::observe::looks;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Error, Mapping, Placement, Refault,
    SharedBuffer,
};

fn attached(rig: &Rig, home: &Device, size: u64) -> (SharedBuffer, Attachment) {
    let descriptor = BufferDescriptor::new(size).placement(Placement::VramOrSystem);
    let buffer = rig.engine().create_buffer(home, descriptor).expect("there is room");
    let attachment = buffer.attach_dynamic(home, Arc::new(Refault::new())).expect("attached");
    (buffer, attachment)
}

fn mapped(attachment: &Attachment) -> Mapping {
    attachment.map(Access::ReadWrite).expect("mapped")
}

/// How often a look-up looks at the buffer, and whether it succeeds.
fn look(mapping: &Mapping) -> (u64, bool) {
    let before = looks();
    let found = mapping.view().is_ok();
    (looks() - before, found)
}

#[test]
fn a_look_up_looks_at_its_buffer_once_and_again_after_a_change_in_its_memory() {
    let rig = Rig::new();
    for home in rig.all() {
        let all: Vec<_> = (0..8).map(|_| attached(&rig, &home, 4096)).collect();
        let mut mappings: Vec<_> = all.iter().map(|(_, attachment)| mapped(attachment)).collect();
        for mapping in &mappings {
            assert_eq!(
                [look(mapping), look(mapping), look(mapping)],
                [(1, true), (0, true), (0, true)]
            );
        }
        all[0].0.migrate(DomainId::System).expect("not busy");
        let [moved, others @ ..] = &mut *mappings else { panic!("there are eight") };
        assert_eq!([look(moved), look(moved)], [(1, false), (1, false)], "its buffer has moved");
        for other in others {
            assert_eq!([look(other), look(other)], [(1, true), (0, true)], "a neighbour has moved");
        }
        all[0].1.remap(moved).expect("remapped");
        assert_eq!([look(moved), look(moved)], [(1, true), (0, true)], "remapped");
        all[0].0.migrate(DomainId::Vram(home.id())).expect("not busy");
        assert_eq!(look(moved), (1, false), "it has moved back");
        // A move of a buffer without mappings is no change for the mappings of others.
        drop(mappings.pop());
        mappings[1..].iter().for_each(|mapping| assert!(look(mapping).1));
        all[7].0.migrate(DomainId::System).expect("not busy");
        for mapping in &mappings[1..] {
            assert_eq!(look(mapping), (0, true), "nothing that is mapped has moved");
        }
    }
}

#[test]
fn every_change_is_seen_by_a_mapping_that_was_looked_at_before() {
    let rig = Rig::new();
    for home in rig.all() {
        let (buffer, attachment) = attached(&rig, &home, 4096);
        let mapping = mapped(&attachment);
        assert_eq!([look(&mapping), look(&mapping)], [(1, true), (0, true)]);

        buffer.set_purgeable(true).expect("not purged");
        rig.engine().evict_all(&home).expect("nothing is busy");
        assert!(buffer.is_purged(), "it is the only one");
        assert!(matches!(mapping.view(), Err(Error::Purged { .. })));
        drop((mapping, attachment, buffer));

        let (buffer, attachment) = attached(&rig, &home, 4096);
        let mapping = mapped(&attachment);
        assert_eq!([look(&mapping), look(&mapping)], [(1, true), (0, true)]);
        let (fence, signal) = rig.engine().host_fence();
        mapping.begin_access(Access::Write).expect("current").end(fence);
        assert_eq!(look(&mapping), (0, true), "a use changes nothing");
        signal.fail("the disk is full");
        rig.engine().report();
        assert!(matches!(mapping.view(), Err(Error::Poisoned { .. })));
        buffer.accept_content().expect("nothing is under way");
        assert!(mapping.view().is_ok() && look(&mapping) == (0, true), "accepted");

        std::thread::scope(|scope| {
            let revoking = scope.spawn(|| buffer.revoke());
            // A look-up beside the change may still be one before it.
            until(|| mapping.view(), |view| matches!(view, Err(Error::Revoked { .. })));
            drop(mapping);
            revoking.join().expect("it ends").expect("nothing is left");
        });
    }
}

/// Sizes of 4 MiB and more are not in the mapping itself.
#[test]
fn a_view_has_offset_size_and_access_of_its_buffer() {
    let rig = Rig::new();
    for home in rig.all() {
        let sizes = [1, 256, 4097, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 3];
        let all: Vec<_> = sizes.iter().map(|&size| attached(&rig, &home, size)).collect();
        for (size, (_, attachment)) in sizes.iter().zip(&all) {
            for access in [Access::Read, Access::Write, Access::ReadWrite] {
                let mapping = attachment.map(access).expect("mapped");
                let view = mapping.view().expect("current");
                assert_eq!((view.size, mapping.access()), (*size, access));
                assert!(view.offset.is_multiple_of(256), "{view:?}");
            }
        }
        let views = all.iter().map(|(_, attachment)| mapped(attachment).view().expect("current"));
        let places: std::collections::HashSet<_> =
            views.map(|view| (view.buffer, view.offset)).collect();
        assert_eq!(places.len(), sizes.len(), "no two are at one place");
    }
}

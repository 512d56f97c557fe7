//! Handles are cheap names: clones are equal, hash alike, and carry the number that reports and importers show.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::common::Rig;
use peerbuf::{BufferDescriptor, DomainId, Importer, Invalidation};

#[test]
#[expect(clippy::mutable_key_type, reason = "handles are hashed by identity, which never changes")]
fn clones_are_equal_and_other_handles_are_not() {
    let rig = Rig::new();
    let [one, other] = rig.two_of_one_adapter();
    let create =
        || rig.engine().create_buffer(&one, BufferDescriptor::new(4096)).expect("a buffer");
    let (first, second) = (create(), create());
    assert_eq!(first, first.clone());
    assert_ne!(first, second);
    assert!(first.is_same(&first.clone()) && !first.is_same(&second));
    let buffers = HashSet::from([first.clone(), second.clone(), first.clone()]);
    assert_eq!(buffers.len(), 2);
    let devices = HashSet::from([one.clone(), other.clone(), first.home()]);
    assert_eq!(devices.len(), 2, "the home device is one of them");
}

#[test]
fn a_buffer_has_one_number_in_reports_and_handles() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let create =
        || rig.engine().create_buffer(&home, BufferDescriptor::new(4096)).expect("a buffer");
    let buffers = [create(), create(), create()];
    let ids = buffers.each_ref().map(|buffer| buffer.id());
    let reported: Vec<u64> = rig.engine().report().buffers.iter().map(|report| report.id).collect();
    assert_eq!(reported, ids);
    drop(buffers);
    assert!(create().id() > ids[2], "numbers are not reused");
}

#[test]
fn clones_of_an_engine_are_the_same_engine() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let clone = rig.engine().clone();
    let buffer = clone.create_buffer(&home, BufferDescriptor::new(4096)).expect("its device");
    assert_eq!(rig.engine().report().buffers[0].id, buffer.id());
    assert_eq!(clone.adapters().len(), rig.engine().adapters().len());
}

/// Records which buffers moved.
#[derive(Default)]
struct Moved(Mutex<Vec<u64>>);

impl Importer for Moved {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.0.lock().expect("not poisoned").push(invalidation.buffer_id());
    }
}

#[test]
fn one_importer_learns_which_of_many_buffers_moves() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let importer = Arc::new(Moved::default());
    let create =
        || rig.engine().create_buffer(&home, BufferDescriptor::new(4096)).expect("a buffer");
    let buffers = [create(), create()];
    let attachments = buffers.each_ref().map(|buffer| {
        buffer.attach_dynamic(&home, Arc::clone(&importer) as _).expect("an attachment")
    });
    for buffer in buffers.iter().rev() {
        buffer.migrate(DomainId::System).expect("a move");
    }
    let moved = importer.0.lock().expect("not poisoned").clone();
    assert_eq!(moved, [buffers[1].id(), buffers[0].id()]);
    drop(attachments);
}

//! Fences exchanged with external users: as sync files, and through the reservation of the dma-buf.
#![expect(unsafe_code, reason = "imports what the test has exported")]

use std::os::fd::AsFd;

use crate::common::commands::{copy, fill};
use crate::common::{self, LONG, Rig, bytes, needs_dma_buf};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, Error, Fence, Mapping, Placement,
    SharedBuffer,
};

const SIZE: u64 = 64 << 10;
const LARGE: u64 = 8 << 20;

fn create(engine: &Engine, device: &Device, size: u64) -> (SharedBuffer, Attachment, Mapping) {
    let descriptor = BufferDescriptor::new(size).name("shared").placement(Placement::VramOrSystem);
    let buffer = engine.create_buffer(device, descriptor).expect("a buffer");
    let attachment = buffer.attach(device).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    (buffer, attachment, mapping)
}

fn assert_words(buffer: &SharedBuffer, word: u32, what: &str) {
    let expected: Vec<u8> = word.to_ne_bytes().into_iter().cycle().take(SIZE as usize).collect();
    bytes::assert_same(&bytes::read(buffer), &expected, what);
}

#[test]
fn a_fence_becomes_a_sync_file_and_a_fence_again() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    let (_buffer, _attachment, mapping) = create(rig.engine(), &device, LARGE);
    let fence = fill(rig.engine(), &device, &mapping, 1).expect("a submission");
    match fence.to_sync_file() {
        Ok(file) => {
            let again = Fence::from_sync_file(file).expect("a sync file");
            again.wait(LONG).expect("it signals");
            assert!(again.is_signalled().expect("no error"));
            assert!(
                fence.is_signalled().expect("no error"),
                "the file signals no earlier than its fence"
            );
        }
        // Supported only with kernel fences; or the fence has signalled already.
        Err(Error::Unsupported { .. }) => {
            assert!(!common::in_vm() || fence.is_signalled().expect("no error"));
        }
        Err(error) => panic!("{error}"),
    }
    let (host, signal) = rig.engine().host_fence();
    let error = host.to_sync_file().expect_err("work of the host");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    drop(signal);
}

#[test]
fn two_engines_wait_for_each_other_through_the_dma_buf() {
    let rig = Rig::new();
    let Some(ours) = rig.lavapipe() else { return };
    if !needs_dma_buf(&ours) {
        return;
    }
    let other = rig.external_engine();
    let theirs = rig.open_on(&other, &ours);
    let engines = [(rig.engine(), &ours), (&other, &theirs)];
    let (buffer, _attachment, mapping) = create(rig.engine(), &ours, SIZE);
    drop(mapping);
    let export = buffer.export_foreign().expect("a dma-buf");
    let attachment = _attachment;
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    // SAFETY: the memory is as the facts describe it, exported just above; the fences under test keep the two
    // engines apart.
    let imported = unsafe { other.import_foreign(&theirs, export.as_fd(), export.info(), None) };
    let imported = imported.expect("the same memory");
    let their_attachment = imported.attach(&theirs).expect("an attachment");
    let their_mapping = their_attachment.map(Access::ReadWrite).expect("mapped");
    let buffers = [(&buffer, &mapping), (&imported, &their_mapping)];
    let larges = engines.map(|(engine, device)| create(engine, device, LARGE));
    let copies = engines.map(|(engine, device)| create(engine, device, SIZE));
    for turn in 0..10u32 {
        let (writer, reader) = ((turn % 2) as usize, ((turn + 1) % 2) as usize);
        let what = format!("turn {turn}");
        let (engine, device) = engines[writer];
        // Work that takes a while, so that the reader has to wait.
        fill(engine, device, &larges[writer].2, turn).expect("a submission");
        fill(engine, device, buffers[writer].1, turn + 1).expect("a submission");
        buffers[writer].0.export_foreign_fences().expect("fences added to the dma-buf");
        buffers[reader].0.import_foreign_fences().expect("fences imported from the dma-buf");
        let (engine, device) = engines[reader];
        let copied = copy(engine, device, buffers[reader].1, &copies[reader].2);
        copied.expect("a submission").wait(LONG).expect(&what);
        assert_words(&copies[reader].0, turn + 1, &what);
        // The reader has finished, and exports its fence to the writer.
        buffers[reader].0.export_foreign_fences().expect("fences added");
        buffers[writer].0.import_foreign_fences().expect("fences imported");
    }
    drop((copies, larges));
    drop((their_mapping, their_attachment, imported));
    drop((mapping, attachment, export, buffer));
    common::wait_idle(&[&ours, &theirs]);
}

#[test]
fn a_slab_slot_has_no_foreign_fences() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let (buffer, ..) = create(rig.engine(), &device, SIZE);
    for error in [buffer.import_foreign_fences(), buffer.export_foreign_fences()] {
        let error = error.expect_err("a slab's slot");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

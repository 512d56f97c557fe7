//! Fences that come from strangers and go to them: as sync files, through the dma-buf's own reservation.
#![expect(unsafe_code, reason = "importing what the test has exported")]

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
    let seat = buffer.attach(device).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    (buffer, seat, mapping)
}

fn assert_words(buffer: &SharedBuffer, word: u32, what: &str) {
    let expected: Vec<u8> = word.to_ne_bytes().into_iter().cycle().take(SIZE as usize).collect();
    bytes::assert_same(&bytes::read(buffer), &expected, what);
}

#[test]
fn a_fence_becomes_a_file_and_a_fence_again() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    let (_buffer, _seat, mapping) = create(rig.engine(), &device, LARGE);
    let fence = fill(rig.engine(), &device, &mapping, 1).expect("a submission");
    match fence.to_sync_file() {
        Ok(file) => {
            let again = Fence::from_sync_file(file).expect("a sync file");
            again.wait(LONG).expect("it signals");
            assert!(again.is_signalled().expect("no error"));
            assert!(fence.is_signalled().expect("no error"), "the file is not before its fence");
        }
        // Only where the kernel's fences are; or it was faster than we.
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
fn strangers_wait_for_us_and_we_for_them() {
    let rig = Rig::new();
    let Some(ours) = rig.lavapipe() else { return };
    if !needs_dma_buf(&ours) {
        return;
    }
    let stranger = rig.stranger();
    let theirs = rig.open_on(&stranger, &ours);
    let engines = [(rig.engine(), &ours), (&stranger, &theirs)];
    let (buffer, _seat, mapping) = create(rig.engine(), &ours, SIZE);
    drop(mapping);
    let export = buffer.export_foreign().expect("a dma-buf");
    let seat = _seat;
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    // SAFETY: it is what the facts say, exported just above; the fences that this test is about keep the
    // two engines apart.
    let taken = unsafe { stranger.import_foreign(&theirs, export.as_fd(), export.facts(), None) };
    let taken = taken.expect("the same memory");
    let their_seat = taken.attach(&theirs).expect("a seat");
    let their_mapping = their_seat.map(Access::ReadWrite).expect("mapped");
    let buffers = [(&buffer, &mapping), (&taken, &their_mapping)];
    let larges = engines.map(|(engine, device)| create(engine, device, LARGE));
    let copies = engines.map(|(engine, device)| create(engine, device, SIZE));
    for turn in 0..10u32 {
        let (writer, reader) = ((turn % 2) as usize, ((turn + 1) % 2) as usize);
        let what = format!("turn {turn}");
        let (engine, device) = engines[writer];
        // Something that takes a while, so that there is something to wait for.
        fill(engine, device, &larges[writer].2, turn).expect("a submission");
        fill(engine, device, buffers[writer].1, turn + 1).expect("a submission");
        buffers[writer].0.export_foreign_fences().expect("entered into the dma-buf");
        buffers[reader].0.import_foreign_fences().expect("and found there");
        let (engine, device) = engines[reader];
        let copied = copy(engine, device, buffers[reader].1, &copies[reader].2);
        copied.expect("a submission").wait(LONG).expect(&what);
        assert_words(&copies[reader].0, turn + 1, &what);
        // The reader is done, and the writer learns of it likewise.
        buffers[reader].0.export_foreign_fences().expect("entered");
        buffers[writer].0.import_foreign_fences().expect("found");
    }
    drop((copies, larges));
    drop((their_mapping, their_seat, taken));
    drop((mapping, seat, export, buffer));
    common::wait_idle(&[&ours, &theirs]);
}

#[test]
fn only_a_dma_buf_of_its_own_has_strangers_fences() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let (buffer, ..) = create(rig.engine(), &device, SIZE);
    for error in [buffer.import_foreign_fences(), buffer.export_foreign_fences()] {
        let error = error.expect_err("a slab's slot");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

//! Declared write ranges: when a buffer returns to its clean copy, only bytes that were declared written are copied.

use std::ops::Range;
use std::sync::Arc;

use crate::common::commands::record_fill_of;
use crate::common::{Rig, bytes, commands, wait_idle};
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Mapping, Refault, Scope,
    SharedBuffer, Submission,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 << 20;
const SEED: u64 = 1;

/// A large buffer in the VRAM of the first device, with a clean copy, and its expected content.
struct Subject<'a> {
    engine: &'a Engine,
    devices: [&'a Device; 2],
    buffer: SharedBuffer,
    attachments: [Attachment; 2],
    expected: Vec<u8>,
}

impl<'a> Subject<'a> {
    fn new(engine: &'a Engine, devices: [&'a Device; 2]) -> Self {
        let descriptor = BufferDescriptor::new(SIZE);
        let buffer = engine.create_buffer(devices[0], descriptor).expect("a buffer");
        let attachment = |device| buffer.attach_dynamic(device, Arc::new(Refault::new()));
        let attachments = devices.map(|device| attachment(device).expect("attached"));
        bytes::write(&buffer, SEED);
        let mut subject =
            Self { engine, devices, buffer, attachments, expected: bytes::sequence(SEED, SIZE) };
        assert_eq!(subject.evict("no clean copy"), SIZE);
        subject.restore();
        subject
    }

    /// Restores the buffer to VRAM. The backing that it leaves is its clean copy.
    fn restore(&mut self) {
        self.buffer.request_residency().expect("there is room");
        wait_idle(&self.devices);
        assert_eq!(self.buffer.domain(), DomainId::Vram(self.devices[0].id()));
    }

    /// Evicts the buffer and checks its content from the other device. Returns the number of copied bytes.
    fn evict(&mut self, what: &str) -> u64 {
        wait_idle(&self.devices);
        let copied = || self.engine.moved(MoveCause::Evicted).copied;
        let before = copied();
        self.buffer.evict().expect("not busy");
        let copied = copied() - before;
        assert_eq!(self.buffer.domain(), DomainId::System);
        self.check(what);
        copied
    }

    /// Checks every byte, as the other device sees it.
    fn check(&self, what: &str) {
        let device = self.devices[1];
        let seen = self
            .engine
            .create_buffer(device, BufferDescriptor::new(SIZE))
            .expect("room for a second one");
        let attachment = seen.attach(device).expect("its own");
        let (from, to) =
            (self.map(1, Access::Read), attachment.map(Access::Write).expect("mapped"));
        commands::copy(self.engine, device, &from, &to).expect("submitted");
        bytes::assert_same(&bytes::read(&seen), &self.expected, what);
    }

    fn map(&self, attachment: usize, access: Access) -> Mapping {
        self.attachments[attachment].map(access).expect("mapped")
    }

    /// Fills `part` with a word by a submission of the first device that declares the range.
    fn fill_part(&mut self, part: Range<u64>, word: u8) {
        let (mapping, word32) = (self.map(0, Access::Write), u32::from_ne_bytes([word; 4]));
        let filled =
            commands::fill_part(self.engine, self.devices[0], &mapping, part.clone(), word32);
        filled.expect("submitted");
        self.expect(part, word);
    }

    fn expect(&mut self, part: Range<u64>, word: u8) {
        // CAST: the buffer fits memory.
        self.expected[part.start as usize..part.end as usize].fill(word);
    }
}

/// Runs `test` with two devices of each adapter.
fn for_each_pair(test: impl Fn(&mut Subject<'_>)) {
    let rig = Rig::new();
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        test(&mut Subject::new(rig.engine(), [&first, &second]));
        wait_idle(&[&first, &second]);
    }
}

#[test]
fn an_eviction_copies_only_declared_write_ranges() {
    for_each_pair(|subject| {
        subject.fill_part(MIB..MIB + 64 * KIB, 0x11);
        assert_eq!(subject.evict("64 KiB were written"), 64 * KIB);
        // Nothing was written since.
        subject.restore();
        assert_eq!(subject.evict("nothing was"), 0);
        // Ranges are rounded outwards.
        subject.restore();
        subject.fill_part(64 * KIB - 4..64 * KIB + 4, 0x12);
        assert_eq!(subject.evict("eight bytes of two grains"), 128 * KIB);
    });
}

#[test]
fn write_ranges_of_several_submissions_add_up() {
    for_each_pair(|subject| {
        // Separate, adjacent, and overlapping ranges.
        subject.fill_part(0..64 * KIB, 0x21);
        subject.fill_part(64 * KIB..128 * KIB, 0x22);
        subject.fill_part(SIZE - 64 * KIB..SIZE, 0x23);
        subject.fill_part(8 * MIB..9 * MIB, 0x24);
        subject.fill_part(8 * MIB + 512 * KIB..9 * MIB + 512 * KIB, 0x25);
        let expected = 128 * KIB + 64 * KIB + MIB + 512 * KIB;
        assert_eq!(subject.evict("five parts"), expected);
    });
}

#[test]
fn write_ranges_of_one_submission_add_up() {
    for_each_pair(|subject| {
        let mapping = subject.map(0, Access::ReadWrite);
        let device = subject.devices[0];
        let parts = [0..64 * KIB, 2 * MIB..2 * MIB + 64 * KIB];
        let filled = subject.engine.submit(device, |submission| {
            submission.read(&mapping)?;
            for part in &parts {
                let (access, scope) = (Access::ReadWrite, Scope::TRANSFER);
                submission.uses_part(&mapping, access, scope, part.clone())?;
                record_fill_of(submission, device, &mapping, part.clone(), 0x3131_3131)?;
            }
            // Declares a write without recording one.
            submission.write_part(&mapping, 5..5).map(|_| ())
        });
        filled.expect("submitted");
        drop(mapping);
        parts.into_iter().for_each(|part| subject.expect(part, 0x31));
        assert_eq!(subject.evict("two parts"), 128 * KIB);
    });
}

#[test]
fn undeclared_writes_dirty_the_whole_buffer() {
    for_each_pair(|subject| {
        let mapping = subject.map(0, Access::Write);
        let device = subject.devices[0];
        subject
            .engine
            .submit(device, |submission| {
                submission.write_part(&mapping, 0..4)?;
                submission.write(&mapping).map(|_| ())
            })
            .expect("submitted");
        drop(mapping);
        assert_eq!(subject.evict("one said a part, the other nothing"), SIZE);
        subject.restore();
        let mapping = subject.map(0, Access::Write);
        let unordered =
            |submission: &mut Submission<'_>| submission.unordered(&mapping).map(|_| ());
        subject.engine.submit(device, unordered).expect("submitted");
        drop(mapping);
        assert_eq!(subject.evict("unordered use"), SIZE);
        // A read writes nothing, whatever range it declares.
        subject.restore();
        let mapping = subject.map(0, Access::Read);
        subject
            .engine
            .submit(device, |submission| {
                let part = 0..64 * KIB;
                submission.uses_part(&mapping, Access::Read, Scope::ALL, part).map(|_| ())
            })
            .expect("submitted");
        drop(mapping);
        assert_eq!(subject.evict("read"), 0);
    });
}

#[test]
#[expect(unsafe_code, reason = "a raw command of the test")]
fn a_raw_access_declares_its_write_range_when_it_begins() {
    for_each_pair(|subject| {
        let device = subject.devices[0];
        let part = 3 * MIB..3 * MIB + 64 * KIB;
        let mapping = subject.map(0, Access::Write);
        let access = mapping.begin_access_part(Access::Write, part.clone()).expect("not mapped");
        // A submission of another buffer stands in for the application's own queue.
        let (view, raw) = (access.view(), device.raw());
        let fence = subject
            .engine
            .submit(device, |submission| {
                let (mapping, part) = (&mapping, part.clone());
                let record = move |commands| {
                    // SAFETY: recorded for the device's family; the access excludes other uses.
                    let acquired = unsafe { mapping.acquire(commands, Scope::TRANSFER) };
                    acquired.expect("no move is in progress");
                    let (at, len) = (view.offset + part.start, part.end - part.start);
                    // SAFETY: a live buffer, and the mapping's range.
                    unsafe { raw.cmd_fill_buffer(commands, view.buffer, at, len, 0x4141_4141) };
                    // SAFETY: as above; it was acquired.
                    unsafe { mapping.release(commands, Scope::TRANSFER) };
                };
                // SAFETY: it records valid commands on the buffer that the access holds.
                unsafe { submission.record(record) };
                Ok(())
            })
            .expect("submitted");
        access.end(fence);
        drop(mapping);
        subject.expect(part, 0x41);
        assert_eq!(subject.evict("written by the application"), 64 * KIB);
    });
}

#[test]
fn host_writes_are_tracked_without_declaration() {
    for_each_pair(|subject| {
        let access = subject.buffer.host_access(Access::Write).expect("opened");
        access.write(5 * MIB, &[0x51; 5000]).expect("within");
        access.fill(7 * MIB, 64 << 10, 0x52).expect("within");
        access.end().expect("it ends");
        subject.expect(5 * MIB..5 * MIB + 5000, 0x51);
        subject.expect(7 * MIB..7 * MIB + 64 * KIB, 0x52);
        assert_eq!(subject.evict("two writes"), 128 * KIB);
        // Opened for writing without a write, and dropped instead of ended.
        subject.restore();
        drop(subject.buffer.host_access(Access::ReadWrite).expect("opened"));
        assert_eq!(subject.evict("opened"), 0);
        subject.restore();
        let access = subject.buffer.host_access(Access::ReadWrite).expect("opened");
        access.write(SIZE - 1, &[0x53]).expect("within");
        drop(access);
        subject.expect(SIZE - 1..SIZE, 0x53);
        assert_eq!(subject.evict("dropped"), 64 * KIB);
    });
}

/// If the host cannot map the memory, its writes are copied back when the access ends.
#[test]
fn bounced_host_writes_are_tracked_without_declaration() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        let mut subject = Subject::new(rig.engine(), [&first, &second]);
        let access = subject.buffer.host_access(Access::Write).expect("opened");
        access.write(MIB, &[0x61; 100]).expect("within");
        access.end().expect("it ends");
        subject.expect(MIB..MIB + 100, 0x61);
        assert_eq!(subject.evict("bounced"), 64 * KIB);
        wait_idle(&[&first, &second]);
    }
}

#[test]
fn a_copying_pass_dirties_the_length_of_its_source() {
    for_each_pair(|subject| {
        let device = subject.devices[0];
        let descriptor = BufferDescriptor::new(128 * KIB);
        let source = subject.engine.create_buffer(device, descriptor).expect("a buffer");
        bytes::write(&source, 9);
        let attachment = source.attach(device).expect("its own");
        let (from, to) =
            (attachment.map(Access::Read).expect("mapped"), subject.map(0, Access::Write));
        from.copy_to(&to).expect("a pass");
        drop((from, to));
        subject.expected[..128 << 10].copy_from_slice(&bytes::sequence(9, 128 * KIB));
        assert_eq!(subject.evict("copied by a pass"), 128 * KIB);
    });
}

#[test]
fn an_out_of_bounds_range_is_refused_before_submission() {
    for_each_pair(|subject| {
        let mapping = subject.map(0, Access::Write);
        let device = subject.devices[0];
        let backwards = Range { start: 8, end: 4 };
        for part in [0..SIZE + 1, SIZE..SIZE + 1, u64::MAX - 1..u64::MAX, backwards] {
            let declared = subject.engine.submit(device, |submission| {
                submission.write_part(&mapping, part.clone()).map(|_| ())
            });
            let error = declared.expect_err("it does not fit");
            let Error::OutOfBounds { offset, size, .. } = error else { panic!("{error:?}") };
            assert_eq!((offset, size), (part.start, SIZE));
            let error =
                mapping.begin_access_part(Access::Write, part.clone()).expect_err("nor here");
            assert!(matches!(error, Error::OutOfBounds { .. }), "{error}");
        }
        let whole =
            mapping.begin_access_part(Access::Write, SIZE..SIZE).expect("an empty one fits");
        drop(whole);
        drop(mapping);
        assert_eq!(subject.evict("nothing was written"), 0);
    });
}

//! After a device is lost, the next call of any kind handles the loss.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Pair, SIZE, assert_lost, vram};
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{LONG, Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, DomainId, Error, Refault, SharedBuffer,
};

/// The next call of a test, which does not concern the lost device itself.
type Next = fn(&Pair, &SharedBuffer, &Attachment);

const NEXT: [(&str, Next); 15] = [
    ("create", |pair, _, _| {
        let made = pair.engine().create_buffer(&pair.second, BufferDescriptor::new(64));
        drop(made.expect("not lost"));
    }),
    ("create on it", |pair, _, _| {
        let made = pair.engine().create_buffer(&pair.first, BufferDescriptor::new(64));
        assert_lost(&made.expect_err("lost"));
    }),
    ("submit", |pair, _, _| {
        pair.engine().submit(&pair.second, |_| Ok(())).expect("not lost");
    }),
    ("submit remapped", |pair, _, _| {
        pair.engine().submit_remapped(&pair.second, &mut [], |_, _| Ok(())).expect("not lost");
    }),
    ("map", |_, other, attachment| {
        let mapping = attachment.map(Access::Read).expect("not lost");
        assert!(mapping.buffer().is_same(other));
    }),
    ("attach", |pair, other, _| {
        drop(other.attach_dynamic(&pair.second, Recorder::new(true)).expect("not lost"));
    }),
    ("host access", |_, other, _| drop(other.host_access(Access::Read).expect("not lost"))),
    ("copy", |pair, other, _| {
        let region = CopyRegion { from: 0, to: 64, len: 64 };
        pair.engine().copy(other, other, region).expect("not lost");
    }),
    ("migrate", |_, other, _| {
        other.migrate(DomainId::System).expect("not lost");
    }),
    ("migrate many", |pair, other, _| {
        let moved = pair.engine().migrate_many(&[(other, DomainId::System)]);
        assert!(moved.iter().all(Result::is_ok));
    }),
    ("evict", |_, other, _| {
        other.evict().expect("not lost");
    }),
    ("evict all", |pair, _, _| {
        pair.engine().evict_all(&pair.second).expect("not lost");
    }),
    ("cap", |pair, _, _| {
        pair.engine().set_cap(vram(&pair.second), None).expect("not lost");
    }),
    ("trim", |pair, _, _| {
        pair.engine().trim();
    }),
    ("report", |pair, _, _| {
        pair.engine().report();
    }),
];

#[test]
fn any_next_call_unplugs_a_lost_device() {
    for (what, next) in NEXT {
        let pair = Pair::new();
        let (kept, gone) = (pair.with_clean_copy(), pair.buffer());
        let recorder = Recorder::new(true);
        let attachment = pair.attach(&kept, Arc::clone(&recorder) as _);
        let other = pair
            .engine()
            .create_buffer(&pair.second, BufferDescriptor::new(SIZE))
            .expect("a buffer elsewhere");
        bytes::write(&other, 5);
        let others_attachment = pair.attach(&other, Arc::new(Refault::new()));
        let notified = recorder.invalidated().len();
        pair.lose();
        let untouched = (kept.domain(), recorder.invalidated().len());
        assert_eq!(
            untouched,
            (vram(&pair.first), notified),
            "{what}: detection alone handles nothing"
        );
        next(&pair, &other, &others_attachment);
        assert_eq!((kept.domain(), gone.is_poisoned()), (DomainId::System, true), "{what}");
        assert_eq!(recorder.invalidated().len(), notified + 1, "{what}");
        // The other device sees the promoted bytes.
        let mapping = attachment.map(Access::Read).expect("promoted");
        let sum = mapping.checksum().expect("a pass of the other device");
        let expected = pair.engine().create_buffer(&pair.second, BufferDescriptor::new(SIZE));
        let expected = expected.expect("room");
        bytes::write(&expected, 1);
        let its_attachment = expected.attach(&pair.second).expect("its own");
        let its_sum = its_attachment.map(Access::Read).and_then(|mapping| mapping.checksum());
        assert_eq!(sum, its_sum.expect("a pass"), "{what}");
        bytes::assert_sequence(&kept, 1, what);
        if what != "copy" {
            bytes::assert_sequence(&other, 5, what);
        }
        assert_eq!(pair.unplug(), (1, 1), "{what}");
    }
}

#[test]
fn any_failing_call_detects_the_loss() {
    for call in [Call::AllocateMemory, Call::WaitSemaphores, Call::CreateBuffer] {
        let pair = Pair::new();
        let (kept, engine) = (pair.with_clean_copy(), pair.engine());
        engine.calls().fail_nth(call, 1, vk::Result::ERROR_DEVICE_LOST);
        let found = match call {
            Call::WaitSemaphores => {
                let gate = Gate::close(&pair.first);
                let fence = engine.submit(&pair.first, |_| Ok(())).expect("not yet lost");
                let found = fence.wait(LONG);
                gate.open();
                found
            }
            // A dedicated allocation.
            _ => engine.create_buffer(&pair.first, BufferDescriptor::new(9 << 20)).map(drop),
        };
        assert_lost(&found.expect_err("the injected error"));
        assert!(pair.first.is_lost());
        engine.report();
        assert_eq!(kept.domain(), DomainId::System, "{call:?}");
        bytes::assert_sequence(&kept, 1, "promoted");
    }
}

/// Many threads continue while a device is lost: each call succeeds or reports the loss, and the device is unplugged
/// once.
#[test]
fn concurrent_threads_unplug_a_lost_device_once() {
    let pair = Pair::new();
    let kept: Vec<_> = (0..8).map(|_| pair.with_clean_copy()).collect();
    let recorders: Vec<_> = kept.iter().map(|_| Recorder::new(true)).collect();
    let attachments: Vec<_> = kept
        .iter()
        .zip(&recorders)
        .map(|(buffer, recorder)| pair.attach(buffer, Arc::clone(recorder) as _))
        .collect();
    let counts = |recorders: &[Arc<Recorder>]| -> Vec<usize> {
        recorders.iter().map(|recorder| recorder.invalidated().len()).collect()
    };
    let before = counts(&recorders);
    pair.lose();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (buffer, attachment) in kept.iter().zip(&attachments) {
                    let mapped = attachment.map(Access::Read).map(drop);
                    assert!(
                        mapped.is_ok() || mapped.as_ref().is_err_and(Error::is_device_lost),
                        "{mapped:?}"
                    );
                    let read = buffer.host_access(Access::Read).map(drop);
                    assert!(read.is_ok() || read.as_ref().is_err_and(Error::is_device_lost));
                }
            });
        }
    });
    assert_eq!(pair.unplug(), (8, 0));
    let once: Vec<_> = before.iter().map(|count| count + 1).collect();
    assert_eq!(counts(&recorders), once);
    kept.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "promoted"));
    drop(attachments);
}

/// An external user keeps an fd of memory that the buffer has left, and writes to it.
#[test]
#[expect(unsafe_code, reason = "maps an exported fd")]
fn exported_memory_is_no_clean_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    let mut seen = 0;
    for first in rig.all() {
        // A dedicated allocation.
        let descriptor = BufferDescriptor::new(9 << 20);
        let buffer = engine.create_buffer(&first, descriptor).expect("a buffer");
        bytes::write(&buffer, 1);
        buffer.evict().expect("not held");
        let export = buffer.export_foreign().expect("an fd");
        let handle = export.handle().expect("a second one");
        drop(export);
        buffer.request_residency().expect("there is room");
        wait_idle(&[&first]);
        // SAFETY: a fresh mapping of a file.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                4096,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                handle.as_fd(),
                0,
            )
        };
        // Not every driver's memory can be mapped by its fd.
        let Ok(mapped) = mapped else { continue };
        seen += 1;
        // SAFETY: mapped just now, and aligned as a page.
        unsafe { mapped.cast::<u64>().write_volatile(0xdead_beef_dead_beef) };
        // SAFETY: no reference into the mapping is left.
        unsafe { rustix::mm::munmap(mapped, 4096) }.expect("mapped above");
        buffer.evict().expect("not held");
        bytes::assert_sequence(&buffer, 1, "a write through an old fd does not reach the buffer");
    }
    assert!(seen > 0, "no driver exports memory that can be mapped");
}

//! A process without standard streams: no memory of peerbuf gets their numbers. In a child process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::common::fds::OpenFds;
use crate::common::{Rig, assert_pattern, bytes, child, fill};
use peerbuf::{BufferDescriptor, Device, Placement, SharedBuffer};

fn create(rig: &Rig, home: &Device, size: u64, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

/// A process without standard streams gives their numbers to the next files that it opens. What it prints then goes to
/// these files, so memory of peerbuf is none of them.
#[test]
#[expect(unsafe_code, reason = "closes the standard streams, and opens them again")]
fn no_memory_has_the_number_of_a_closed_standard_stream() {
    if !child::is_child() {
        child::run(|command| command);
        return;
    }
    const STANDARD: [RawFd; 3] = [0, 1, 2];
    let mut rig = Rig::new();
    let saved = STANDARD.map(|number| {
        // SAFETY: the test has standard streams.
        let stream = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_dupfd_cloexec(stream, 10).expect("a duplicate")
    });
    // SAFETY: nothing prints until they are open again; the watchdog only if the test hangs.
    STANDARD.iter().for_each(|&number| unsafe { rustix::io::close(number) });
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| share_everything(&rig)));
    drop(rig.take_engine());
    for (number, saved) in STANDARD.into_iter().zip(&saved) {
        // SAFETY: closed above; what a driver has opened in its place ends with the process.
        let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
        rustix::io::dup2(saved, &mut target).expect("open again");
    }
    drop(saved);
    let all = checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(all.iter().all(|number| *number > 2), "exported as {all:?}");
}

/// Shares buffers between all devices, and with another engine. Returns the numbers of the exported fds.
#[expect(unsafe_code, reason = "imports memory of another engine")]
fn share_everything(rig: &Rig) -> Vec<RawFd> {
    let devices = rig.twice_each();
    let external = rig.external_engine();
    let mut numbers = vec![];
    for home in &devices {
        let theirs = rig.open_on(&external, home);
        for placement in [Placement::VramOrSystem, Placement::System] {
            let buffer = create(rig, home, 4096, placement);
            let attachments: Vec<_> =
                devices.iter().map(|d| buffer.attach(d).expect("attached")).collect();
            for (seed, attachment) in (1..).zip(&attachments) {
                fill(attachment, seed);
                attachments.iter().for_each(|other| assert_pattern(other, seed, "shared"));
            }
            let export = buffer.export_foreign().expect("an fd");
            let handle = export.handle().expect("another");
            numbers.extend([export.as_fd(), handle.as_fd()].map(|fd| fd.as_raw_fd()));
            let info = handle.info();
            // SAFETY: another engine's export, used by this thread alone.
            let imported = unsafe { external.import_foreign(&theirs, handle.as_fd(), info, None) };
            bytes::write(&buffer, 9);
            bytes::assert_sequence(&imported.expect("imported"), 9, "the same bytes");
            let standard = OpenFds::now().standard();
            assert!(standard.iter().all(|link| !link.contains("peerbuf")), "{standard:?}");
        }
    }
    numbers
}

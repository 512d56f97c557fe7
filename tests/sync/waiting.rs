//! Waits for one of many fences, for all of them, and for the work on a buffer.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{LONG, Rig, gate::Gate};
use peerbuf::{Access, BufferDescriptor, DomainId, Error, Fence, Importer, Invalidation};

/// A timeout that is reached, because nothing signals.
const SHORT: Duration = Duration::from_millis(5);

#[test]
fn the_first_of_many_fences_is_found_whichever_device_it_is_on() {
    let rig = Rig::new();
    let [held, free] = rig.two_of_one_adapter();
    let gate = Gate::close(&held);
    let late = held.submitted().expect("a submission");
    let (host, signal) = rig.engine().host_fence();
    let early = free.submitted().expect("a submission");
    let fences = [late.clone(), host.clone(), early];
    assert_eq!(Fence::wait_any(&fences, LONG).expect("the free device goes on"), 2);
    let pending = [late, host];
    let error = Fence::wait_any(&pending, SHORT).expect_err("neither signals");
    assert!(matches!(error, Error::Timeout { after: SHORT, .. }), "{error}");
    let error = Fence::wait_all(&fences, SHORT).expect_err("two do not signal");
    assert!(matches!(error, Error::Timeout { after: SHORT, .. }), "{error}");
    drop(signal);
    assert_eq!(Fence::wait_any(&pending, LONG).expect("the host has signalled"), 1);
    gate.open();
    Fence::wait_all(&fences, LONG).expect("all signal");
}

#[test]
fn a_buffer_is_busy_while_work_runs_that_the_access_conflicts_with() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let buffer =
        rig.engine().create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
    let attachment = buffer.attach(&device).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("a mapping");
    mapping.view().expect("zeroed");
    assert!(!buffer.is_busy(Access::ReadWrite));
    for (work, conflicts_with_read) in [(Access::Read, false), (Access::Write, true)] {
        let (fence, signal) = rig.engine().host_fence();
        mapping.begin_access(work).expect("nothing runs").end(fence);
        assert!(buffer.is_busy(Access::Write), "{work:?}");
        assert_eq!(buffer.is_busy(Access::Read), conflicts_with_read, "{work:?}");
        let error = buffer.wait(Access::Write, SHORT).expect_err("it runs on");
        assert!(matches!(error, Error::Timeout { after: SHORT, .. }), "{error}");
        assert_eq!(buffer.wait(Access::Read, SHORT).is_err(), conflicts_with_read, "{work:?}");
        drop(signal);
        buffer.wait(Access::ReadWrite, LONG).expect("it has ended");
        assert!(!buffer.is_busy(Access::ReadWrite));
    }
}

#[test]
fn a_wait_for_failed_writes_says_that_the_content_is_lost() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let buffer =
        rig.engine().create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
    let attachment = buffer.attach(&device).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("a mapping");
    for work in [Access::Read, Access::Write] {
        let (fence, signal) = rig.engine().host_fence();
        mapping.begin_access(work).expect("nothing runs").end(fence);
        signal.fail("torn");
        let waited = buffer.wait(Access::ReadWrite, LONG);
        match work {
            Access::Read => waited.expect("a failed read leaves the bytes as they were"),
            _ => assert!(matches!(waited, Err(Error::Poisoned { .. })), "{waited:?}"),
        }
        assert!(!buffer.is_busy(Access::ReadWrite), "no work is running");
    }
}

/// An importer that holds its buffer's reservation until it is told to go on.
struct Holds(Mutex<(Sender<()>, Receiver<()>)>);

impl Importer for Holds {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        let channels = self.0.lock().expect("not poisoned");
        channels.0.send(()).expect("the test waits");
        channels.1.recv().expect("the test goes on");
    }
}

#[test]
fn a_held_reservation_counts_as_busy_and_bounds_the_wait() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let buffer =
        rig.engine().create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
    let ((held, is_held), (go_on, goes_on)) = (channel(), channel());
    let importer = Arc::new(Holds(Mutex::new((held, goes_on))));
    let _attachment = buffer.attach_dynamic(&device, importer).expect("an attachment");
    std::thread::scope(|scope| {
        // Dropped if an assertion fails, so that the importer does not wait for ever.
        let go_on = go_on;
        scope.spawn(|| buffer.migrate(DomainId::System).expect("a move"));
        is_held.recv().expect("the importer is notified");
        assert!(buffer.is_busy(Access::Read), "the reservation is held");
        let error = buffer.wait(Access::Read, SHORT).expect_err("the reservation is held");
        assert!(matches!(error, Error::Timeout { after: SHORT, .. }), "{error}");
        go_on.send(()).expect("the importer waits");
    });
    buffer.wait(Access::Read, LONG).expect("the move ends");
}

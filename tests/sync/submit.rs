//! Submissions that declare what they use: ordered across devices without blocking the caller, and refused if a
//! buffer has left the backing that was mapped.

use std::sync::Arc;

use std::time::Instant;

use crate::common::bound::{besides, too_short, with_bound};
use crate::common::commands::{copy, fill, record_fill};
use crate::common::gate::Gate;
use crate::common::{LONG, Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::StallCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Error, Importer,
    Invalidation, Mapping, SharedBuffer, WaitRoute,
};

const SIZE: u64 = 40_000;

struct IgnoresMoves;

impl Importer for IgnoresMoves {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

/// A buffer and a mapping of it on each device.
fn shared(rig: &Rig, devices: &[Device]) -> (SharedBuffer, Vec<Attachment>, Vec<Mapping>) {
    let buffer = rig
        .engine()
        .create_buffer(&devices[0], BufferDescriptor::new(SIZE).name("shared"))
        .expect("a buffer");
    let attachments: Vec<_> = devices
        .iter()
        .map(|device| buffer.attach_dynamic(device, Arc::new(IgnoresMoves)).expect("an attachment"))
        .collect();
    let mappings = attachments
        .iter()
        .map(|attachment| attachment.map(Access::ReadWrite).expect("mapped"))
        .collect();
    (buffer, attachments, mappings)
}

fn assert_words(buffer: &SharedBuffer, word: u32, what: &str) {
    let expected: Vec<u8> = word.to_ne_bytes().into_iter().cycle().take(SIZE as usize).collect();
    bytes::assert_same(&bytes::read(buffer), &expected, what);
}

#[test]
fn a_chain_across_devices_stays_in_order_without_blocking_the_caller() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let (one, _attachments, ones) = shared(&rig, &devices);
    let (two, _others, twos) = shared(&rig, &devices);
    for (from, writer) in devices.iter().enumerate() {
        for (to, reader) in devices.iter().enumerate().filter(|(to, _)| *to != from) {
            let what = format!("{} to {}", writer.name(), reader.name());
            // CAST: a handful of devices.
            let word = 0x0101_0101 * (from * devices.len() + to + 1) as u32;
            let gate = Gate::close(writer);
            let written = fill(engine, writer, &ones[from], word).expect("a submission");
            let copied = copy(engine, reader, &ones[to], &twos[to]).expect("a submission");
            // Both were submitted while the writer's queue is held: neither call blocked, and neither has run.
            assert!(!written.is_signalled().expect("no error"), "{what}");
            assert!(!copied.is_signalled().expect("no error"), "{what}");
            gate.open();
            copied.wait(LONG).expect(&what);
            assert!(written.is_signalled().expect("no error"), "{what}: the copy was behind it");
            assert_words(&two, word, &what);
        }
    }
    drop((ones, twos));
    drop((one, two));
}

#[test]
fn every_wait_route_keeps_the_order() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let (_one, _attachments, ones) = shared(&rig, &devices);
    let (two, _others, twos) = shared(&rig, &devices);
    let large = BufferDescriptor::new(8 << 20).name("large");
    let large = engine.create_buffer(&devices[0], large).expect("a buffer");
    let attachments = devices.iter().map(|device| large.attach(device).expect("an attachment"));
    let attachments: Vec<_> = attachments.collect();
    let larges: Vec<_> = attachments
        .iter()
        .map(|attachment| attachment.map(Access::Write).expect("mapped"))
        .collect();
    for (from, writer) in devices.iter().enumerate() {
        for (to, reader) in devices.iter().enumerate() {
            let route = engine.wait_route(writer, reader).expect("devices of this engine");
            assert_eq!(route == WaitRoute::SameTimeline, from == to);
            let what = format!("{} to {}, by {route}", writer.name(), reader.name());
            let exported = engine.calls().made(Call::GetSemaphoreFd);
            let by_fd = matches!(route, WaitRoute::SyncFd | WaitRoute::OpaqueFd);
            // Each turn gives the writer work that takes a while, so that the reader has to wait. Later turns give
            // more work, until a wait was met; in the last one a gate holds the work.
            for (turn, load) in (0u32..).zip([8, 8, 8, 16, 32, 64, 0]) {
                let met = engine.calls().made(Call::GetSemaphoreFd) > exported;
                if turn >= 3 && (met || !by_fd) {
                    break;
                }
                // CAST: a handful of devices.
                let word = (from as u32) << 24 | (to as u32) << 16 | turn << 8 | 1;
                let gate = (load == 0).then(|| Gate::close(writer));
                for other in 0..load {
                    fill(engine, writer, &larges[from], other).expect("a submission");
                }
                fill(engine, writer, &ones[from], word).expect("a submission");
                copy(engine, reader, &ones[to], &twos[to]).expect("a submission");
                drop(gate);
                assert_words(&two, word, &what);
            }
            let exported = engine.calls().made(Call::GetSemaphoreFd) > exported;
            assert_eq!(exported, by_fd, "{what}");
        }
    }
}

#[test]
fn copies_and_moves_wait_on_the_device_not_in_the_caller() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let other = rig.open(&device.adapter().clone());
        let devices = [device, other];
        let (one, _attachments, ones) = shared(&rig, &devices);
        let (two, _others, _twos) = shared(&rig, &devices[1..]);
        // The routes and domains are known beforehand, so that no route has to be proved meanwhile.
        for domain in [DomainId::System, DomainId::Vram(devices[1].id())] {
            one.migrate(domain).expect("not held");
        }
        drop(ones);
        let ones = _attachments[0].map(Access::ReadWrite).expect("mapped");
        bytes::write(&one, 1);
        let gate = Gate::close(&devices[0]);
        fill(engine, &devices[0], &ones, 0x0404_0404).expect("a submission");
        let copied = engine.copy(&one, &two, CopyRegion::first(SIZE)).expect("a copy");
        one.migrate(DomainId::System).expect("a move behind the write");
        assert!(!copied.is_signalled().expect("no error"));
        gate.open();
        copied.wait(LONG).expect("the copy");
        assert_words(&two, 0x0404_0404, "the copy");
        assert_words(&one, 0x0404_0404, "the new backing");
        drop(ones);
    }
}

#[test]
fn a_stale_mapping_is_refused_or_remapped_in_one_call() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (buffer, attachments, mut mappings) = shared(&rig, &devices);
    buffer.migrate(DomainId::System).expect("not held");
    let made = engine.calls().made(Call::QueueSubmit);
    let error = fill(engine, &devices[1], &mappings[1], 1).expect_err("a stale mapping");
    assert!(matches!(error, Error::Stale { mapped: 0, current: 1, .. }), "{error}");
    assert_eq!(engine.calls().made(Call::QueueSubmit), made, "nothing was submitted");

    let mut calls = 0;
    let device = &devices[1];
    let fence = engine.submit_remapped(
        device,
        &mut [(&attachments[1], &mut mappings[1])],
        |submission, mappings| {
            calls += 1;
            record_fill(submission, device, mappings[0], 7)
        },
    );
    fence.expect("on the new backing").wait(LONG).expect("it runs");
    assert_eq!((calls, mappings[1].generation()), (2, 1));
    assert_words(&buffer, 7, "the new backing");
}

#[test]
fn a_move_between_declaration_and_lock_is_detected() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (buffer, _attachments, mappings) = shared(&rig, &devices);
    let error = engine
        .submit(&devices[0], |submission| {
            submission.write(&mappings[0])?;
            buffer.migrate(DomainId::System)?;
            Ok(())
        })
        .expect_err("moved since it was declared");
    assert!(matches!(error, Error::Stale { mapped: 0, current: 1, .. }), "{error}");
}

#[test]
fn an_unordered_use_skips_writers_and_delays_moves() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (buffer, _attachments, mappings) = shared(&rig, &devices);
    fill(engine, &devices[0], &mappings[0], 1).and_then(|fence| fence.wait(LONG)).expect("warm");
    let gate = Gate::close(&devices[0]);
    let written = fill(engine, &devices[0], &mappings[0], 2).expect("a submission");
    let beside = engine.submit(&devices[1], |submission| {
        submission.unordered(&mappings[1])?;
        Ok(())
    });
    // The other device's queue does not wait for the writer.
    beside.expect("a submission").wait(LONG).expect("it does not wait for the writer");
    assert!(!written.is_signalled().expect("no error"));
    gate.open();

    let gate = Gate::close(&devices[1]);
    let kept = engine
        .submit(&devices[1], |submission| submission.unordered(&mappings[1]).map(|_| ()))
        .expect("a submission");
    // Only a move waits for an unordered use.
    fill(engine, &devices[0], &mappings[0], 3).and_then(|fence| fence.wait(LONG)).expect("a write");
    buffer.migrate(DomainId::System).expect("a move is ordered behind it, without blocking");
    let attachment =
        buffer.attach_dynamic(&devices[0], Arc::new(IgnoresMoves)).expect("an attachment");
    let after = attachment.map(Access::Read).expect("mapped");
    let moved = engine
        .submit(&devices[0], |submission| submission.read(&after).map(|_| ()))
        .expect("a submission");
    assert!(!moved.is_signalled().expect("no error"), "the move waits");
    assert!(!kept.is_signalled().expect("no error"));
    gate.open();
    moved.wait(LONG).expect("after the move");
    drop(after);
}

#[test]
fn a_failed_submission_has_no_effect() {
    let mut rig = Rig::new();
    let devices = rig.twice_each();
    let (buffer, attachments, mappings) = shared(&rig, &devices);
    let calls = Arc::clone(rig.engine().calls());
    let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
    for call in
        [Call::QueueSubmit, Call::CreateSemaphore, Call::ImportSemaphoreFd, Call::GetSemaphoreFd]
    {
        for (index, device) in devices.iter().enumerate() {
            let next = (index + 1) % devices.len();
            let word = 0x1111_1111;
            let before = fill(rig.engine(), device, &mappings[index], word).expect("a submission");
            if call == Call::QueueSubmit {
                // Otherwise the failing call may be the submission of the semaphore behind it, which the bridge
                // replaces.
                before.wait(LONG).expect("it is over");
            }
            // Out of memory in a submission is retried a few times.
            let times = if call == Call::QueueSubmit { 4 } else { 1 };
            (1..=times).for_each(|nth| calls.fail_nth(call, nth, code));
            let failed = fill(rig.engine(), &devices[next], &mappings[next], 0x2222_2222);
            let met = !calls.clear_faults();
            let word = if failed.is_ok() { 0x2222_2222 } else { word };
            // A failure to create a semaphore does not fail the submission: the bridge replaces it.
            let must_fail = met && call == Call::QueueSubmit;
            assert!(
                !must_fail || failed.is_err() || next == index,
                "{call:?} on {}",
                device.name()
            );
            assert_words(&buffer, word, &format!("{call:?} on {}", device.name()));
        }
    }
    drop((mappings, attachments));
    drop(buffer);
    drop(devices);
    drop(rig.take_engine());
}

#[test]
fn a_submission_retries_after_out_of_memory() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let (buffer, _attachments, mappings) = shared(&rig, &devices);
    let calls = rig.engine().calls();
    for (index, device) in devices.iter().enumerate() {
        for code in [vk::Result::ERROR_OUT_OF_HOST_MEMORY, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY] {
            (1..=3).for_each(|nth| calls.fail_nth(Call::QueueSubmit, nth, code));
            // CAST: a handful of devices.
            let word = 0x0101_0101 * (index as u32 + 1);
            let fence = fill(rig.engine(), device, &mappings[index], word).expect("retried");
            assert!(!calls.clear_faults(), "all of them were met");
            fence.wait(LONG).expect("it ends");
            assert_words(&buffer, word, device.name());
        }
    }
}

#[test]
fn a_submission_accepts_only_mappings_of_its_device_and_access() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_buffer, attachments, mappings) = shared(&rig, &devices);
    let error = fill(engine, &devices[0], &mappings[1], 1).expect_err("of another device");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    let read_only = attachments[0].map(Access::Read).expect("mapped");
    let error = fill(engine, &devices[0], &read_only, 1).expect_err("opened for reading");
    assert!(matches!(error, Error::WrongAccess { .. }), "{error}");
    let other_engine = rig.external_engine();
    let theirs = rig.open_on(&other_engine, &devices[0]);
    let error = other_engine.submit(&devices[0], |_| Ok(())).expect_err("another engine's device");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    drop(theirs);
}

#[test]
fn a_submission_waits_for_host_work_at_most_the_timeout() {
    with_bound(|rig, bound| {
        let engine = rig.engine();
        let devices = rig.two_of_one_adapter();
        let (_buffer, _attachments, mappings) = besides(|| shared(rig, &devices));
        let (fence, signal) = engine.host_fence();
        let open = besides(|| mappings[0].begin_access(Access::Write).expect("no other access"));
        open.end(fence);
        let before = engine.stalls(StallCause::Work).waits;
        let begun = Instant::now();
        let error = fill(engine, &devices[1], &mappings[1], 1).expect_err("it has not signalled");
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(begun.elapsed() >= bound, "it waits for the whole timeout");
        let stalls = engine.stalls(StallCause::Work);
        let waits = stalls.waits - before;
        if waits == 0 {
            // The timeout expired before there was anything to wait for.
            too_short();
        }
        assert!(waits == 1 && !stalls.longest.is_zero(), "{stalls:?}");
        signal.fail("injected failure");
        let after = fill(engine, &devices[1], &mappings[1], 1).and_then(|after| after.wait(LONG));
        let check = |error| assert!(!Error::is_retryable(&error), "{error:?}");
        besides(|| after.map_or_else(check, |()| ()));
        wait_idle(&[&devices[0], &devices[1]]);
    });
}

#[test]
fn a_callback_runs_once_or_is_cancelled() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_buffer, _attachments, mappings) = shared(&rig, &devices);
    let (sender, receiver) = std::sync::mpsc::channel();
    let send = |what: &'static str| {
        let sender = sender.clone();
        move || sender.send(what).expect("the test listens")
    };
    let gate = Gate::close(&devices[0]);
    let fence = fill(engine, &devices[0], &mappings[0], 1).expect("a submission");
    let kept = engine.on_signal(&fence, send("kept")).expect("a callback");
    let cancelled =
        engine.on_signal(&fence, send("cancelled")).expect("a callback").expect("not yet");
    assert!(kept.is_some());
    assert!(engine.forget_callback(&fence, cancelled).expect("known"));
    assert!(receiver.try_recv().is_err(), "not yet");
    gate.open();
    assert_eq!(receiver.recv_timeout(LONG), Ok("kept"));
    assert!(!engine.forget_callback(&fence, cancelled).expect("known"), "only once");
    assert_eq!(engine.on_signal(&fence, send("late")).expect("called at once"), None);
    assert_eq!(receiver.try_recv(), Ok("late"));
}

/// Also one whose work has ended, while it waits for its turn behind another callback.
#[test]
fn a_callback_that_is_due_can_be_removed_until_it_is_called() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_buffer, _attachments, mappings) = shared(&rig, &devices);
    let (sender, receiver) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let gate = Gate::close(&devices[0]);
    let fence = fill(engine, &devices[0], &mappings[0], 1).expect("a submission");
    let first = {
        let sender = sender.clone();
        move || {
            sender.send("first").expect("the test listens");
            released.recv_timeout(LONG).expect("released");
        }
    };
    engine.on_signal(&fence, first).expect("a callback").expect("not yet");
    let send = |what: &'static str| {
        let sender = sender.clone();
        move || sender.send(what).expect("the test listens")
    };
    let removed = engine.on_signal(&fence, send("removed")).expect("a callback").expect("not yet");
    engine.on_signal(&fence, send("last")).expect("a callback").expect("not yet");
    gate.open();
    assert_eq!(receiver.recv_timeout(LONG), Ok("first"));
    assert!(engine.forget_callback(&fence, removed).expect("known"), "it is not called yet");
    release.send(()).expect("the callback listens");
    assert_eq!(receiver.recv_timeout(LONG), Ok("last"));
}

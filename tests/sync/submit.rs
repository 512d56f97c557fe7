//! Submissions that declare what they use: in order across devices without blocking whoever submits, and
//! never on a place that a buffer has left.

use std::sync::Arc;

use crate::common::bound::{too_short, with_bound};
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

struct Deaf;

impl Importer for Deaf {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

/// A buffer and a mapping of it on each device.
fn shared(rig: &Rig, devices: &[Device]) -> (SharedBuffer, Vec<Attachment>, Vec<Mapping>) {
    let buffer = rig
        .engine()
        .create_buffer(&devices[0], BufferDescriptor::new(SIZE).name("shared"))
        .expect("a buffer");
    let seats: Vec<_> = devices
        .iter()
        .map(|device| buffer.attach_dynamic(device, Arc::new(Deaf)).expect("a seat"))
        .collect();
    let mappings = seats.iter().map(|seat| seat.map(Access::ReadWrite).expect("mapped")).collect();
    (buffer, seats, mappings)
}

fn assert_words(buffer: &SharedBuffer, word: u32, what: &str) {
    let expected: Vec<u8> = word.to_ne_bytes().into_iter().cycle().take(SIZE as usize).collect();
    bytes::assert_same(&bytes::read(buffer), &expected, what);
}

#[test]
fn a_chain_through_all_devices_keeps_its_order_and_blocks_nobody() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let (one, _seats, ones) = shared(&rig, &devices);
    let (two, _others, twos) = shared(&rig, &devices);
    for (from, writer) in devices.iter().enumerate() {
        for (to, reader) in devices.iter().enumerate().filter(|(to, _)| *to != from) {
            let what = format!("{} to {}", writer.name(), reader.name());
            // CAST: a handful of devices.
            let word = 0x0101_0101 * (from * devices.len() + to + 1) as u32;
            let gate = Gate::close(writer);
            let written = fill(engine, writer, &ones[from], word).expect("a submission");
            let copied = copy(engine, reader, &ones[to], &twos[to]).expect("a submission");
            // Both were submitted while the writer's queue stands still: nobody was blocked, and neither
            // has happened.
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
fn every_way_of_waiting_that_is_there_keeps_the_order() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let (_one, _seats, ones) = shared(&rig, &devices);
    let (two, _others, twos) = shared(&rig, &devices);
    let large = BufferDescriptor::new(8 << 20).name("large");
    let large = engine.create_buffer(&devices[0], large).expect("a buffer");
    let seats = devices.iter().map(|device| large.attach(device).expect("a seat"));
    let seats: Vec<_> = seats.collect();
    let larges: Vec<_> =
        seats.iter().map(|seat| seat.map(Access::Write).expect("mapped")).collect();
    for (from, writer) in devices.iter().enumerate() {
        for (to, reader) in devices.iter().enumerate() {
            let route = engine.wait_route(writer, reader).expect("both are ours");
            assert_eq!(route == WaitRoute::SameTimeline, from == to);
            let what = format!("{} to {}, by {route}", writer.name(), reader.name());
            let exported = engine.calls().made(Call::GetSemaphoreFd);
            let by_fd = matches!(route, WaitRoute::SyncFd | WaitRoute::OpaqueFd);
            // Each turn gives the writer work that takes a while, so that there is something to wait for; more
            // and more of it, and more turns, until it was met with.
            for (turn, load) in (0u32..).zip([8, 8, 8, 16, 32, 64, 128, 256]) {
                let met = engine.calls().made(Call::GetSemaphoreFd) > exported;
                if turn >= 3 && (met || !by_fd) {
                    break;
                }
                // CAST: a handful of devices.
                let word = (from as u32) << 24 | (to as u32) << 16 | turn << 8 | 1;
                for other in 0..load {
                    fill(engine, writer, &larges[from], other).expect("a submission");
                }
                fill(engine, writer, &ones[from], word).expect("a submission");
                copy(engine, reader, &ones[to], &twos[to]).expect("a submission");
                assert_words(&two, word, &what);
            }
            let exported = engine.calls().made(Call::GetSemaphoreFd) > exported;
            assert_eq!(exported, by_fd, "{what}");
        }
    }
}

#[test]
fn copies_and_moves_wait_on_the_device_and_not_in_the_caller() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let other = rig.open(&device.adapter().clone());
        let devices = [device, other];
        let (one, _seats, ones) = shared(&rig, &devices);
        let (two, _others, _twos) = shared(&rig, &devices[1..]);
        // The routes and the places are known, so that nothing has to be proved meanwhile.
        for place in [DomainId::System, DomainId::Vram(devices[1].id())] {
            one.migrate(place).expect("nobody holds it");
        }
        drop(ones);
        let ones = _seats[0].map(Access::ReadWrite).expect("mapped");
        bytes::write(&one, 1);
        let gate = Gate::close(&devices[0]);
        fill(engine, &devices[0], &ones, 0x0404_0404).expect("a submission");
        let copied = engine.copy(&one, &two, CopyRegion::first(SIZE)).expect("a copy");
        one.migrate(DomainId::System).expect("a move behind it");
        assert!(!copied.is_signalled().expect("no error"));
        gate.open();
        copied.wait(LONG).expect("the copy");
        assert_words(&two, 0x0404_0404, "the copy");
        assert_words(&one, 0x0404_0404, "the new place");
        drop(ones);
    }
}

#[test]
fn an_old_mapping_is_an_error_with_both_generations_or_replaced_in_one_call() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (buffer, seats, mut mappings) = shared(&rig, &devices);
    buffer.migrate(DomainId::System).expect("nobody holds it");
    let made = engine.calls().made(Call::QueueSubmit);
    let error = fill(engine, &devices[1], &mappings[1], 1).expect_err("old");
    assert!(matches!(error, Error::Stale { mapped: 0, current: 1, .. }), "{error}");
    assert_eq!(engine.calls().made(Call::QueueSubmit), made, "nothing was submitted");

    let mut calls = 0;
    let device = &devices[1];
    let fence = engine.submit_remapped(
        device,
        &mut [(&seats[1], &mut mappings[1])],
        |submission, mappings| {
            calls += 1;
            record_fill(submission, device, mappings[0], 7)
        },
    );
    fence.expect("on the new place").wait(LONG).expect("it runs");
    assert_eq!((calls, mappings[1].generation()), (2, 1));
    assert_words(&buffer, 7, "the new place");
}

#[test]
fn a_move_between_declaring_and_locking_is_found() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (buffer, _seats, mappings) = shared(&rig, &devices);
    let error = engine
        .submit(&devices[0], |submission| {
            submission.write(&mappings[0])?;
            buffer.migrate(DomainId::System)?;
            Ok(())
        })
        .expect_err("it has moved since");
    assert!(matches!(error, Error::Stale { mapped: 0, current: 1, .. }), "{error}");
}

#[test]
fn who_orders_for_himself_waits_for_nobody_and_keeps_the_memory() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (buffer, _seats, mappings) = shared(&rig, &devices);
    fill(engine, &devices[0], &mappings[0], 1).and_then(|fence| fence.wait(LONG)).expect("warm");
    let gate = Gate::close(&devices[0]);
    let written = fill(engine, &devices[0], &mappings[0], 2).expect("a submission");
    let beside = engine.submit(&devices[1], |submission| {
        submission.unordered(&mappings[1])?;
        Ok(())
    });
    // The other device's queue runs on, past a writer.
    beside.expect("a submission").wait(LONG).expect("it does not wait for the writer");
    assert!(!written.is_signalled().expect("no error"));
    gate.open();

    let gate = Gate::close(&devices[1]);
    let kept = engine
        .submit(&devices[1], |submission| submission.unordered(&mappings[1]).map(|_| ()))
        .expect("a submission");
    // Nobody waits for it, except for a move.
    fill(engine, &devices[0], &mappings[0], 3).and_then(|fence| fence.wait(LONG)).expect("a write");
    buffer.migrate(DomainId::System).expect("a move is only ordered behind it");
    let seat = buffer.attach_dynamic(&devices[0], Arc::new(Deaf)).expect("a seat");
    let after = seat.map(Access::Read).expect("mapped");
    let moved = engine
        .submit(&devices[0], |submission| submission.read(&after).map(|_| ()))
        .expect("a submission");
    assert!(!moved.is_signalled().expect("no error"), "the move waits");
    assert!(!kept.is_signalled().expect("no error"));
    gate.open();
    moved.wait(LONG).expect("and then goes on");
    drop(after);
}

#[test]
fn a_submission_that_fails_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let devices = rig.twice_each();
    let (buffer, seats, mappings) = shared(&rig, &devices);
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
                // Else the one that fails may be that of a semaphore behind it, instead of which there is
                // the bridge.
                before.wait(LONG).expect("it is over");
            }
            // Memory that is missing for a submission is made free, a few times.
            let times = if call == Call::QueueSubmit { 4 } else { 1 };
            (1..=times).for_each(|nth| calls.fail_nth(call, nth, code));
            let failed = fill(rig.engine(), &devices[next], &mappings[next], 0x2222_2222);
            let met = !calls.clear_faults();
            let word = if failed.is_ok() { 0x2222_2222 } else { word };
            // A semaphore that cannot be had is no reason to fail: there is the bridge.
            let must_fail = met && call == Call::QueueSubmit;
            assert!(
                !must_fail || failed.is_err() || next == index,
                "{call:?} on {}",
                device.name()
            );
            assert_words(&buffer, word, &format!("{call:?} on {}", device.name()));
        }
    }
    drop((mappings, seats));
    drop(buffer);
    drop(devices);
    drop(rig.take_engine());
}

#[test]
fn a_driver_without_memory_for_a_submission_is_given_some() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let (buffer, _seats, mappings) = shared(&rig, &devices);
    let calls = rig.engine().calls();
    for (index, device) in devices.iter().enumerate() {
        for code in [vk::Result::ERROR_OUT_OF_HOST_MEMORY, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY] {
            (1..=3).for_each(|nth| calls.fail_nth(Call::QueueSubmit, nth, code));
            // CAST: a handful of devices.
            let word = 0x0101_0101 * (index as u32 + 1);
            let fence = fill(rig.engine(), device, &mappings[index], word).expect("in the end");
            assert!(!calls.clear_faults(), "all of them were met");
            fence.wait(LONG).expect("it ends");
            assert_words(&buffer, word, device.name());
        }
    }
}

#[test]
fn only_mappings_of_the_device_for_what_they_were_opened_for() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_buffer, seats, mappings) = shared(&rig, &devices);
    let error = fill(engine, &devices[0], &mappings[1], 1).expect_err("of another device");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    let read_only = seats[0].map(Access::Read).expect("mapped");
    let error = fill(engine, &devices[0], &read_only, 1).expect_err("opened for reading");
    assert!(matches!(error, Error::WrongAccess { .. }), "{error}");
    let stranger = rig.stranger();
    let theirs = rig.open_on(&stranger, &devices[0]);
    let error = stranger.submit(&devices[0], |_| Ok(())).expect_err("another engine's device");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    drop(theirs);
}

#[test]
fn work_of_the_host_is_waited_for_by_the_host_in_bounds() {
    with_bound(|rig, _| {
        let engine = rig.engine();
        let devices = rig.two_of_one_adapter();
        let (_buffer, _seats, mappings) = shared(rig, &devices);
        let (fence, signal) = engine.host_fence();
        let open = mappings[0].begin_access(Access::Write).expect("nobody else is at it");
        open.end(fence);
        let error = fill(engine, &devices[1], &mappings[1], 1).expect_err("it has not signalled");
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let stalls = engine.stalls(StallCause::Work);
        if stalls.waits == 0 {
            // The bound was over before there was anything to wait for.
            too_short();
        }
        assert!(stalls.waits == 1 && !stalls.longest.is_zero(), "{stalls:?}");
        signal.fail("the test says so");
        fill(engine, &devices[1], &mappings[1], 1)
            .and_then(|f| f.wait(LONG))
            .map_or_else(|error| assert!(!error.is_retryable(), "{error:?}"), |()| ());
        wait_idle(&[&devices[0], &devices[1]]);
    });
}

#[test]
fn callbacks_are_called_once_or_taken_back() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_buffer, _seats, mappings) = shared(&rig, &devices);
    let (sender, receiver) = std::sync::mpsc::channel();
    let send = |what: &'static str| {
        let sender = sender.clone();
        move || sender.send(what).expect("the test listens")
    };
    let gate = Gate::close(&devices[0]);
    let fence = fill(engine, &devices[0], &mappings[0], 1).expect("a submission");
    let kept = engine.on_signal(&fence, send("kept")).expect("a callback");
    let gone = engine.on_signal(&fence, send("gone")).expect("a callback").expect("not yet");
    assert!(kept.is_some());
    assert!(engine.forget_callback(&fence, gone).expect("known"));
    assert!(receiver.try_recv().is_err(), "not yet");
    gate.open();
    assert_eq!(receiver.recv_timeout(LONG), Ok("kept"));
    assert!(!engine.forget_callback(&fence, gone).expect("known"), "only once");
    assert_eq!(engine.on_signal(&fence, send("late")).expect("called at once"), None);
    assert_eq!(receiver.try_recv(), Ok("late"));
}

//! Routes that fail, hang or corrupt data while they are proved: each is refused with its evidence, the next one is
//! used, and no device of the application is touched. What says nothing about a route is tried again.

use std::time::{Duration, Instant};

use crate::common::bound::{besides, too_short, with_bound};
use crate::common::gate::Gate;
use crate::common::reach::{has_system_memory, host_route, is_integrated};
use crate::common::{Rig, assert_pattern, fill};
use ash::vk::Result as Code;
use peerbuf::device::{AdapterKind, Call, StoppedQueues};
use peerbuf::transfer::{Pass, RefusalReason, Side, Untried, Verdict, Working};
use peerbuf::{BufferDescriptor, Device, Error, HandleType, Placement, Route};

const HOUR: Duration = Duration::from_secs(3600);

/// How often what is measured is measured again.
const TRIES: u32 = 20;

fn reason(verdict: &Verdict, route: Route) -> RefusalReason {
    let all = verdict.refused.iter().chain(&verdict.untried);
    let mut all = all.filter(|refusal| refusal.route == route);
    all.next().unwrap_or_else(|| panic!("{route} works in {verdict:?}")).reason.clone()
}

fn works(verdict: &Verdict, route: Route) -> bool {
    verdict.working.iter().any(|working| working.route == route)
}

/// Whether a route was refused because its work took as long as the timeout, where no queue was stopped.
fn is_late(verdict: &Verdict) -> bool {
    verdict.refused.iter().any(|refusal| matches!(refusal.reason, RefusalReason::Hung { .. }))
}

/// The route over pages of the host between two devices, found without a fault.
fn host_route_of(rig: &Rig, first: &Device, second: &Device) -> Route {
    let verdict = rig.engine().route(first, second).expect("a verdict");
    rig.engine().forget_routes();
    host_route(&verdict).expect("both import pages of the host")
}

/// Shares a new buffer of `first` with `second`, and checks its bytes.
fn share(rig: &Rig, first: &Device, second: &Device) {
    let buffer = rig.engine().create_buffer(first, BufferDescriptor::new(4096)).expect("a buffer");
    let near = buffer.attach(first).expect("attached");
    let far = buffer.attach(second).expect("attached by a route that works");
    fill(&near, 6);
    assert_pattern(&far, 6, "the other device");
}

#[test]
fn a_route_that_loses_the_device_is_refused_and_the_application_keeps_its_devices() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let fault = (HandleType::OpaqueFd, Code::ERROR_DEVICE_LOST);
    rig.engine().calls().fail_submissions_with_import(Some(fault));
    share(&rig, &first, &second);
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    let refused = reason(&verdict, Route::OpaqueFd);
    let RefusalReason::DeviceLost { side: Side::Second, call, control } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(call, "vkQueueSubmit");
    assert!(control > Duration::ZERO, "a submission without the import has ended");
    assert!(host_route(&verdict).is_some() && verdict.untried.is_empty(), "{verdict:?}");
    assert!(!first.is_lost() && !second.is_lost(), "routes are tried on other devices");
    // A device opened anew is not lost for it again.
    let third = rig.open(&second.adapter().clone());
    let before = rig.made();
    let again = rig.engine().route(&first, &third).expect("a verdict");
    assert_eq!(reason(&again, Route::OpaqueFd), refused);
    assert_eq!(rig.made().since(before), [], "the refusal is remembered");
}

#[test]
fn a_route_whose_submissions_are_out_of_memory_is_refused_and_evicts_nothing() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let other = rig.engine().create_buffer(&second, BufferDescriptor::new(4096)).expect("a buffer");
    let generation = other.generation();
    for code in [Code::ERROR_OUT_OF_HOST_MEMORY, Code::ERROR_OUT_OF_DEVICE_MEMORY] {
        rig.engine().calls().fail_submissions_with_import(Some((HandleType::OpaqueFd, code)));
        rig.engine().forget_routes();
        share(&rig, &first, &second);
        let verdict = rig.engine().route(&first, &second).expect("a verdict");
        let refused = reason(&verdict, Route::OpaqueFd);
        let RefusalReason::SubmissionFailed { side: Side::Second, code: found, .. } = refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!(found, code);
        assert_eq!(other.generation(), generation, "no other buffer makes room");
    }
}

#[test]
fn a_shortage_of_one_submission_refuses_nothing() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let expected = rig.engine().route(&first, &second).expect("a verdict");
    for nth in 1..=20 {
        rig.engine().forget_routes();
        rig.engine().calls().fail_nth(Call::QueueSubmit, nth, Code::ERROR_OUT_OF_HOST_MEMORY);
        // The first submissions are controls: then nothing is known.
        if let Ok(verdict) = rig.engine().route(&first, &second) {
            let found: Vec<_> = verdict.refused.iter().map(|refusal| refusal.route).collect();
            let before: Vec<_> = expected.refused.iter().map(|refusal| refusal.route).collect();
            // What comes after the failure may be untried.
            let is_known = |route: &Route| before.contains(route);
            assert!(found.iter().all(is_known), "no. {nth}: {verdict:?}");
        }
        rig.engine().calls().clear_faults();
    }
}

#[test]
fn a_route_that_hangs_is_refused_and_all_routes_have_one_deadline() {
    with_bound(|rig, bound| {
        let [first, second] = rig.two_of_one_adapter();
        let calls = rig.engine().calls();
        calls.stop_queues(Some(StoppedQueues::WithImport(HandleType::OpaqueFd)));
        let start = Instant::now();
        let Ok(verdict) = rig.engine().route(&first, &second) else { too_short() };
        // Not the time of a call: the sum of many waits, each of which could take as long as the bound.
        if start.elapsed() > bound * 3 {
            too_short();
        }
        let refused = match reason(&verdict, Route::OpaqueFd) {
            RefusalReason::NotProvedYet(_) => too_short(),
            // Its queues are not stopped: the machine was late.
            RefusalReason::Hung { side: Side::First, .. } => too_short(),
            other => other,
        };
        let RefusalReason::Hung { side: Side::Second, after, .. } = refused else {
            panic!("{refused:?}")
        };
        assert!(after <= bound, "{after:?}");
        if host_route(&verdict).is_none() {
            too_short();
        }
        besides(|| share(rig, &first, &second));
        // Once its work is over, nothing of it is left, and it may be tried again.
        rig.engine().calls().stop_queues(None);
        rig.engine().forget_routes();
        let verdict = besides(|| rig.engine().route(&first, &second).expect("a verdict"));
        if !verdict.untried.is_empty() || is_late(&verdict) {
            too_short();
        }
        assert!(works(&verdict, Route::OpaqueFd), "{verdict:?}");
    });
}

#[test]
fn a_busy_device_leaves_routes_unproved_and_a_later_attach_proves_them() {
    with_bound(|rig, bound| {
        let [first, second] = rig.two_of_one_adapter();
        let engine = rig.engine();
        engine.calls().set_clock(Some(HOUR));
        engine.calls().stop_queues(Some(StoppedQueues::OfProbes));
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
        let near = buffer.attach(&first).expect("a device reaches its own memory unproved");
        let start = Instant::now();
        let error = buffer.attach(&second).expect_err("no route is known");
        if start.elapsed() > bound * 3 {
            too_short();
        }
        let Error::RoutesUnproved { untried, .. } = &error else { panic!("{error:?}") };
        let busy = |reason: &RefusalReason| {
            matches!(reason, RefusalReason::NotProvedYet(Untried::Busy { .. }))
        };
        assert!(untried.iter().any(|refusal| busy(&refusal.reason)), "{error:?}");
        assert!(error.is_retryable(), "{error}");
        let error = engine.route(&first, &second).expect_err("no route is known");
        assert!(matches!(error, Error::RoutesUnproved { .. }), "{error:?}");
        // Within the delay a busy device is not asked again.
        let before = rig.made();
        buffer.attach(&second).expect_err("no route is known");
        assert_eq!(rig.made().since(before), []);
        engine.calls().stop_queues(None);
        engine.calls().set_clock(Some(HOUR * 2));
        let far = match buffer.attach(&second) {
            Err(Error::RoutesUnproved { .. } | Error::Unreachable { .. }) => too_short(),
            other => other.expect("routes are proved now"),
        };
        besides(|| {
            fill(&near, 3);
            assert_pattern(&far, 3, "the other device");
        });
        let verdict = engine.route(&first, &second).expect("a verdict");
        if !verdict.untried.is_empty() || is_late(&verdict) {
            too_short();
        }
        assert!(works(&verdict, Route::OpaqueFd), "nothing is condemned: {verdict:?}");
    });
}

#[test]
fn an_attach_waits_for_a_busy_device_once() {
    let opens = || {
        let rig = Rig::with(|descriptor| descriptor.timeout(Duration::from_millis(400)));
        let [first, second] = rig.two_of_one_adapter();
        let engine = rig.engine();
        engine.calls().stop_queues(Some(StoppedQueues::OfProbes));
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
        let before = engine.calls().made(Call::CreateDevice);
        buffer.attach(&second).expect_err("no route is known");
        let opened = engine.calls().made(Call::CreateDevice) - before;
        engine.calls().stop_queues(None);
        // Devices that are opened for proofs: of both directions, and of the second device and itself. A GPU has more
        // memory to ask for: system memory of its own, or its whole memory is that.
        let more = if is_integrated(&first) { 2 } else { u64::from(has_system_memory(&first)) };
        (opened, 5 + more)
    };
    // The delay before the next try of a busy device may be over on a slow machine, but not each time.
    let mut seen = vec![];
    while seen.last().is_none_or(|(opened, expected)| opened > expected) {
        assert!(seen.len() < 20, "it is asked again for the next route: {seen:?} devices");
        seen.push(opens());
    }
}

#[test]
fn routes_are_proved_while_the_applications_queues_are_held_up() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let _gates = [Gate::close(&first), Gate::close(&second)];
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    assert!(works(&verdict, Route::OpaqueFd) && verdict.untried.is_empty(), "{verdict:?}");
}

#[test]
fn a_device_without_memory_leaves_a_route_unproved_and_it_is_proved_later() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let engine = rig.engine();
    engine.calls().set_clock(Some(HOUR));
    for nth in 1..=100 {
        engine.calls().fail_nth(Call::AllocateMemory, nth, Code::ERROR_OUT_OF_DEVICE_MEMORY);
    }
    let full = engine.route(&first, &second).expect("memory that is not the device's is shared");
    engine.calls().clear_faults();
    let why = reason(&full, Route::OpaqueFd);
    let RefusalReason::NotProvedYet(Untried::NoMemory { side: Side::First, bytes, code }) = why
    else {
        panic!("{why:?}")
    };
    assert!(bytes > 0 && code == Code::ERROR_OUT_OF_DEVICE_MEMORY, "{bytes} {code:?}");
    assert!(host_route(&full).is_some(), "{full:?}");
    engine.calls().set_clock(Some(HOUR * 2));
    let later = engine.route(&first, &second).expect("a verdict");
    engine.forget_routes();
    let anew = engine.route(&first, &second).expect("a verdict");
    let routes =
        |verdict: &Verdict| -> Vec<_> { verdict.working.iter().map(|w| w.route).collect() };
    assert_eq!(routes(&later), routes(&anew));
    assert!(works(&later, Route::OpaqueFd) && later.untried.is_empty(), "{later:?}");
}

#[test]
fn memory_that_only_exports_lack_refuses_the_route() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    // The exportable allocation fails and the plain one succeeds, twice. On a GPU a larger one comes first, and its
    // failure says nothing.
    let is_software = first.adapter().kind() == AdapterKind::Cpu;
    for &nth in if is_software { &[1, 3][..] } else { &[1, 2, 4] } {
        let code = Code::ERROR_OUT_OF_DEVICE_MEMORY;
        rig.engine().calls().fail_nth(Call::AllocateMemory, nth, code);
    }
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    rig.engine().calls().clear_faults();
    let refused = reason(&verdict, Route::OpaqueFd);
    assert!(matches!(refused, RefusalReason::NoExportableMemory { .. }), "{refused:?}");
}

#[test]
fn without_another_device_routes_are_unproved_and_a_later_attach_proves_them() {
    for code in [Code::ERROR_TOO_MANY_OBJECTS, Code::ERROR_INITIALIZATION_FAILED] {
        let rig = Rig::new();
        let [first, second] = rig.two_of_one_adapter();
        let engine = rig.engine();
        engine.calls().set_clock(Some(HOUR));
        for nth in 1..=10 {
            engine.calls().fail_nth(Call::CreateDevice, nth, code);
        }
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
        let error = buffer.attach(&second).expect_err("no route is known");
        let Error::RoutesUnproved { untried, .. } = &error else { panic!("{error:?}") };
        let none = |reason: &RefusalReason| {
            matches!(reason, RefusalReason::NotProvedYet(Untried::NoProbeDevice { .. }))
        };
        assert!(untried.iter().all(|refusal| none(&refusal.reason)), "{error:?}");
        assert!(error.to_string().contains("vkCreateDevice"), "{error}");
        engine.calls().clear_faults();
        engine.calls().set_clock(Some(HOUR * 2));
        buffer.attach(&second).expect("routes are proved now");
    }
}

#[test]
fn system_memory_that_was_not_tried_is_used_and_the_first_use_proves_it() {
    let rig = Rig::new();
    let [first, _] = rig.two_of_one_adapter();
    let engine = rig.engine();
    engine.calls().set_clock(Some(HOUR));
    for nth in 1..=10 {
        engine.calls().fail_nth(Call::CreateDevice, nth, Code::ERROR_INITIALIZATION_FAILED);
    }
    let descriptor = BufferDescriptor::new(4096).placement(Placement::System);
    let attached = |what: &str| {
        let buffer = engine.create_buffer(&first, descriptor.clone()).expect(what);
        buffer.attach(&first)
    };
    let unproved = attached("nothing is known");
    engine.calls().clear_faults();
    if has_system_memory(&first) {
        unproved.expect("a device reaches its own memory unproved");
        return;
    }
    let error = unproved.expect_err("no route is known");
    assert!(matches!(error, Error::RoutesUnproved { .. }), "{error:?}");
    // Memory of the same kinds is allocated all the same, and its first use after the delay proves it.
    engine.calls().set_clock(Some(HOUR * 2));
    attached("nothing is refused").expect("proved now");
    let verdict = engine.route(&first, &first).expect("a verdict");
    assert!(host_route(&verdict).is_some() && verdict.untried.is_empty(), "{verdict:?}");
}

#[test]
fn a_queue_for_moves_that_sees_other_memory_refuses_the_route() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let host = host_route_of(&rig, &first, &second);
    rig.engine().calls().set_blind_moves(true);
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    for route in [Route::OpaqueFd, host] {
        let refused = reason(&verdict, route);
        let RefusalReason::WrongBytes { pass: Pass::Moves, words, wrong, .. } = refused else {
            panic!("{refused:?}")
        };
        assert!(wrong > 0 && wrong <= words, "{wrong} of {words}");
        let trial = verdict.trials.iter().find(|trial| trial.route == route).expect("its evidence");
        assert_eq!(trial.passes, [Pass::FirstToSecond, Pass::SecondToFirst]);
    }
    assert_eq!(verdict.route, Route::Staged);
}

#[test]
fn a_host_whose_writes_devices_do_not_see_refuses_the_route() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let host = host_route_of(&rig, &first, &second);
    rig.engine().calls().set_blind_host(true);
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    let refused = reason(&verdict, host);
    assert!(
        matches!(refused, RefusalReason::WrongBytes { pass: Pass::HostToDevices, .. }),
        "{refused:?}"
    );
    if works(&verdict, Route::OpaqueFd) {
        // The host does not map this device's memory.
        return share(&rig, &first, &second);
    }
    let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
    let error = buffer.attach(&second).expect_err("no route works");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[test]
fn memory_that_the_host_cannot_map_is_proved_without_the_host() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    rig.engine().calls().set_unmappable_device_memory(true);
    rig.engine().calls().set_blind_host(true);
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    assert!(works(&verdict, Route::OpaqueFd), "{verdict:?}");
    let trial = verdict.trials.iter().find(|trial| trial.route == Route::OpaqueFd);
    let passes = trial.map(|trial| trial.passes.as_slice()).unwrap_or_default();
    assert_eq!(passes, [Pass::FirstToSecond, Pass::SecondToFirst, Pass::Moves]);
}

#[test]
fn a_route_that_makes_the_exporter_slow_counts_as_system_memory() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    rig.engine().calls().set_dragging_imports(true);
    // A machine whose load changes meanwhile may measure sixteen passes as fast as one: then it is measured again.
    let dragged = (0..TRIES).find_map(|_| {
        rig.engine().forget_routes();
        let verdict = rig.engine().route(&first, &second).expect("a verdict");
        let opaque = verdict.working.iter().find(|w| w.route == Route::OpaqueFd);
        let opaque = *opaque.expect("it works");
        let speed = opaque.exporter.expect("the exporter was measured");
        assert_eq!(opaque.drags_out(), speed.is_dragged(), "{speed:?}");
        let mut measured = verdict.working.iter().filter(|working| working.exporter.is_some());
        measured.all(Working::drags_out).then_some((verdict, speed))
    });
    let (verdict, speed) = dragged.expect("the exporter is found to be slow");
    assert!(speed.after > speed.before * 2, "{speed:?}");
    // Among the others the fastest may win.
    let in_vram = [Route::DmaBuf, Route::OpaqueFd, Route::Staged];
    assert!(!in_vram.contains(&verdict.route), "{verdict:?}");
    // A buffer that may be in system memory is shared there.
    share(&rig, &first, &second);
    let vram = BufferDescriptor::new(4096).placement(Placement::Vram);
    let buffer = rig.engine().create_buffer(&first, vram).expect("a buffer");
    let error = buffer.attach(&second).expect_err("it may not leave the first device's memory");
    let Error::Unreachable { refused, .. } = &error else { panic!("{error:?}") };
    let drags = |reason: &RefusalReason| matches!(reason, RefusalReason::DragsOut { .. });
    assert!(refused.iter().any(|refusal| drags(&refusal.reason)), "{error:?}");
}

#[test]
fn software_devices_are_never_found_to_move_memory_out() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    assert!(verdict.working.iter().all(|working| working.exporter.is_none()), "{verdict:?}");
}

#[test]
fn proving_all_pairs_opens_each_device_once() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let before = rig.engine().calls().made(Call::CreateDevice);
    rig.engine().prove_routes(&devices).expect("proved");
    let opened = rig.engine().calls().made(Call::CreateDevice) - before;
    assert_eq!(opened, devices.len() as u64);
    let before = rig.made();
    for from in &devices {
        for to in &devices {
            rig.engine().route(from, to).expect("a verdict");
        }
    }
    assert_eq!(rig.made().since(before), [], "all is known");
}

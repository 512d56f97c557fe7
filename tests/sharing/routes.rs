//! Routes: a route works if data has passed through it; every other route has a reason for its refusal.

use crate::common::{self, Rig, assert_pattern, fill};
use peerbuf::transfer::{Pass, RefusalReason};
use peerbuf::{BufferDescriptor, CopyRegion, Device, Placement, Route};

fn refusal(rig: &Rig, from: &Device, to: &Device, route: Route) -> Option<RefusalReason> {
    let verdict = rig.engine().route(from, to).expect("a verdict");
    verdict.refused.iter().find(|refusal| refusal.route == route).map(|r| r.reason.clone())
}

#[test]
fn every_ordered_pair_has_a_verified_route_and_a_verdict_on_every_other() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for from in &devices {
        for to in devices.iter().filter(|to| *to != from) {
            let verdict = rig.engine().route(from, to).expect("a verdict");
            let what = format!("{} to {}: {verdict:?}", from.name(), to.name());
            assert!(verdict.verified && verdict.probe_bytes > 0, "{what}");
            assert!(verdict.route.is_shared(), "{what}");
            assert!(verdict.working.iter().any(|w| w.route == verdict.route), "{what}");
            for &route in Route::LADDER {
                let works = verdict.working.iter().filter(|w| w.route == route).count();
                let refused = verdict.refused.iter().filter(|r| r.route == route).count();
                assert_eq!(works + refused, 1, "{route} in {what}");
            }
            assert!(verdict.refused.iter().all(|r| !r.reason.to_string().is_empty()), "{what}");
            assert!(verdict.working.iter().any(|w| w.route == Route::Staged), "{what}");
        }
    }
}

#[test]
fn a_device_reaches_itself() {
    let rig = Rig::new();
    for device in rig.all() {
        let verdict = rig.engine().route(&device, &device).expect("a verdict");
        assert!(verdict.verified, "{verdict:?}");
        assert_eq!(verdict.route, Route::Local, "{verdict:?}");
    }
}

#[test]
fn an_opaque_fd_is_refused_by_another_driver_and_the_reason_names_both() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (from, to) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let reason = refusal(&rig, from, to, Route::OpaqueFd).expect("it is refused");
        let text = reason.to_string();
        let RefusalReason::OtherDriver { theirs, ours, .. } = reason else { panic!("{reason}") };
        let uuids = [from, to].map(|device| device.adapter().driver_uuid());
        assert_eq!([theirs, ours], uuids);
        let [first, second] = uuids;
        let named = format!("the first device's is {first}, the second's {second}");
        assert!(text.ends_with(&named), "{text}");
    }
}

#[test]
fn a_handle_type_without_export_is_refused_untried() {
    let rig = Rig::new();
    let Some(device) = rig.swiftshader() else { return };
    let other = rig.open(&device.adapter().clone());
    let reason = refusal(&rig, &device, &other, Route::DmaBuf).expect("it is refused");
    assert!(matches!(reason, RefusalReason::NotExportable { .. }), "{reason}");
}

#[test]
fn an_import_with_wrong_bytes_is_detected_and_another_route_taken() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    rig.engine().calls().set_lying_imports(true);
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    let reason =
        refusal(&rig, &first, &second, Route::OpaqueFd).expect("the import shows wrong bytes");
    let RefusalReason::WrongBytes { pass: Pass::FirstToSecond, words, wrong, first_wrong, .. } =
        reason
    else {
        panic!("{reason}")
    };
    let trial = verdict.trials.iter().find(|trial| trial.route == Route::OpaqueFd);
    assert_eq!(Some(words * 4), trial.map(|trial| trial.bytes));
    assert!(wrong == words && first_wrong == 0, "{wrong} of {words}, first {first_wrong}");
    assert!(verdict.verified, "{verdict:?}");
    assert_ne!(verdict.route, Route::OpaqueFd);
    // Buffers use the route that works.
    let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
    let (near, far) =
        (buffer.attach(&first).expect("attached"), buffer.attach(&second).expect("another route"));
    fill(&near, 6);
    assert_pattern(&far, 6, "the other route");
    let used = buffer.provider().name();
    assert!(verdict.working.iter().any(|w| w.route.name() == used), "{used}: {verdict:?}");
}

#[test]
fn forgetting_routes_proves_a_refused_route_again() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    rig.engine().calls().set_lying_imports(true);
    let wrong = rig.engine().route(&first, &second).expect("a verdict");
    rig.engine().calls().set_lying_imports(false);
    assert_eq!(rig.engine().route(&first, &second).expect("a verdict"), wrong, "cached");
    rig.engine().forget_routes();
    let proved = rig.engine().route(&first, &second).expect("a verdict");
    assert!(proved.working.iter().any(|w| w.route == Route::OpaqueFd), "{proved:?}");
}

#[test]
fn a_route_is_proved_once() {
    let rig = Rig::new();
    let devices = rig.all();
    let other = rig.open(&devices[0].adapter().clone());
    for (from, to) in [(&devices[0], &other), (&devices[0], &devices[devices.len() - 1])] {
        let first = rig.engine().route(from, to).expect("a verdict");
        let before = rig.made();
        let second = rig.engine().route(from, to).expect("a verdict");
        assert!(std::sync::Arc::ptr_eq(&first, &second));
        assert_eq!(rig.made().since(before), [], "no call is made again");
    }
    // A verdict on two adapters holds for all their devices.
    let third = rig.open(&devices[0].adapter().clone());
    let known = rig.engine().route(&devices[0], &other).expect("a verdict");
    let same = rig.engine().route(&other, &third).expect("a verdict");
    assert!(std::sync::Arc::ptr_eq(&known, &same), "the same pair of adapters");
}

#[test]
fn staged_copies_work_between_every_two_devices() {
    let rig = Rig::new();
    let devices = rig.all();
    for from in &devices {
        for to in devices.iter().filter(|to| *to != from) {
            let [source, target] = [from, to].map(|device| {
                let vram = BufferDescriptor::new(10_000).placement(Placement::Vram);
                rig.engine().create_buffer(device, vram).expect("a buffer")
            });
            fill(&source.attach(from).expect("attached"), 77);
            rig.engine().copy(&source, &target, CopyRegion::first(10_000)).expect("a copy");
            assert_pattern(&target.attach(to).expect("attached"), 77, "staged");
        }
    }
}

#[test]
fn probing_leaves_nothing_in_use() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let before = common::alive(rig.engine().live());
    for from in &devices {
        for to in &devices {
            rig.engine().route(from, to).expect("a verdict");
        }
    }
    assert_eq!(common::alive(rig.engine().live()), before);
}

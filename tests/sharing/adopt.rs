//! Adopted devices: an application's own instance, device and queue share buffers like opened ones.
#![expect(unsafe_code, reason = "an application's raw Vulkan objects")]

use std::sync::atomic::Ordering;

use crate::common::app::{App, FAMILY};
use crate::common::{LONG, Rig, assert_pattern, bytes, fill};
use ash::{ext, khr};
use peerbuf::device::QueueLock;
use peerbuf::{
    AdapterSelector, BufferDescriptor, CopyRegion, Device, Engine, EngineDescriptor, Error,
    Placement, Route,
};

/// Checks that bytes written by either of two devices of one engine are seen by the other.
fn check_sharing(engine: &Engine, home: &Device, peer: &Device) {
    let buffer = engine.create_buffer(home, BufferDescriptor::new(4096)).expect("a buffer");
    let (near, far) =
        (buffer.attach(home).expect("attached"), buffer.attach(peer).expect("attached"));
    fill(&near, 1);
    assert_pattern(&far, 1, "from home");
    fill(&far, 2);
    assert_pattern(&near, 2, "to home");
    bytes::write(&buffer, 3);
    bytes::assert_sequence(&buffer, 3, "the host");
}

#[test]
fn an_adopted_device_shares_with_opened_ones() {
    let rig = Rig::new();
    for adapter in rig.engine().adapters() {
        let app = App::new(&rig, adapter, |_| true);
        {
            let engine = rig.external_engine();
            let adopted = app.join(&rig, &engine);
            assert_eq!(adopted.adapter().device_uuid(), adapter.device_uuid());
            assert_eq!(adopted.queue_family(), FAMILY);
            for selector in (0..engine.adapters().len()).map(AdapterSelector::Index) {
                let other = engine.adapter(selector).expect("the adapter");
                let opened = engine.open_device(other).expect("the adapter opens");
                rig.know(&opened);
                check_sharing(&engine, &adopted, &opened);
                check_sharing(&engine, &opened, &adopted);
            }
        }
        assert!(app.lock.taken.load(Ordering::Relaxed) > 0, "the queue was used under its lock");
    }
}

#[test]
fn two_applications_share_without_an_opened_device() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let apps = [&lavapipe, &swiftshader].map(|d| App::new(&rig, d.adapter(), |_| true));
    let engine = Engine::without_instance(&EngineDescriptor::new().timeout(LONG));
    assert!(engine.adapters().is_empty());
    let [a, b] = [&apps[0], &apps[1]].map(|app| app.join(&rig, &engine));
    assert_eq!(engine.devices(), [a.clone(), b.clone()]);
    check_sharing(&engine, &a, &b);
    check_sharing(&engine, &b, &a);
    drop((a, b, engine));
    drop(apps);
}

#[test]
fn the_application_submits_to_its_queue_concurrently() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let app = App::new(&rig, device.adapter(), |_| true);
    {
        let engine = rig.external_engine();
        let adopted = app.join(&rig, &engine);
        let before = app.lock.taken.load(Ordering::Relaxed);
        adopted.with_queue(|queue| {
            // SAFETY: the queue is the application's own, which `with_queue` has locked.
            unsafe { app.device.queue_wait_idle(queue) }.expect("the device is not lost");
        });
        assert_eq!(app.lock.taken.load(Ordering::Relaxed), before + 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    // SAFETY: the family and the queue exist.
                    let queue = unsafe { app.device.get_device_queue(FAMILY, 0) };
                    app.lock.locked(&mut || {
                        // SAFETY: the queue is the application's own and is locked.
                        unsafe { app.device.queue_wait_idle(queue) }.expect("not lost");
                    });
                }
            });
            let buffer =
                engine.create_buffer(&adopted, BufferDescriptor::new(4096)).expect("a buffer");
            let attachment = buffer.attach(&adopted).expect("attached");
            for seed in 0..50 {
                fill(&attachment, seed);
                assert_pattern(&attachment, seed, "concurrently with the application");
            }
        });
    }
}

#[test]
fn missing_extensions_limit_only_the_device_without_them() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    // This application can import host pointers, but no fds.
    let app = App::new(&rig, device.adapter(), |name| name == ext::external_memory_host::NAME);
    let bare = App::new(&rig, device.adapter(), |_| false);
    for poor_first in [true, false] {
        let engine = rig.external_engine();
        let opened = [1, 2].map(|_| rig.open_on(&engine, &device));
        let (poor, isolated) = (app.join(&rig, &engine), bare.join(&rig, &engine));
        let ask = |to: &Device| engine.route(&opened[0], to).expect("a verdict");
        let (to_poor, to_twin) = if poor_first {
            let first = ask(&poor);
            (first, ask(&opened[1]))
        } else {
            let twin = ask(&opened[1]);
            (ask(&poor), twin)
        };
        let works = |verdict: &peerbuf::Verdict, route| {
            verdict.working.iter().any(|working| working.route == route)
        };
        assert!(works(&to_twin, Route::OpaqueFd), "{to_twin:?}");
        assert!(!works(&to_poor, Route::OpaqueFd), "{to_poor:?}");
        assert!(to_poor.verified, "{to_poor:?}");
        check_sharing(&engine, &opened[0], &poor);
        check_sharing(&engine, &poor, &opened[0]);
        // The device without extensions cannot import or export. It must report that.
        let buffer =
            engine.create_buffer(&opened[0], BufferDescriptor::new(4096)).expect("a buffer");
        let error = buffer.attach(&isolated).expect_err("it cannot import anything");
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        let error = engine.create_buffer(&isolated, BufferDescriptor::new(4096));
        assert!(matches!(error, Err(Error::Unsupported { .. })), "{error:?}");
    }
}

#[test]
fn an_adopted_device_takes_part_in_copies() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let app = App::new(&rig, lavapipe.adapter(), |name| name != khr::external_semaphore_fd::NAME);
    let engine = rig.external_engine();
    let ours = rig.open_on(&engine, &swiftshader);
    let theirs = app.join(&rig, &engine);
    for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
        let [source, target] = [from, to].map(|device| {
            let vram = BufferDescriptor::new(5000).placement(Placement::Vram);
            engine.create_buffer(device, vram).expect("a buffer")
        });
        bytes::write(&source, 5);
        engine.copy(&source, &target, CopyRegion::first(5000)).expect("a copy");
        bytes::assert_sequence(&target, 5, "staged");
    }
    drop((ours, theirs, engine));
    drop(app);
}

//! What cannot be: each is a sentence that says what to do.
#![expect(unsafe_code, reason = "one device for two libraries")]

use std::sync::{Arc, mpsc};

use peerbuf::image::{Fourcc, ImageUsage};
use peerbuf::{Access, BufferDescriptor, ImageDescriptor, Refault};
use peerbuf_wgpu::{Error, Guest, GuestBuffer, GuestDescriptor, GuestTexture};

use crate::rig::{LONG, Rig, USES, on_each_device, open};

#[test]
fn formats_that_wgpu_does_not_have_are_named() {
    on_each_device(|rig| {
        for (name, part) in [(b"NV12", "no texture format for NV12"), (b"RG16", "RG16")] {
            let described = ImageDescriptor::new(Fourcc::new(*name), 64, 64).usage(USES);
            let image = rig.engine.create_image(rig.guest().device(), described).expect("an image");
            let Ok(attachment) = image.attach(rig.guest().device()) else { continue };
            let error = GuestTexture::new(rig.guest(), attachment).expect_err("no such format");
            assert!(matches!(error, Error::Format { .. }), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    });
}

#[test]
fn uses_that_a_shared_buffer_cannot_have_are_named() {
    on_each_device(|rig| {
        let (buffer, _) = rig.buffer();
        for usages in [
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            wgpu::BufferUsages::QUERY_RESOLVE,
            wgpu::BufferUsages::empty(),
        ] {
            let attachment = buffer.attach(rig.guest().device()).expect("attached");
            let error = GuestBuffer::new(rig.guest(), attachment, usages).expect_err("refused");
            assert!(matches!(error, Error::BufferUsage(_)), "{error}");
        }
    });
}

#[test]
fn attachments_of_other_devices_and_for_other_uses_are_named() {
    on_each_device(|rig| {
        let (image, _texture) = rig.image();
        let attachment = image.attach(rig.other()).expect("attached");
        let error = GuestTexture::new(rig.guest(), attachment).expect_err("another device");
        assert!(matches!(error, Error::OtherDevice { .. }), "{error}");
        let buffer = rig.engine.create_buffer(rig.other(), BufferDescriptor::new(64));
        let buffer = buffer.expect("a buffer");
        let attachment = buffer.attach(rig.other()).expect("attached");
        let error = GuestBuffer::new(rig.guest(), attachment, wgpu::BufferUsages::COPY_SRC);
        assert!(matches!(error, Err(Error::OtherDevice { .. })), "{error:?}");

        let importer = Arc::new(Refault::new());
        let attachment = image.attach_dynamic(rig.guest().device(), ImageUsage::SAMPLED, importer);
        let mut texture =
            GuestTexture::new(rig.guest(), attachment.expect("attached")).expect("a texture");
        let mut frame = rig.guest().frame();
        let error = frame.texture(&mut texture, Access::Write).expect_err("it is sampled alone");
        assert!(matches!(error, Error::NotWritten { .. }), "{error}");
    });
}

#[test]
fn devices_without_what_is_required_are_named() {
    let engine = open();
    for adapter in engine.adapters() {
        let limits = wgpu::Limits { max_texture_dimension_2d: 1 << 30, ..Default::default() };
        let device = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
        let described = GuestDescriptor::default().device(device);
        // SAFETY: nothing is done with it.
        let error = unsafe { Guest::open(&engine, adapter, &described) };
        let error = error.expect_err("no device has such textures").to_string();
        assert!(error.contains("max_texture_dimension_2d 1073741824"), "{error}");
        let device = wgpu::DeviceDescriptor {
            required_features: wgpu::Features::all(),
            ..Default::default()
        };
        let described = GuestDescriptor::default().device(device);
        // SAFETY: as above.
        let error = unsafe { Guest::open(&engine, adapter, &described) };
        assert!(matches!(error, Err(Error::Required { .. })), "{error:?}");
    }
}

#[test]
fn a_guest_that_is_dropped_leaves_its_device_to_the_engine() {
    let engine = open();
    for index in 0..engine.adapters().len() {
        let mut rig = Rig::new(engine.clone(), (index, index));
        let device = rig.guest().device().clone();
        rig.guest = None;
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        rig.fill(&buffer, 5);
        device.submitted().expect("it works").wait(LONG).expect("it ends");
    }
}

#[test]
fn calls_within_the_queues_lock_are_errors() {
    on_each_device(|rig| {
        let guest = rig.guest();
        let called = guest.with_queue(|_| {
            let error = guest.with_queue(|_| ()).expect_err("the lock is held");
            assert!(matches!(error, Error::Reentrant { .. }), "{error}");
            let error = guest.submitted().expect_err("the lock is held");
            let is_named = matches!(error, Error::Engine(peerbuf::Error::Unsupported { .. }));
            assert!(is_named, "{error}");
            guest.drop_in_queue(guest.wgpu().clone());
        });
        called.expect("the queue");
        // A callback that a frame calls has the lock, too.
        let (told, heard) = mpsc::channel();
        let device = guest.device().clone();
        let asked = guest.with_queue(|queue| {
            queue.submit([]);
            queue.on_submitted_work_done(move || {
                told.send(device.submitted()).expect("the test receives it");
            });
        });
        asked.expect("the queue");
        guest.submitted().expect("a fence").wait(LONG).expect("it ends");
        guest.frame().submit([]).expect("submitted");
        let error = heard.recv_timeout(LONG).expect("it is called").expect_err("in the lock");
        assert!(matches!(error, peerbuf::Error::Unsupported { .. }), "{error}");
        guest.with_queue(|_| ()).expect("the lock is free");
        guest.submitted().expect("a fence").wait(LONG).expect("it ends");
    });
}

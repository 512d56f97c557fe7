//! Who frees what, and when.

use peerbuf::{Access, Migration};
use peerbuf_wgpu::Error;

use crate::rig::{Rig, assert_texels, copy_much, on_each_device, open, write};

#[test]
fn the_memory_that_an_image_has_left_is_given_back_when_the_last_frame_with_it_is_over() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        write(rig, &mut texture, 1);
        rig.poll();
        let one = rig.mappings();
        for value in 2..8 {
            assert!(matches!(image.buffer().relocate(), Ok(Migration::Done { .. })));
            write(rig, &mut texture, value);
        }
        // Its callbacks come when wgpu looks.
        rig.poll();
        assert_eq!(rig.mappings(), one, "one texture, one mapping");
        assert_texels(&image, 7);
    });
}

#[test]
fn a_view_of_an_earlier_texture_does_not_keep_its_memory_and_wgpu_refuses_it() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        write(rig, &mut texture, 1);
        rig.poll();
        let one = rig.mappings();
        let mut frame = rig.guest().frame();
        let before = frame.texture(&mut texture, Access::Read).expect("a texture");
        let (kept, version) = (wgpu::Texture::clone(&before), before.version());
        let _view = kept.create_view(&Default::default());
        frame.submit([]).expect("an empty frame");
        assert!(matches!(image.buffer().relocate(), Ok(Migration::Done { .. })));

        let mut frame = rig.guest().frame();
        let now = frame.texture(&mut texture, Access::Write).expect("a texture");
        assert!(now.version() > version);
        let mut encoder = rig.guest().wgpu().create_command_encoder(&Default::default());
        encoder.copy_texture_to_texture(kept.as_image_copy(), now.as_image_copy(), now.size());
        let error = frame.submit([encoder.finish()]).expect_err("it is destroyed");
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(error.to_string().contains("destroyed"), "{error}");
        rig.poll();
        assert_eq!(rig.mappings(), one, "the view and the texture are still there");
        assert_texels(&image, 1);
    });
}

#[test]
fn what_a_frame_uses_does_not_move_until_it_is_submitted_or_dropped() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        write(rig, &mut texture, 1);
        let mut frame = rig.guest().frame();
        frame.texture(&mut texture, Access::Read).expect("a texture");
        let error = image.buffer().relocate().expect_err("it is in a frame");
        assert!(matches!(error, peerbuf::Error::Busy { host: 1, .. }), "{error}");
        drop(frame);
        assert!(matches!(image.buffer().relocate(), Ok(Migration::Done { .. })));
    });
}

#[test]
fn a_guest_that_is_in_use_is_not_closed_and_goes_on() {
    let count = open().adapters().len();
    for index in 0..count {
        let mut rig = Rig::new(open(), (index, index));
        let (image, mut texture) = rig.image();
        write(&rig, &mut texture, 1);
        let guest = rig.guest.take().expect("a guest");
        let (guest, error) = guest.close().expect_err("it has an attachment");
        let is_in_use = matches!(error, Error::Engine(peerbuf::Error::DeviceInUse { .. }));
        assert!(is_in_use, "{error}");
        rig.guest = Some(*guest);
        write(&rig, &mut texture, 2);
        assert_texels(&image, 2);
        drop((image, texture));
        rig.close();
    }
}

#[test]
fn a_closed_guest_leaves_no_fd_and_its_engine_goes_on() {
    let engine = open();
    let count = engine.adapters().len();
    let mut fds = vec![];
    for turn in 0..4 {
        for index in 0..count {
            let rig = Rig::new(engine.clone(), (index, index));
            let (image, mut texture) = rig.image();
            write(&rig, &mut texture, 1);
            assert_texels(&image, 1);
            drop((image, texture));
            rig.close();
        }
        engine.trim();
        if turn > 0 {
            fds.push(std::fs::read_dir("/proc/self/fd").expect("procfs").count());
        }
    }
    assert!(fds.windows(2).all(|pair| pair[0] == pair[1]), "{fds:?}");
}

#[test]
fn a_guest_that_is_dropped_waits_for_its_frames_although_a_clone_of_the_queue_lives() {
    let count = open().adapters().len();
    for index in 0..count {
        let mut rig = Rig::new(open(), (index, index));
        let (image, mut texture) = rig.image();
        let (buffer, mut ours) = rig.buffer();
        let queue = rig.guest().with_queue(wgpu::Queue::clone).expect("the queue");
        write(&rig, &mut texture, 19);
        let mut frame = rig.guest().frame();
        frame.texture(&mut texture, Access::Read).expect("a texture");
        frame.buffer(&mut ours, Access::Write).expect("a buffer");
        let mut encoder = rig.guest().wgpu().create_command_encoder(&Default::default());
        copy_much(&rig, &mut encoder);
        let fence = frame.submit([encoder.finish()]).expect("submitted");
        rig.guest = None;
        assert!(fence.is_signalled().expect("the device is not lost"), "the drop has not waited");
        assert_texels(&image, 19);
        drop((texture, ours, buffer));
        drop(queue);
    }
}

//! Fences and semaphores into and out of wgpu's submissions.
#![expect(unsafe_code, reason = "semaphores of the application")]

use std::sync::mpsc;
use std::time::Duration;

use peerbuf::ash::vk;
use peerbuf::{Access, Fence};
use peerbuf_wgpu::GuestTexture;

use crate::rig::{LONG, Rig, assert_texels, on_each_device, on_each_pair, submit_write, write};

#[test]
fn a_frame_runs_behind_a_fence_of_the_host_and_of_the_other_device() {
    on_each_pair(|rig| {
        let (image, mut texture) = rig.image();
        let (host, signal) = rig.engine.host_fence();
        ends_behind(rig, &host, || drop(signal), &mut texture);
        assert_texels(&image, 6);
        write(rig, &mut texture, 7);
        let held = rig.hold();
        let fence = held.fence.clone();
        ends_behind(rig, &fence, || held.release(), &mut texture);
        assert_texels(&image, 6);
    });
}

/// Asserts that a frame behind `fence` does not end before `release`, and ends then.
fn ends_behind(rig: &Rig, fence: &Fence, release: impl FnOnce(), texture: &mut GuestTexture) {
    let (ended, end) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            rig.guest().wait_for(fence).expect("it waits");
            let frame = submit_write(rig, texture, 6);
            frame.wait(LONG).expect("it ends");
            ended.send(()).expect("the test receives it");
        });
        // A frame that does not wait ends in a part of that.
        let early = end.recv_timeout(Duration::from_millis(300));
        release();
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout), "the frame has not waited");
        end.recv_timeout(LONG).expect("it goes on");
    });
}

#[test]
fn wgpu_waits_for_semaphores_of_the_application_and_signals_them() {
    on_each_device(|rig| {
        let device = rig.guest().device().raw().clone();
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device has timeline semaphores.
        let timeline = unsafe { device.create_semaphore(&info, None) }.expect("a semaphore");
        let (image, mut texture) = rig.image();
        for turn in 1..5 {
            let signal = vk::SemaphoreSignalInfo::default().semaphore(timeline).value(2 * turn - 1);
            // SAFETY: a timeline, whose value is smaller.
            unsafe { device.signal_semaphore(&signal) }.expect("signalled");
            // SAFETY: live until its last value is waited for below; this value is signalled.
            unsafe { rig.guest().wait_semaphore(timeline, 2 * turn - 1) };
            // SAFETY: live likewise; the value is larger than all before.
            unsafe { rig.guest().signal_semaphore(timeline, 2 * turn) };
            write(rig, &mut texture, 9);
            let (semaphores, values) = ([timeline], [2 * turn]);
            let wait = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
            let nanos = u64::try_from(LONG.as_nanos()).expect("it fits");
            // SAFETY: a live timeline.
            unsafe { device.wait_semaphores(&wait, nanos) }.expect("wgpu signals it");
        }
        assert_texels(&image, 9);
        rig.guest().submitted().expect("a fence").wait(LONG).expect("it ends");
        // SAFETY: all that uses it has ended.
        unsafe { device.destroy_semaphore(timeline, None) };
    });
}

#[test]
fn work_without_shared_images_goes_through_the_queue_and_is_in_its_fence() {
    on_each_device(|rig| {
        let device = rig.guest().wgpu();
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 64,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        rig.guest()
            .with_queue(|queue| {
                queue.write_buffer(&buffer, 0, &[7; 64]);
                queue.submit([]);
                buffer.slice(..).map_async(wgpu::MapMode::Read, |done| done.expect("mapped"));
            })
            .expect("the queue");
        rig.guest().submitted().expect("a fence").wait(LONG).expect("it ends");
        rig.poll();
        let range = buffer.slice(..).get_mapped_range();
        assert!(range.expect("mapped").iter().all(|byte| *byte == 7));
        let (image, mut texture) = rig.image();
        let mut frame = rig.guest().frame();
        frame.texture(&mut texture, Access::Read).expect("a texture");
        frame.submit([]).expect("submitted");
        assert_texels(&image, 0);
    });
}

//! Fences and semaphores into and out of wgpu's submissions.
#![expect(unsafe_code, reason = "semaphores of the application")]

use peerbuf::Access;
use peerbuf::ash::vk;

use crate::rig::{LONG, assert_texels, on_each_device, on_each_pair, write};

#[test]
fn a_frame_runs_behind_a_fence_of_the_other_device() {
    on_each_pair(|rig| {
        let (image, mut texture) = rig.image();
        // It ends when the host says so.
        let (host, signal) = rig.engine.host_fence();
        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                rig.guest().wait_for(&host).expect("it waits");
                write(rig, &mut texture, 6);
            });
            drop(signal);
            waits.join()
        });
        waits.expect("no panic");
        assert_texels(&image, 6);
        let (buffer, _ours) = rig.buffer();
        rig.fill(&buffer, 7);
        let filled = rig.other().submitted().expect("a fence");
        rig.guest().wait_for(&filled).expect("a device of the other kind");
        write(rig, &mut texture, 8);
        rig.guest().submitted().expect("a fence").wait(LONG).expect("it ends");
        assert!(filled.is_signalled().expect("asked"), "it was waited for");
        assert_texels(&image, 8);
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

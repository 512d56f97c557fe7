//! Commands that wgpu refuses, and what `Queue::write_texture` and `write_buffer` leave.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use peerbuf::image::ImageUsage;
use peerbuf::{Access, CopyRegion, Refault};
use peerbuf_wgpu::{Error, GuestDescriptor, GuestTexture};

use crate::rig::{
    LONG, Rig, SIZE, assert_bytes, assert_texels, copy_much, on_each_device, on_each_pair, open,
    rows, submit_write, write,
};

#[test]
fn a_refused_command_buffer_ends_its_frame_alone() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        write(rig, &mut texture, 1);
        // The first of three command buffers runs, and the third one does not.
        for refused in 1..3 {
            let mut frame = rig.guest().frame();
            let now = frame.texture(&mut texture, Access::Write).expect("a texture");
            let commands: Vec<_> = (0..3)
                .map(|index| match index == refused {
                    true => destroyed(rig, &now),
                    false => cleared(rig, &now, 10 * (index + 1)),
                })
                .collect();
            let error = frame.submit(commands).expect_err("wgpu refuses it");
            assert!(matches!(error, Error::Refused(_)), "{error}");
            assert_texels(&image, 10 * refused);
        }
        let version = texture.version();
        write(rig, &mut texture, 3);
        assert_texels(&image, 3);
        assert_eq!(texture.version(), version, "it is the same texture");
    });
}

/// Commands that use a destroyed buffer.
fn destroyed(rig: &Rig, into: &wgpu::Texture) -> wgpu::CommandBuffer {
    let gone = source(rig, 0);
    let commands = copied(rig, &gone, into);
    gone.destroy();
    commands
}

fn cleared(rig: &Rig, into: &wgpu::Texture, value: u8) -> wgpu::CommandBuffer {
    copied(rig, &source(rig, value), into)
}

fn source(rig: &Rig, value: u8) -> wgpu::Buffer {
    let described = wgpu::util::BufferInitDescriptor {
        label: None,
        contents: &vec![value; (256 * SIZE) as usize],
        usage: wgpu::BufferUsages::COPY_SRC,
    };
    wgpu::util::DeviceExt::create_buffer_init(rig.guest().wgpu(), &described)
}

fn copied(rig: &Rig, from: &wgpu::Buffer, into: &wgpu::Texture) -> wgpu::CommandBuffer {
    let mut encoder = rig.guest().wgpu().create_command_encoder(&Default::default());
    let from = wgpu::TexelCopyBufferInfo { buffer: from, layout: rows() };
    encoder.copy_buffer_to_texture(from, into.as_image_copy(), into.size());
    encoder.finish()
}

#[test]
fn texels_and_bytes_that_the_queue_writes_belong_to_the_open_frame() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        let (buffer, mut ours) = rig.buffer();
        for turn in 1..10_u8 {
            let mut frame = rig.guest().frame();
            let now = frame.texture(&mut texture, Access::Write).expect("a texture");
            let bytes = frame.buffer(&mut ours, Access::Write).expect("a buffer");
            rig.guest()
                .with_queue(|queue| {
                    let texels = vec![turn; (256 * SIZE) as usize];
                    queue.write_texture(now.as_image_copy(), &texels, rows(), now.size());
                    queue.write_buffer(&bytes, 0, &vec![turn; 4096]);
                })
                .expect("the queue");
            // Every third frame is refused. What the queue has written stays.
            if turn % 3 == 0 {
                let error = frame.submit([destroyed(rig, &now)]).expect_err("wgpu refuses it");
                assert!(matches!(error, Error::Refused(_)), "{error}");
            } else {
                frame.submit([]).expect("submitted");
            }
            assert_texels(&image, turn);
            assert_bytes(&buffer, turn);
            image.buffer().relocate().expect("it moves");
        }
    });
}

/// Writes by the queue, in a frame that is open.
fn queue_writes(queue: &wgpu::Queue, texture: &wgpu::Texture, buffer: &wgpu::Buffer, value: u8) {
    let texels = vec![value; (256 * SIZE) as usize];
    queue.write_texture(texture.as_image_copy(), &texels, rows(), texture.size());
    queue.write_buffer(buffer, 0, &vec![value; 4096]);
}

#[test]
fn what_the_queue_wrote_in_a_frame_that_was_dropped_is_written_in_an_access() {
    on_each_pair(|rig| {
        let (image, mut texture) = rig.image();
        let (buffer, mut ours) = rig.buffer();
        let (another, mut second) = rig.image();
        let importer = Arc::new(Refault::new());
        let attached = another.attach_dynamic(rig.guest().device(), ImageUsage::SAMPLED, importer);
        let mut read_only =
            GuestTexture::new(rig.guest(), attached.expect("attached")).expect("a texture");
        for turn in 1..8_u8 {
            let mut frame = rig.guest().frame();
            let now = frame.texture(&mut texture, Access::Write).expect("a texture");
            let bytes = frame.buffer(&mut ours, Access::Write).expect("a buffer");
            let (now, bytes) = (wgpu::Texture::clone(&now), wgpu::Buffer::clone(&bytes));
            if turn % 2 == 0 {
                let error = frame.texture(&mut read_only, Access::Write).expect_err("it is read");
                assert!(matches!(error, Error::NotWritten { .. }), "{error}");
                let write = |queue: &wgpu::Queue| queue_writes(queue, &now, &bytes, turn);
                rig.guest().with_queue(write).expect("the queue");
                drop(frame);
            } else {
                // It cannot submit here. The next frame does.
                let write = move |queue: &wgpu::Queue| {
                    queue_writes(queue, &now, &bytes, turn);
                    drop(frame);
                };
                rig.guest().with_queue(write).expect("the queue");
            }
            write(rig, &mut second, turn);
            assert_texels(&image, turn);
            assert_bytes(&buffer, turn);
            assert_texels(&another, turn);
            image.buffer().relocate().expect("it moves");
            rig.fill(&buffer, 0);
        }
    });
}

#[test]
fn what_the_queue_wrote_in_a_frame_that_times_out_is_written_by_the_next_one() {
    let count = open().adapters().len();
    let all = (0..count).flat_map(|guest| (0..count).map(move |other| (guest, other)));
    // Devices of one driver wait for each other on the GPU.
    for pair in all.filter(|(guest, other)| guest != other) {
        let short = GuestDescriptor::default().timeout(Duration::from_secs(2));
        let rig = Rig::described(open(), pair, &short);
        let (image, mut texture) = rig.image();
        let (another, mut second) = rig.image();
        let held = rig.hold();
        let mut frame = rig.guest().frame();
        let now = frame.texture(&mut texture, Access::Write).expect("a texture");
        let texels = vec![5; (256 * SIZE) as usize];
        let write_all = |queue: &wgpu::Queue| {
            queue.write_texture(now.as_image_copy(), &texels, rows(), now.size());
        };
        rig.guest().with_queue(write_all).expect("the queue");
        rig.guest().wait_for(&held.fence).expect("it waits");
        let error = frame.submit([]).expect_err("the other device is not there yet");
        let timed_out = matches!(error, Error::Engine(peerbuf::Error::Timeout { .. }));
        assert!(timed_out, "{error}");
        held.release();
        write(&rig, &mut second, 6);
        assert_texels(&image, 5);
        assert_texels(&another, 6);
        drop((image, another, texture, second));
        rig.close();
    }
}

#[test]
fn what_the_queue_wrote_is_written_although_its_texture_is_dropped() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        let (buffer, mut ours) = rig.buffer();
        let mut frame = rig.guest().frame();
        let now = frame.texture(&mut texture, Access::Write).expect("a texture");
        let bytes = frame.buffer(&mut ours, Access::Write).expect("a buffer");
        let (now, bytes) = (wgpu::Texture::clone(&now), wgpu::Buffer::clone(&bytes));
        let write = |queue: &wgpu::Queue| {
            queue_writes(queue, &now, &bytes, 3);
            drop(frame);
        };
        rig.guest().with_queue(write).expect("the queue");
        drop((texture, ours));
        rig.guest().with_queue(|queue| queue.submit([])).expect("the queue");
        assert_texels(&image, 3);
        assert_bytes(&buffer, 3);
    });
}

#[test]
fn a_callback_that_panics_in_a_frame_does_not_keep_the_frame_from_its_end() {
    const SAID: &str = "a callback of the application";
    on_each_pair(|rig| {
        let (image, mut texture) = rig.image();
        let mapped = rig.guest().wgpu().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 64,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        for (turn, commands) in [(1, 1), (2, 3)] {
            rig.guest()
                .with_queue(|queue| {
                    queue.write_buffer(&mapped, 0, &[7; 64]);
                    queue.submit([]);
                    mapped.slice(..).map_async(wgpu::MapMode::Read, |_| panic!("{SAID}"));
                })
                .expect("the queue");
            rig.guest().submitted().expect("a fence").wait(LONG).expect("it ends");
            let mut frame = rig.guest().frame();
            let now = frame.texture(&mut texture, Access::Write).expect("a texture");
            let mut encoder = rig.guest().wgpu().create_command_encoder(&Default::default());
            // The accesses have to last until the work has ended.
            copy_much(rig, &mut encoder);
            let bytes = source(rig, turn);
            let from = wgpu::TexelCopyBufferInfo { buffer: &bytes, layout: rows() };
            encoder.copy_buffer_to_texture(from, now.as_image_copy(), now.size());
            let others = (1..commands).map(|_| cleared(rig, &now, turn));
            let all: Vec<_> = std::iter::once(encoder.finish()).chain(others).collect();
            let submitted = catch_unwind(AssertUnwindSafe(|| frame.submit(all)));
            let panic = submitted.expect_err("wgpu calls the callback");
            let said = panic.downcast_ref::<String>().map(String::as_str);
            assert_eq!(said.or_else(|| panic.downcast_ref::<&str>().copied()), Some(SAID));
            assert_texels(&image, turn);
            image.buffer().relocate().expect("the frame has ended");
            write(rig, &mut texture, 9);
            assert_texels(&image, 9);
            mapped.unmap();
        }
    });
}

#[test]
fn the_fence_of_a_frame_is_that_of_its_images() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        write(rig, &mut texture, 5);
        let mut frame = rig.guest().frame();
        frame.texture(&mut texture, Access::Read).expect("a texture");
        let fence = frame.submit([]).expect("submitted");
        fence.wait(LONG).expect("it ends");
        assert!(!image.buffer().is_busy(Access::Write), "the frame has ended");
        let copy = rig
            .engine
            .create_buffer(rig.other(), peerbuf::BufferDescriptor::new(64))
            .expect("a buffer");
        let copied = rig.engine.copy(image.buffer(), &copy, CopyRegion::first(64)).expect("a copy");
        copied.wait(LONG).expect("it ends");
    });
}

#[test]
fn a_frame_costs_two_submissions_beside_those_of_wgpu() {
    on_each_device(|rig| {
        let (_image, mut texture) = rig.image();
        let mut submitted = |value| {
            let fence = submit_write(rig, &mut texture, value);
            fence.semaphore().expect("a fence of the device").value
        };
        let first = submitted(1);
        assert_eq!([2, 3].map(submitted), [first + 2, first + 4]);
    });
}

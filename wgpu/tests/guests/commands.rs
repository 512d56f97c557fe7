//! Commands that wgpu refuses, and what `Queue::write_texture` and `write_buffer` leave.

use peerbuf::{Access, CopyRegion};
use peerbuf_wgpu::Error;

use crate::rig::{LONG, Rig, SIZE, assert_texels, on_each_device, rows, write};

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
            let mut read = vec![0; 4096];
            let access = buffer.host_access(Access::Read).expect("read by the host");
            access.read(0, &mut read).expect("read");
            access.end().expect("ended");
            assert!(read.iter().all(|byte| *byte == turn), "{turn}: {:?}", &read[..4]);
            image.buffer().relocate().expect("it moves");
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

//! Images and buffers that move: between frames, while frames are in flight, and on another thread.

use std::sync::atomic::{AtomicBool, Ordering};

use peerbuf::{Access, DomainId, Error as Engine, Migration};
use peerbuf_wgpu::{Error, GuestTexture};

use crate::rig::{SIZE, assert_texels, on_each_device, on_each_pair, rows, write};

#[test]
fn a_texture_follows_its_image_and_keeps_the_texels() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        write(rig, &mut texture, 3);
        let version = texture.version();
        let moves: [&dyn Fn() -> peerbuf::Result<Migration>; 4] = [
            &|| image.evict(),
            &|| image.migrate(DomainId::Vram(rig.other().id())),
            &|| image.buffer().relocate(),
            &|| image.migrate(DomainId::Vram(rig.guest().device().id())),
        ];
        for (turn, moved) in (1..).zip(moves) {
            let moved = moved().expect("it may move");
            assert!(matches!(moved, Migration::Done { .. }), "move {turn}: {moved:?}");
            copied(rig, &mut texture, 3);
            assert!(texture.version() >= version + turn, "after move {turn}");
        }
        write(rig, &mut texture, 4);
        assert_texels(&image, 4);
    });
}

/// Copies the texture into another image in a frame, and asserts what is there then.
fn copied(rig: &crate::rig::Rig, texture: &mut GuestTexture, value: u8) {
    let (copy, mut into) = rig.image();
    let mut frame = rig.guest().frame();
    let from = frame.texture(texture, Access::Read).expect("a texture");
    let to = frame.texture(&mut into, Access::Write).expect("a texture");
    let mut encoder = rig.guest().wgpu().create_command_encoder(&Default::default());
    encoder.copy_texture_to_texture(from.as_image_copy(), to.as_image_copy(), to.size());
    frame.submit([encoder.finish()]).expect("submitted");
    assert_texels(&copy, value);
}

#[test]
fn a_buffer_follows_what_another_device_writes() {
    on_each_pair(|rig| {
        let (buffer, mut ours) = rig.buffer();
        let (image, mut texture) = rig.image();
        for turn in 1..=20_u8 {
            rig.fill(&buffer, u32::from_ne_bytes([turn; 4]));
            let mut frame = rig.guest().frame();
            let from = frame.buffer(&mut ours, Access::Read).expect("a buffer");
            let into = frame.texture(&mut texture, Access::Write).expect("a texture");
            let mut encoder = rig.guest().wgpu().create_command_encoder(&Default::default());
            // Sixteen rows are in the buffer.
            for row in (0..SIZE).step_by(16) {
                let from = wgpu::TexelCopyBufferInfo { buffer: &from, layout: rows() };
                let mut to = into.as_image_copy();
                to.origin.y = row;
                let size = wgpu::Extent3d { height: 16.min(SIZE - row), ..into.size() };
                encoder.copy_buffer_to_texture(from, to, size);
            }
            frame.submit([encoder.finish()]).expect("submitted");
            // Behind the frame, which is in flight, perhaps.
            let moved = if turn % 2 == 0 { buffer.relocate() } else { image.buffer().relocate() };
            assert!(matches!(moved, Ok(Migration::Done { .. })), "{moved:?}");
            assert_texels(&image, turn);
        }
        assert!(ours.version() > 5, "the buffer has moved: {}", ours.version());
    });
}

#[test]
fn frames_go_on_while_a_thread_moves_what_they_use() {
    on_each_device(|rig| {
        let (image, mut texture) = rig.image();
        let (buffer, mut ours) = rig.buffer();
        rig.fill(&buffer, 0x0909_0909);
        let is_over = AtomicBool::new(false);
        let moves = std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let mut moves = 0_u32;
                while !is_over.load(Ordering::Relaxed) {
                    for moved in [buffer.relocate(), image.evict(), image.buffer().relocate()] {
                        match moved {
                            Ok(Migration::Done { .. }) => moves += 1,
                            Ok(_) | Err(Engine::Busy { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                moves
            });
            // The mover ends if this thread panics, too.
            let end = End(&is_over);
            for turn in 0..100_u8 {
                frame(rig, (&mut texture, &mut ours), turn);
            }
            drop(end);
            mover.join().expect("no move failed")
        });
        assert!(moves > 0, "nothing moved");
        assert_texels(&image, 99);
    });
}

/// Sets what it refers to when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A frame that writes the texture, and reads the buffer. It is made anew if wgpu had no moment of its own.
fn frame(
    rig: &crate::rig::Rig,
    (texture, buffer): (&mut GuestTexture, &mut peerbuf_wgpu::GuestBuffer),
    turn: u8,
) {
    let device = rig.guest().wgpu();
    let (bytes, scratch) = (new_buffer(device, 256 * SIZE), new_buffer(device, 4096));
    loop {
        let mut frame = rig.guest().frame();
        let into = frame.texture(texture, Access::Write).expect("a texture");
        let from = frame.buffer(buffer, Access::Read).expect("a buffer");
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from, 0, &scratch, 0, 4096);
        let source = wgpu::TexelCopyBufferInfo { buffer: &bytes, layout: rows() };
        encoder.copy_buffer_to_texture(source, into.as_image_copy(), into.size());
        let written = vec![turn; (256 * SIZE) as usize];
        let filled = rig.guest().with_queue(|queue| queue.write_buffer(&bytes, 0, &written));
        if let Err(error) = filled {
            assert!(matches!(error, Error::BusyQueue { .. }), "{error}");
            continue;
        }
        match frame.submit([encoder.finish()]) {
            Ok(_) => return,
            Err(Error::BusyQueue { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn new_buffer(device: &wgpu::Device, size: u32) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: u64::from(size),
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}

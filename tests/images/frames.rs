//! A frame loop over images that were evicted, moved or laid out anew since they were mapped.
#![expect(unsafe_code, reason = "raw commands of the test")]

use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, DomainKind, Engine, Error, Fence,
    ImageAttachment, ImageMapping, Mapping, Placement, RawImage, Result, SharedImage,
};

use crate::common::recorder::Recorder;
use crate::common::{LONG, Rig, fill};
use crate::submit::{assert_filled, clear};
use crate::texels::{assert_host_reads, footprint, image, write_by_host};

/// Images with an attachment and a mapping each.
struct Frame {
    images: Vec<SharedImage>,
    attachments: Vec<ImageAttachment>,
    mappings: Vec<ImageMapping>,
}

const SIZE: (u32, u32) = (256, 64);

impl Frame {
    fn new(
        engine: &Engine,
        [home, user]: [&Device; 2],
        placement: Placement,
        count: usize,
    ) -> Self {
        let make = |at| {
            let descriptor =
                image("R8  ", SIZE, 1).placement(placement).name(&format!("tile {at}"));
            let image = engine.create_image(home, descriptor).expect("an image");
            write_by_host(&image, at);
            image
        };
        // CAST: few.
        let images: Vec<_> = (0..count as u64).map(make).collect();
        let attach = |image: &SharedImage| {
            image.attach_dynamic(user, image.usage(), Recorder::new(true)).expect("it attaches")
        };
        let attachments: Vec<_> = images.iter().map(attach).collect();
        let map =
            |attachment: &ImageAttachment| attachment.map(Access::ReadWrite).expect("it maps");
        let mappings = attachments.iter().map(map).collect();
        Self { images, attachments, mappings }
    }

    /// One frame: each image is cleared with a byte of its own, counted from `first`. Returns the handles that the
    /// commands used.
    fn draw(
        &mut self,
        engine: &Engine,
        user: &Device,
        first: u8,
    ) -> Result<(Fence, Vec<RawImage>)> {
        let mut handles = vec![];
        let mut mapped: Vec<_> = self.attachments.iter().zip(&mut self.mappings).collect();
        let fence = engine.submit_images_remapped(
            user,
            &mut mapped,
            &mut [],
            |submission, images, buffers| {
                assert!(buffers.is_empty());
                handles.clear();
                for (at, mapping) in (first..).zip(images) {
                    let handle = mapping.write(submission)?;
                    handles.push(handle);
                    let record = move |commands| clear(user, commands, handle.image, at);
                    // SAFETY: it records a valid command on what was declared.
                    unsafe { submission.record(record) };
                }
                Ok(())
            },
        )?;
        Ok((fence, handles))
    }

    fn evict(&self) {
        for image in &self.images {
            image.buffer().wait(Access::ReadWrite, LONG).expect("the frame ends");
            image.evict().expect("nothing keeps it");
            assert_eq!(image.domain(), DomainId::System);
        }
    }

    fn away(&self) -> usize {
        self.images.iter().filter(|image| image.domain().kind() != DomainKind::Vram).count()
    }

    fn assert_drawn(&self, first: u8, what: &str) {
        for (byte, image) in (first..).zip(&self.images) {
            assert_filled(image, byte, what);
        }
    }
}

/// Pairs of a home device and a user: itself, another device of its driver, and where both reach its memory.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    let twice = |first: Device| {
        let second = rig.open(&first.adapter().clone());
        [[first.clone(), first.clone()], [first, second]]
    };
    rig.all().into_iter().flat_map(twice).collect()
}

#[test]
fn evicted_images_that_devices_may_use_in_vram_alone_return_together_for_a_frame() {
    let rig = Rig::new();
    for [home, user] in pairs(&rig) {
        let mut frame = Frame::new(rig.engine(), [&home, &user], Placement::Vram, 6);
        for round in 0..3_u8 {
            frame.evict();
            let (fence, handles) = frame.draw(rig.engine(), &user, 10 * round).expect("it draws");
            assert_eq!(frame.away(), 0, "round {round}");
            let current = |mapping: &ImageMapping| mapping.view().expect("it is current");
            let mapped: Vec<_> = frame.mappings.iter().map(current).collect();
            assert_eq!(mapped, handles, "the mappings are those of the frame");
            fence.wait(LONG).expect("the frame ends");
            frame.assert_drawn(10 * round, home.name());
        }
    }
}

#[test]
fn other_evicted_images_return_within_a_few_frames_and_each_frame_is_right() {
    let rig = Rig::new();
    for [home, user] in pairs(&rig) {
        let mut frame = Frame::new(rig.engine(), [&home, &user], Placement::VramOrSystem, 6);
        if frame.away() > 0 {
            // The user does not reach the memory of the home device.
            continue;
        }
        frame.evict();
        const FRAMES: u8 = 40;
        let back = (0..FRAMES).find(|&first| {
            let (fence, _) = frame.draw(rig.engine(), &user, first).expect("it draws");
            fence.wait(LONG).expect("the frame ends");
            frame.assert_drawn(first, home.name());
            frame.away() == 0
        });
        let states: Vec<_> = frame.images.iter().map(|image| image.explain().to_string()).collect();
        assert!(back.is_some(), "{}", states.join("\n"));
    }
}

#[test]
fn images_that_do_not_fit_at_the_same_time_are_named_and_stay_usable() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let mut frame = Frame::new(rig.engine(), [&device, &device], Placement::Vram, 4);
    frame.draw(rig.engine(), &device, 1).expect("it draws");
    let domain = DomainId::Vram(device.id());
    let one = footprint(rig.engine(), &frame.images[0]);
    frame.evict();
    rig.engine().set_cap(domain, Some(3 * one)).expect("of this engine");
    let error = frame.draw(rig.engine(), &device, 50).map(drop).expect_err("three of four fit");
    assert!(error.is_out_of_memory() && error.to_string().contains("tile"), "{error}");
    frame.assert_drawn(1, "refused");
    rig.engine().set_cap(domain, None).expect("of this engine");
    frame.draw(rig.engine(), &device, 50).expect("all fit");
    frame.assert_drawn(50, "afterwards");
}

#[test]
fn a_frame_follows_images_and_buffers_that_were_moved_and_laid_out_anew() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let second = rig.open(&lavapipe.adapter().clone());
    let engine = rig.engine();
    let descriptor = image("AR24", (62, 18), 1);
    let image = engine.create_image(&swiftshader, descriptor).expect("an image");
    write_by_host(&image, 1);
    let others = [&swiftshader, &second].map(|device| image.attach(device).expect("it attaches"));
    let importer = Recorder::new(true);
    let attachment =
        image.attach_dynamic(&lavapipe, image.usage(), importer.clone()).expect("it attaches");
    let mut mapping = attachment.map(Access::Read).expect("it maps");
    let buffer = engine.create_buffer(&lavapipe, BufferDescriptor::new(256)).expect("a buffer");
    let buffers = buffer.attach_dynamic(&lavapipe, Recorder::new(true)).expect("it attaches");
    let mut bytes = buffers.map(Access::Read).expect("it maps");
    fill(&buffers, 3);
    let mut declared = vec![];
    let mut draw = |mapping: &mut ImageMapping, bytes: &mut Mapping| {
        declared.clear();
        let mut images = [(&attachment, mapping)];
        let mut buffers: [(&Attachment, &mut Mapping); 1] = [(&buffers, bytes)];
        let drawn = engine.submit_images_remapped(
            &lavapipe,
            &mut images,
            &mut buffers,
            |submission, images, buffers| {
                declared.push((images[0].generation(), images[0].layout()));
                images[0].read(submission)?;
                submission.read(buffers[0]).map(drop)
            },
        );
        drawn.expect("it reads").wait(LONG).expect("it ends");
        declared.last().copied().expect("it was declared")
    };
    let mut seen = importer.invalidated().len();
    let first = draw(&mut mapping, &mut bytes);
    assert_eq!(first, (image.generation(), image.layout()));
    image.relayout().expect("nothing keeps it");
    buffer.relocate().expect("nothing keeps it");
    assert_eq!(draw(&mut mapping, &mut bytes), (image.generation(), image.layout()));
    seen += usize::from(image.generation() != first.0);
    for _ in 0..3 {
        image.buffer().relocate().expect("nothing keeps it");
        buffer.relocate().expect("nothing keeps it");
        seen += 1;
        assert_eq!(draw(&mut mapping, &mut bytes), (image.generation(), image.layout()));
    }
    assert_eq!(importer.invalidated().len(), seen, "once for each move");
    assert_host_reads(&image, 1, "moved");
    drop(others);
}

#[test]
fn a_stale_mapping_of_another_image_is_refused_in_a_frame() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let mut frame = Frame::new(rig.engine(), [&device, &device], Placement::VramOrSystem, 2);
    frame.mappings.swap(0, 1);
    for image in &frame.images {
        image.buffer().relocate().expect("nothing keeps it");
    }
    let error = frame.draw(rig.engine(), &device, 1).map(drop).expect_err("of another image");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    frame.mappings.swap(0, 1);
    frame.draw(rig.engine(), &device, 1).expect("they are its own");
    frame.assert_drawn(1, "its own");
}

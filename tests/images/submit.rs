//! Images in submissions: declared twice, overwritten, dropped at once, and used by an application's own submissions.
#![expect(unsafe_code, reason = "raw commands of the test")]

use ash::vk;
use peerbuf::image::ImageUsage;
use peerbuf::{
    Access, Device, Error, Fence, ImageAttachment, ImageError, ImageMapping, ImagePart, Scope,
    SharedImage,
};

use crate::common::bytes::assert_same;
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{LONG, Rig};
use crate::texels::{Passage, assert_host_reads, image, texels, write_by_host};

/// Fills level 0 of layer 0 with a byte.
pub(crate) fn clear(device: &Device, commands: vk::CommandBuffer, handle: vk::Image, byte: u8) {
    let value = f32::from(byte) / 255.0;
    let color = vk::ClearColorValue { float32: [value; 4] };
    let range = [vk::ImageSubresourceRange {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        base_mip_level: 0,
        level_count: 1,
        base_array_layer: 0,
        layer_count: 1,
    }];
    let layout = vk::ImageLayout::GENERAL;
    // SAFETY: a live image of the device that can be copied to, in this layout.
    unsafe { device.raw().cmd_clear_color_image(commands, handle, layout, &color, &range) };
}

#[test]
fn an_image_that_is_declared_twice_is_acquired_once_and_written_back() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    // On SwiftShader of its own, on lavapipe not.
    let descriptor = image("R8  ", (62, 18), 1).layers(2);
    let image = rig.engine().create_image(&lavapipe, descriptor).expect("an image");
    for (device, byte) in [(&lavapipe, 0x40), (&swiftshader, 0x80)] {
        write_by_host(&image, 1);
        let attachment = image.attach(device).expect("it attaches");
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        rig.engine()
            .submit(device, |submission| {
                let first = mapping.uses(submission, Access::Read, Scope::COMPUTE)?;
                let second = mapping.uses(submission, Access::Write, Scope::TRANSFER)?;
                assert_eq!(first, second);
                let record = move |commands| clear(device, commands, second.image, byte);
                // SAFETY: it records a valid command on what was declared.
                unsafe { submission.record(record) };
                Ok(())
            })
            .expect("the device clears");
        assert_filled(&image, byte, device.name());
        assert_second_layer(&image, 1, device.name());
    }
}

/// Asserts that layer 0 is filled with a byte.
pub(crate) fn assert_filled(image: &SharedImage, byte: u8, what: &str) {
    let texels = image.read_texels(ImagePart::default()).expect("the host reads");
    assert!(texels.iter().all(|texel| *texel == byte), "{what}: {texels:?}");
}

/// Asserts that layer 1 has the texels of a seed.
fn assert_second_layer(image: &SharedImage, seed: u64, what: &str) {
    let part = ImagePart { layer: 1, ..ImagePart::default() };
    let read = image.read_texels(part).expect("the host reads");
    assert_same(&read, &texels(image, part, seed), &format!("{what}: layer 1"));
}

/// A device whose image is its own, with a static and a dynamic attachment.
fn attached_twice(rig: &Rig, [home, other]: [&Device; 2]) -> (SharedImage, [ImageAttachment; 2]) {
    let descriptor = image("R8  ", (62, 18), 1).layers(2);
    let image = rig.engine().create_image(home, descriptor).expect("an image");
    let fixed = image.attach(other).expect("it attaches");
    let importer = Recorder::new(true);
    let dynamic = image.attach_dynamic(other, image.usage(), importer).expect("it attaches again");
    write_by_host(&image, 1);
    (image, [fixed, dynamic])
}

#[test]
fn two_images_of_one_image_are_not_written_in_one_submission() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let (image, attachments) = attached_twice(&rig, [home, other]);
        let [first, second] =
            attachments.each_ref().map(|one| one.map(Access::ReadWrite).expect("it maps"));
        let handles = [&first, &second].map(|one| one.view().expect("it is current"));
        assert!(handles.iter().all(|handle| handle.is_own) && handles[0].image != handles[1].image);
        for [before, now] in [
            [Access::Write, Access::Write],
            [Access::Read, Access::Write],
            [Access::Write, Access::Read],
        ] {
            rig.engine()
                .submit(other, |submission| {
                    let handle = first.uses(submission, before, Scope::TRANSFER)?;
                    let error = second.uses(submission, now, Scope::TRANSFER).expect_err("refused");
                    let is_it =
                        matches!(&error, Error::ImageDeclaredTwice(image) if image == "R8  ");
                    assert!(is_it, "{before:?} {now:?}: {error}");
                    assert!(error.to_string().contains("one attachment"), "{error}");
                    if before.writes() {
                        let record = move |commands| clear(other, commands, handle.image, 0x11);
                        // SAFETY: it records a valid command on what was declared.
                        unsafe { submission.record(record) };
                    }
                    Ok(())
                })
                .expect("the first declaration holds");
            if before.writes() {
                assert_filled(&image, 0x11, other.name());
            }
            assert_second_layer(&image, 1, other.name());
            write_by_host(&image, 1);
        }
        // Both may read, and one after the other may write.
        rig.engine()
            .submit(other, |submission| {
                first.read(submission)?;
                second.read(submission).map(drop)
            })
            .expect("both read");
        for (mapping, byte) in [(&first, 0x22), (&second, 0x33)] {
            rig.engine()
                .submit(other, |submission| {
                    let handle = mapping.write(submission)?;
                    let record = move |commands| clear(other, commands, handle.image, byte);
                    // SAFETY: it records a valid command on what was declared.
                    unsafe { submission.record(record) };
                    Ok(())
                })
                .expect("it writes");
            assert_filled(&image, byte, other.name());
        }
        assert_second_layer(&image, 1, other.name());
    }
}

#[test]
fn stages_that_the_queue_lacks_are_refused_for_images_too() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let (image, [attachment, _]) = attached_twice(&rig, [&lavapipe, &swiftshader]);
    let mapping = attachment.map(Access::Read).expect("it maps");
    let stages = vk::PipelineStageFlags::RAY_TRACING_SHADER_KHR;
    let scope = Scope { stages, access: vk::AccessFlags::SHADER_READ };
    rig.engine()
        .submit(&swiftshader, |submission| {
            let error = mapping.uses(submission, Access::Read, scope).expect_err("no ray tracing");
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            Ok(())
        })
        .expect("nothing was declared");
    assert_second_layer(&image, 1, "refused");
}

/// A command pool of the application, with one command buffer.
struct Recorded<'a> {
    device: &'a Device,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
}

impl<'a> Recorded<'a> {
    fn new(device: &'a Device, record: impl FnOnce(vk::CommandBuffer)) -> Self {
        let raw = device.raw();
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(device.queue_family());
        // SAFETY: the family is the device's.
        let pool = unsafe { raw.create_command_pool(&info, None) }.expect("a pool");
        let info =
            vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
        // SAFETY: the pool is live.
        let commands = unsafe { raw.allocate_command_buffers(&info) }.expect("a command buffer")[0];
        // SAFETY: a new command buffer.
        unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }
            .expect("it begins");
        record(commands);
        // SAFETY: it is being recorded.
        unsafe { raw.end_command_buffer(commands) }.expect("it ends");
        Self { device, pool, commands }
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        // SAFETY: tests drop it once the commands have ended.
        unsafe { self.device.raw().destroy_command_pool(self.pool, None) };
    }
}

#[test]
fn nothing_is_recorded_around_commands_that_transfer_images_themselves() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let descriptor = image("R8  ", (62, 18), 1).layers(2);
    let image = rig.engine().create_image(&lavapipe, descriptor).expect("an image");
    for (device, is_own) in [(&lavapipe, false), (&swiftshader, true)] {
        write_by_host(&image, 1);
        let attachment = image.attach(device).expect("it attaches");
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        let handle = mapping.view().expect("it is current");
        assert_eq!(handle.is_own, is_own);
        let recorded = |byte, written| {
            Recorded::new(device, |commands| {
                // SAFETY: the submission waits for earlier users; the mapping lives until the commands have ended.
                unsafe { mapping.acquire(commands, Scope::TRANSFER) }.expect("it is current");
                clear(device, commands, handle.image, byte);
                // SAFETY: it was acquired, and is in the layout GENERAL.
                unsafe { mapping.release(commands, written, Scope::TRANSFER) };
            })
        };
        let submit = |recorded: &Recorded<'_>| {
            let fence = rig.engine().submit(device, |submission| {
                mapping.uses(submission, Access::Write, Scope::TRANSFER)?;
                // SAFETY: the commands acquire the image first, and release it last.
                unsafe { submission.transfers_recorded() };
                // SAFETY: they are recorded, and live until the fence has signalled.
                unsafe { submission.commands(&[recorded.commands]) };
                Ok(())
            });
            fence.expect("it is submitted").wait(LONG).expect("it ends");
        };
        // Recorded once, submitted twice.
        let kept = recorded(0x44, true);
        for seed in [1, 2] {
            write_by_host(&image, seed);
            submit(&kept);
            assert_filled(&image, 0x44, device.name());
            assert_second_layer(&image, seed, device.name());
        }
        if is_own {
            // What the application does not copy back is not copied back.
            write_by_host(&image, 3);
            submit(&recorded(0x55, false));
            assert_host_reads(&image, 3, device.name());
        }
    }
}

#[test]
fn a_use_that_only_reads_leaves_the_texels_and_one_that_overwrites_needs_none() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let image = rig.engine().create_image(home, image("R8  ", (62, 18), 1)).expect("an image");
        let attachment = image.attach(other).expect("it attaches");
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        assert!(mapping.view().expect("it is current").is_own, "{} has other rows", other.name());
        write_by_host(&image, 5);
        rig.engine()
            .submit(other, |submission| mapping.read(submission).map(drop))
            .expect("it reads");
        assert_host_reads(&image, 5, "read");
        rig.engine()
            .submit(other, |submission| mapping.write(submission).map(drop))
            .expect("it may write, and does not");
        assert_host_reads(&image, 5, "written without a command");
        rig.engine()
            .submit(other, |submission| {
                let handle = mapping.overwrites(submission, Scope::TRANSFER)?;
                let record = move |commands| clear(other, commands, handle.image, 0xc0);
                // SAFETY: it records a valid command on what was declared.
                unsafe { submission.record(record) };
                Ok(())
            })
            .expect("it overwrites");
        assert_filled(&image, 0xc0, other.name());
    }
}

#[test]
fn mappings_attachments_and_images_may_be_dropped_while_work_uses_them() {
    let rig = Rig::new();
    for device in rig.all() {
        let copied = ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
        // SwiftShader draws into an image of its own.
        for usage in [copied, copied | ImageUsage::DRAWN] {
            let descriptor = image("AB24", (62, 18), 1).usage(usage);
            let image = rig.engine().create_image(&device, descriptor).expect("an image");
            let passage = Passage::new(rig.engine(), &device, 1 << 16);
            let attachment = image.attach(&device).expect("it attaches");
            let gate = Gate::close(&device);
            let mapping = attachment.map(Access::Write).expect("it maps");
            passage.upload(&mapping, 4);
            drop(mapping);
            // Dropped before it is submitted.
            rig.engine()
                .submit(&device, |submission| {
                    let mapping = attachment.map(Access::Read)?;
                    mapping.read(submission).map(drop)
                })
                .expect("it reads");
            drop(attachment);
            gate.open();
            assert_host_reads(&image, 4, device.name());
        }
    }
}

#[test]
fn an_application_records_the_transfers_in_submissions_of_its_own() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let image = rig.engine().create_image(&lavapipe, image("R8  ", (62, 18), 1)).expect("an image");
    for (device, byte) in [(&lavapipe, 0x20), (&swiftshader, 0x60)] {
        let attachment = image.attach(device).expect("it attaches");
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        mapping.view().expect("its content is made valid");
        submit_clear(device, &mapping, byte);
        assert_filled(&image, byte, device.name());
    }
}

/// Clears the image in a submission of the application's, and waits for it.
fn submit_clear(device: &Device, mapping: &ImageMapping, byte: u8) {
    let raw = device.raw();
    let open = mapping.mapping().begin_access(Access::ReadWrite).expect("nothing is pending");
    let recorded = Recorded::new(device, |commands| {
        // SAFETY: it is being recorded for the family, and earlier users have finished.
        unsafe { mapping.acquire(commands, Scope::TRANSFER) }.expect("it is current");
        let handle = mapping.view().expect("it is current").image;
        clear(device, commands, handle, byte);
        // SAFETY: it was acquired, and is in the layout GENERAL.
        unsafe { mapping.release(commands, true, Scope::TRANSFER) };
    });
    let all = [recorded.commands];
    let submit = [vk::SubmitInfo::default().command_buffers(&all)];
    device
        .with_queue(|queue| {
            // SAFETY: the queue is locked, and the commands are recorded.
            unsafe { raw.queue_submit(queue, &submit, vk::Fence::null()) }?;
            // SAFETY: as above.
            unsafe { raw.queue_wait_idle(queue) }
        })
        .expect("the commands run");
    open.end(Fence::signalled());
}

#[test]
fn texels_that_do_not_fit_are_refused_without_waiting_for_a_device() {
    let rig = Rig::new();
    for device in rig.all() {
        let image =
            rig.engine().create_image(&device, image("R8  ", (62, 18), 1)).expect("an image");
        let passage = Passage::new(rig.engine(), &device, 1 << 16);
        let attachment = image.attach(&device).expect("it attaches");
        let mapping = attachment.map(Access::Write).expect("it maps");
        let gate = Gate::close(&device);
        passage.upload(&mapping, 1);
        // An access of the host would wait for the upload, which the gate holds up.
        let part = ImagePart::default();
        let error = image.write_texels(part, &[0; 3]).expect_err("not so many");
        assert!(matches!(error, ImageError::TexelBytes { given: 3, needed: 1116, .. }), "{error}");
        for error in [
            image.write_texels(ImagePart::of_level(1), &[]).expect_err("no such level"),
            image.read_texels(ImagePart::of_level(1)).expect_err("no such level"),
        ] {
            assert!(matches!(error, ImageError::NoSuchPart { .. }), "{error}");
        }
        gate.open();
        assert_host_reads(&image, 1, device.name());
    }
}

#[test]
fn an_image_is_handed_over_behind_unfinished_work() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (from, to) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let image = rig.engine().create_image(from, image("AR24", (62, 18), 1)).expect("an image");
        let passages = [from, to].map(|device| Passage::new(rig.engine(), device, 1 << 16));
        let ends = [from, to].map(|device| image.attach(device).expect("it attaches"));
        let [written, read] =
            ends.each_ref().map(|end| end.map(Access::ReadWrite).expect("it maps"));
        write_by_host(&image, 1);
        let gate = Gate::close(from);
        passages[0].upload(&written, 2);
        let fence = rig
            .engine()
            .submit(to, |submission| read.read(submission).map(drop))
            .expect("it is submitted behind the write");
        assert!(!fence.is_signalled().expect("no error"), "the write has not ended");
        gate.open();
        fence.wait(LONG).expect("it ends");
        passages[1].assert_copied(&read, 2, to.name());
    }
}

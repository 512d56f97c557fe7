//! Images in submissions: declared twice, overwritten, dropped at once, and used by an application's own submissions.
#![expect(unsafe_code, reason = "raw commands of the test")]

use ash::vk;
use peerbuf::image::ImageUsage;
use peerbuf::{Access, Device, Fence, ImageMapping, Scope};

use crate::common::gate::Gate;
use crate::common::{LONG, Rig};
use crate::texels::{Passage, assert_host_reads, image, sees_any_rows, write_by_host};

/// Fills an image of one level with a byte.
fn clear(device: &Device, commands: vk::CommandBuffer, handle: vk::Image, byte: u8) {
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
    let image = rig.engine().create_image(&lavapipe, image("R8  ", (62, 18), 1)).expect("an image");
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
        let texels = image.read_texels(peerbuf::ImagePart::default()).expect("the host reads");
        assert!(texels.iter().all(|texel| *texel == byte), "{}: {texels:?}", device.name());
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
        assert_eq!(mapping.view().expect("it is current").is_own, !sees_any_rows(other));
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
        let texels = image.read_texels(peerbuf::ImagePart::default()).expect("the host reads");
        assert!(texels.iter().all(|texel| *texel == 0xc0), "{texels:?}");
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
        let texels = image.read_texels(peerbuf::ImagePart::default()).expect("the host reads");
        assert!(texels.iter().all(|texel| *texel == byte), "{}", device.name());
    }
}

/// Clears the image in a submission of the application's, and waits for it.
fn submit_clear(device: &Device, mapping: &ImageMapping, byte: u8) {
    let raw = device.raw();
    let info = vk::CommandPoolCreateInfo::default().queue_family_index(device.queue_family());
    // SAFETY: the family is the device's.
    let pool = unsafe { raw.create_command_pool(&info, None) }.expect("a pool");
    let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
    // SAFETY: the pool is live.
    let commands = unsafe { raw.allocate_command_buffers(&info) }.expect("a command buffer")[0];
    let open = mapping.mapping().begin_access(Access::ReadWrite).expect("nothing is pending");
    // SAFETY: a new command buffer.
    unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }
        .expect("it begins");
    // SAFETY: it is being recorded for the family, and earlier users have finished.
    unsafe { mapping.acquire(commands, Scope::TRANSFER) }.expect("it is current");
    let handle = mapping.view().expect("it is current").image;
    clear(device, commands, handle, byte);
    // SAFETY: it was acquired, and is in the layout GENERAL.
    unsafe { mapping.release(commands, true, Scope::TRANSFER) };
    // SAFETY: it is being recorded.
    unsafe { raw.end_command_buffer(commands) }.expect("it ends");
    let all = [commands];
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
    // SAFETY: the commands have ended.
    unsafe { raw.destroy_command_pool(pool, None) };
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

//! Mistakes of an application are found across devices, and fail its test as messages of the validation layer do
//! (`tests/driver-sim`, "The recorder"). The raw cases are tests of that package.
#![expect(unsafe_code, reason = "raw commands of the test")]

use std::sync::PoisonError;

use ash::vk::{self, ImageLayout as Layout};
use peerbuf::{Access, Device, Fence, ImageMapping, Scope, SharedImage};

use crate::common::{Rig, image_recorder, in_vm, missing, say, wait_idle};
use crate::texels::{image, write_by_host};

const GENERAL: Layout = Layout::GENERAL;
const LEVEL: vk::ImageSubresourceRange = vk::ImageSubresourceRange {
    aspect_mask: vk::ImageAspectFlags::COLOR,
    base_mip_level: 0,
    level_count: 1,
    base_array_layer: 0,
    layer_count: 1,
};

/// Takes the recorder's messages out of those that fail the test at its end. All work is waited for: what waits for a
/// semaphore that the host signals is judged once it is signalled.
fn found(rig: &Rig, devices: [&Device; 2]) -> Vec<String> {
    wait_idle(&devices);
    let mut messages = rig.messages().lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = vec![];
    messages.retain(|message| {
        let is_of_recorder = message.id.starts_with("RECORDER-");
        if is_of_recorder {
            found.push(message.to_string());
        }
        !is_of_recorder
    });
    // The loader and the validation layer may both pass a message on.
    found.dedup();
    found
}

fn assert_found(rig: &Rig, devices: [&Device; 2], rule: &str, what: &str) {
    let all = found(rig, devices);
    let is_it = |one: &String| one.starts_with(&format!("RECORDER-{rule}: "));
    assert!(!all.is_empty() && all.iter().all(is_it), "{what}: {all:#?}");
}

/// An application that submits itself, on one device. It waits for the work only if `waits` is set.
fn submits_itself(
    device: &Device,
    mapping: &ImageMapping,
    (access, waits): (Access, bool),
    record: impl FnOnce(vk::CommandBuffer, vk::Image),
) {
    let raw = device.raw();
    let handle = mapping.view().expect("it is current").image;
    let open = mapping.mapping().begin_access(access).expect("nothing is pending");
    let info = vk::CommandPoolCreateInfo::default().queue_family_index(device.queue_family());
    // SAFETY: the family is the device's.
    let pool = unsafe { raw.create_command_pool(&info, None) }.expect("a pool");
    let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
    // SAFETY: the pool is live.
    let commands = unsafe { raw.allocate_command_buffers(&info) }.expect("a command buffer");
    // SAFETY: a new command buffer.
    unsafe { raw.begin_command_buffer(commands[0], &vk::CommandBufferBeginInfo::default()) }
        .expect("it begins");
    record(commands[0], handle);
    // SAFETY: it is being recorded.
    unsafe { raw.end_command_buffer(commands[0]) }.expect("it ends");
    let submit = [vk::SubmitInfo::default().command_buffers(&commands)];
    device
        // SAFETY: the queue is locked, and the commands are recorded.
        .with_queue(|queue| unsafe { raw.queue_submit(queue, &submit, vk::Fence::null()) })
        .expect("it is submitted");
    if waits {
        wait_idle(&[device]);
    }
    open.end(Fence::signalled());
    if waits {
        // SAFETY: the commands have ended.
        unsafe { raw.destroy_command_pool(pool, None) };
    } else {
        LEFT.with_borrow_mut(|left| left.push((device.clone(), pool)));
    }
}

thread_local! {
    /// Pools of commands that were not waited for.
    static LEFT: std::cell::RefCell<Vec<(Device, vk::CommandPool)>> = const { std::cell::RefCell::new(vec![]) };
}

/// Destroys what is left of work that was not waited for.
fn tidy() {
    for (device, pool) in LEFT.take() {
        wait_idle(&[&device]);
        // SAFETY: the commands have ended.
        unsafe { device.raw().destroy_command_pool(pool, None) };
    }
}

fn clear(device: &Device, commands: vk::CommandBuffer, image: vk::Image) {
    let color = vk::ClearColorValue { float32: [1.0; 4] };
    // SAFETY: a live image of the device that can be copied to, in this layout.
    unsafe { device.raw().cmd_clear_color_image(commands, image, GENERAL, &color, &[LEVEL]) };
}

/// Releases the image in a layout that no other device expects.
fn release_in(device: &Device, commands: vk::CommandBuffer, image: vk::Image, layout: Layout) {
    let barrier = vk::ImageMemoryBarrier::default()
        .image(image)
        .old_layout(GENERAL)
        .new_layout(layout)
        .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
        .src_queue_family_index(device.queue_family())
        .dst_queue_family_index(vk::QUEUE_FAMILY_EXTERNAL)
        .subresource_range(LEVEL);
    let (all, none) = (vk::PipelineStageFlags::ALL_COMMANDS, vk::DependencyFlags::empty());
    // SAFETY: a live image of the device.
    unsafe { device.raw().cmd_pipeline_barrier(commands, all, all, none, &[], &[], &[barrier]) };
}

/// A shared image on two devices that draw into the shared bytes.
fn shared(rig: &Rig, [one, two]: [&Device; 2]) -> (SharedImage, [ImageMapping; 2]) {
    let image = rig.engine().create_image(one, image("R8  ", (62, 18), 1)).expect("an image");
    let mappings = [one, two].map(|device| {
        let attachment = image.attach(device).expect("it attaches");
        attachment.map(Access::ReadWrite).expect("it maps")
    });
    for mapping in &mappings {
        assert!(!mapping.view().expect("it is current").is_own);
    }
    write_by_host(&image, 1);
    // Where the host does not see the memory, a device copies. A later wait for that copy, by a semaphore that came from
    // the other device, would order all work of that device before it.
    wait_idle(&[one, two]);
    (image, mappings)
}

/// Two devices of one driver.
fn devices(rig: &Rig) -> Option<[Device; 2]> {
    let first = rig.lavapipe()?;
    let second = rig.open(&first.adapter().clone());
    if !image_recorder::is_on() {
        if in_vm() {
            say("the recorder of images is no part of the virtual machine");
        } else {
            missing("the recorder of images");
        }
        return None;
    }
    Some([first, second])
}

/// A device's use of an image through peerbuf.
fn uses(rig: &Rig, device: &Device, mapping: &ImageMapping, access: Access) {
    rig.engine()
        .submit(device, |submission| {
            let handle = mapping.uses(submission, access, Scope::TRANSFER)?;
            let record = move |commands| {
                if access.writes() {
                    clear(device, commands, handle.image);
                }
            };
            // SAFETY: it records a valid command on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        })
        .expect("it is submitted");
}

#[test]
fn correct_uses_are_no_finding() {
    let rig = Rig::new();
    let Some([one, two]) = devices(&rig) else { return };
    let (_image, [first, second]) = shared(&rig, [&one, &two]);
    for (device, mapping) in [(&one, &first), (&two, &second), (&one, &first)] {
        submits_itself(device, mapping, (Access::Write, true), |commands, image| {
            // SAFETY: it is being recorded for the family, and earlier users have finished.
            unsafe { mapping.acquire(commands, Scope::TRANSFER) }.expect("it is current");
            clear(device, commands, image);
            // SAFETY: it was acquired, and is in the layout GENERAL.
            unsafe { mapping.release(commands, true, Scope::TRANSFER) };
        });
        for (device, mapping) in [(&two, &second), (&one, &first)] {
            uses(&rig, device, mapping, Access::Read);
            uses(&rig, device, mapping, Access::Write);
        }
    }
    rig.engine()
        .submit(&two, |submission| {
            let handle = second.overwrites(submission, Scope::TRANSFER)?;
            let device = &two;
            let record = move |commands| clear(device, commands, handle.image);
            // SAFETY: it records a valid command on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        })
        .expect("it is submitted");
    assert_eq!(found(&rig, [&one, &two]), [""; 0]);
}

#[test]
fn an_image_that_the_application_does_not_release_is_found_at_the_next_acquire() {
    let rig = Rig::new();
    let Some([one, two]) = devices(&rig) else { return };
    let (_image, [first, second]) = shared(&rig, [&one, &two]);
    submits_itself(&one, &first, (Access::Write, true), |commands, image| {
        // SAFETY: it is being recorded for the family, and earlier users have finished.
        unsafe { first.acquire(commands, Scope::TRANSFER) }.expect("it is current");
        clear(&one, commands, image);
    });
    assert_eq!(found(&rig, [&one, &two]), [""; 0], "so far it is the owner");
    uses(&rig, &two, &second, Access::Read);
    assert_found(&rig, [&one, &two], "acquire-without-its-release", "not released");
}

#[test]
fn a_use_without_an_acquire_is_found() {
    let rig = Rig::new();
    let Some([one, two]) = devices(&rig) else { return };
    let (_image, [first, second]) = shared(&rig, [&one, &two]);
    uses(&rig, &one, &first, Access::Read);
    uses(&rig, &two, &second, Access::Write);
    submits_itself(&one, &first, (Access::Write, true), |commands, image| {
        clear(&one, commands, image);
        // SAFETY: it is in the layout GENERAL.
        unsafe { first.release(commands, true, Scope::TRANSFER) };
    });
    assert_found(&rig, [&one, &two], "use-without-ownership", "not acquired");
}

#[test]
fn an_image_that_is_released_in_another_layout_is_found() {
    let rig = Rig::new();
    let Some([one, two]) = devices(&rig) else { return };
    let (_image, [first, second]) = shared(&rig, [&one, &two]);
    submits_itself(&one, &first, (Access::Write, true), |commands, image| {
        // SAFETY: it is being recorded for the family, and earlier users have finished.
        unsafe { first.acquire(commands, Scope::TRANSFER) }.expect("it is current");
        clear(&one, commands, image);
        release_in(&one, commands, image, Layout::TRANSFER_SRC_OPTIMAL);
    });
    assert_eq!(found(&rig, [&one, &two]), [""; 0], "it is the owner");
    uses(&rig, &two, &second, Access::Read);
    assert_found(&rig, [&one, &two], "acquire-without-its-release", "another layout");
}

#[test]
fn texels_that_are_not_overwritten_as_declared_are_found() {
    let rig = Rig::new();
    let Some([one, two]) = devices(&rig) else { return };
    let (_image, [first, second]) = shared(&rig, [&one, &two]);
    uses(&rig, &one, &first, Access::Write);
    rig.engine()
        .submit(&two, |submission| second.overwrites(submission, Scope::TRANSFER).map(drop))
        .expect("it is submitted");
    assert_found(&rig, [&one, &two], "undefined-over-content", "not overwritten");
}

#[test]
fn work_that_the_application_says_has_ended_is_found_beside_the_next_write() {
    let rig = Rig::new();
    let Some([one, two]) = devices(&rig) else { return };
    let (_image, [first, second]) = shared(&rig, [&one, &two]);
    submits_itself(&one, &first, (Access::Write, false), |commands, image| {
        // SAFETY: it is being recorded for the family, and earlier users have finished.
        unsafe { first.acquire(commands, Scope::TRANSFER) }.expect("it is current");
        clear(&one, commands, image);
        // SAFETY: it was acquired, and is in the layout GENERAL.
        unsafe { first.release(commands, true, Scope::TRANSFER) };
    });
    uses(&rig, &two, &second, Access::Write);
    assert_found(&rig, [&one, &two], "beside-unfinished-use", "a fence that lies");
    tidy();
}

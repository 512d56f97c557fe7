//! Queue families, and queues that do not wait for each other.

use ash::vk;
use ash::vk::QueueFlags as Flags;

use crate::gpu::{PATIENT, World};
use crate::harness::with_and_without;

const ODD: &str = "[[device]]\ndriver = 'llvmpipe'\nprofile = 'legacy'\nswitches.api_version = '1.3'\n\
                   switches.hide_extensions = []\n";

#[test]
fn queue_families_come_in_an_odd_order_and_without_timestamps() {
    with_and_without!(ODD, |is: bool| {
        let world = World::new();
        let device = world.find("llvmpipe");
        // SAFETY: a device of this instance.
        let families =
            unsafe { world.instance.get_physical_device_queue_family_properties(device) };
        assert_eq!(families[0].queue_flags == Flags::TRANSFER, is);
        assert_eq!(families[0].timestamp_valid_bits == 0, is);
        assert_eq!(families.len(), if is { 3 } else { 1 });
    });
}

#[test]
fn queues_of_one_driver_queue_are_independent() {
    driver_sim::under(&crate::harness::simulation(ODD), || {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        // SAFETY: the device was made with all queues.
        let [transfer, graphics] =
            [0, 2].map(|family| unsafe { gpu.raw.get_device_queue(family, 0) });
        assert_ne!(transfer, graphics);
        let (gate, done) = (gpu.timeline(), gpu.timeline());
        // The first waits for what the second signals: a single queue would never get there.
        gpu.submit(transfer, &[], Some((gate, 1)), Some((done, 1))).expect("it waits");
        assert_eq!(gpu.wait(done, 1, 50), Err(vk::Result::TIMEOUT));
        gpu.submit(graphics, &[], None, Some((gate, 1))).expect("it signals");
        gpu.wait(done, 1, PATIENT).expect("both end");
        // SAFETY: the device is alive.
        unsafe { gpu.raw.device_wait_idle() }.expect("idle");
    });
}

#[test]
fn a_binary_semaphore_goes_from_queue_to_queue() {
    driver_sim::under(&crate::harness::simulation(ODD), || {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        // SAFETY: the device was made with all queues, and the structures are complete.
        let (queues, binary, fence) = unsafe {
            let queues = [0, 1].map(|family| gpu.raw.get_device_queue(family, 0));
            let binary = gpu
                .raw
                .create_semaphore(&vk::SemaphoreCreateInfo::default(), None)
                .expect("a semaphore");
            let fence =
                gpu.raw.create_fence(&vk::FenceCreateInfo::default(), None).expect("a fence");
            (queues, binary, fence)
        };
        let block = gpu.block(4096);
        let commands = gpu.filling(block, 6);
        let (semaphores, commands) = ([binary], [commands]);
        let first =
            vk::SubmitInfo::default().command_buffers(&commands).signal_semaphores(&semaphores);
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let second =
            vk::SubmitInfo::default().wait_semaphores(&semaphores).wait_dst_stage_mask(&stages);
        // SAFETY: the objects are alive until the child ends.
        unsafe {
            gpu.raw.queue_submit(queues[1], &[first], vk::Fence::null()).expect("submitted");
            gpu.raw.queue_submit(queues[0], &[second], fence).expect("submitted");
            gpu.raw.wait_for_fences(&[fence], true, PATIENT * 1_000_000).expect("both end");
            gpu.raw.queue_wait_idle(queues[0]).expect("idle");
        }
        assert_eq!(gpu.first_word(block), 6);
    });
}

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

#[test]
fn a_wait_for_a_binary_semaphore_without_commands_hangs() {
    with_and_without!("+empty_wait_hangs", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        // SAFETY: the structures are complete.
        let (binary, fence) = unsafe {
            let plain = vk::SemaphoreCreateInfo::default();
            let fence = vk::FenceCreateInfo::default();
            let fence = gpu.raw.create_fence(&fence, None).expect("a fence");
            ([gpu.raw.create_semaphore(&plain, None).expect("a semaphore")], fence)
        };
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let signal = vk::SubmitInfo::default().signal_semaphores(&binary);
        let wait = vk::SubmitInfo::default().wait_semaphores(&binary).wait_dst_stage_mask(&stages);
        let bound = if is { 50 } else { PATIENT };
        // SAFETY: the objects are alive until the child ends.
        let ended = unsafe {
            gpu.raw.queue_submit(gpu.queue(), &[signal], vk::Fence::null()).expect("submitted");
            gpu.raw.queue_submit(gpu.queue(), &[wait], fence).expect("submitted");
            gpu.raw.wait_for_fences(&[fence], true, bound * 1_000_000)
        };
        assert_eq!(ended, if is { Err(vk::Result::TIMEOUT) } else { Ok(()) });
    });
}

#[test]
fn binary_semaphores_are_signalled_again_while_earlier_waits_are_held_back() {
    driver_sim::under(&crate::harness::simulation(ODD), || {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        // SAFETY: the device was made with all queues, and the structures are complete.
        let (queue, turns, fence) = unsafe {
            let create = || gpu.raw.create_semaphore(&vk::SemaphoreCreateInfo::default(), None);
            let turns = [(); 2].map(|()| [create().expect("a semaphore")]);
            let fence = gpu.raw.create_fence(&vk::FenceCreateInfo::default(), None);
            (gpu.raw.get_device_queue(0, 0), turns, fence.expect("a fence"))
        };
        let gate = gpu.timeline();
        gpu.submit(queue, &[], Some((gate, 1)), None).expect("it waits");
        // Each waits for the one before it, by two semaphores in turn; the last two are batches of one call.
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let link = |at: usize| {
            let waits: &[_] = if at == 0 { &[] } else { &turns[(at - 1) % 2] };
            let signals: &[_] = if at == 5 { &[] } else { &turns[at % 2] };
            let info = vk::SubmitInfo::default().wait_dst_stage_mask(&stages[..waits.len()]);
            info.wait_semaphores(waits).signal_semaphores(signals)
        };
        // SAFETY: the objects are alive until the child ends.
        unsafe {
            for at in 0..4 {
                gpu.raw.queue_submit(queue, &[link(at)], vk::Fence::null()).expect("submitted");
            }
            gpu.raw.queue_submit(queue, &[link(4), link(5)], fence).expect("submitted");
            let early = gpu.raw.wait_for_fences(&[fence], true, 50_000_000);
            assert_eq!(early, Err(vk::Result::TIMEOUT));
            let open = vk::SemaphoreSignalInfo::default().semaphore(gate).value(1);
            gpu.raw.signal_semaphore(&open).expect("signalled");
            gpu.raw.wait_for_fences(&[fence], true, PATIENT * 1_000_000).expect("all end");
            gpu.raw.queue_wait_idle(queue).expect("idle");
        }
    });
}

const SYNC_FD: vk::ExternalSemaphoreHandleTypeFlags = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;

#[test]
fn a_sync_file_goes_from_device_to_device_and_its_semaphores_are_used_again() {
    driver_sim::under(&crate::harness::simulation("+sync_fd"), || {
        let world = World::new();
        let [from, to] = ["llvmpipe", "SwiftShader"].map(|name| world.find(name));
        let offered = [from, to].map(|device| {
            let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(SYNC_FD);
            let mut row = vk::ExternalSemaphoreProperties::default();
            // SAFETY: a device of this instance, of Vulkan 1.1.
            unsafe {
                let instance = &world.instance;
                instance.get_physical_device_external_semaphore_properties(device, &info, &mut row);
            }
            row.external_semaphore_features.contains(vk::ExternalSemaphoreFeatureFlags::EXPORTABLE)
        });
        assert_eq!(offered, [true; 2]);
        let (from, to) = (world.open(from), world.open(to));
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(SYNC_FD);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut export);
        // SAFETY: the structures are complete.
        let (signal, wait) = unsafe {
            let signal = from.raw.create_semaphore(&info, None).expect("a semaphore");
            let plain = vk::SemaphoreCreateInfo::default();
            ([signal], [to.raw.create_semaphore(&plain, None).expect("a semaphore")])
        };
        let fds = |gpu: &crate::gpu::Gpu<'_>| {
            ash::khr::external_semaphore_fd::Device::new(&world.instance, &gpu.raw)
        };
        let block = from.block(16 << 20);
        for word in [6, 7, 8] {
            let commands = [from.filling(block, word)];
            let work =
                vk::SubmitInfo::default().command_buffers(&commands).signal_semaphores(&signal);
            let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
            let after =
                vk::SubmitInfo::default().wait_semaphores(&wait).wait_dst_stage_mask(&stages);
            let get =
                vk::SemaphoreGetFdInfoKHR::default().semaphore(signal[0]).handle_type(SYNC_FD);
            // SAFETY: the signal is submitted before it is exported, the fd is given away once, and the objects are
            // alive until the child ends.
            unsafe {
                from.raw.queue_submit(from.queue(), &[work], vk::Fence::null()).expect("submitted");
                let fd = fds(&from).get_semaphore_fd(&get).expect("a sync file");
                let import = vk::ImportSemaphoreFdInfoKHR::default()
                    .semaphore(wait[0])
                    .handle_type(SYNC_FD)
                    .flags(vk::SemaphoreImportFlags::TEMPORARY)
                    .fd(fd);
                fds(&to).import_semaphore_fd(&import).expect("imported");
                let fence = vk::FenceCreateInfo::default();
                let fence = to.raw.create_fence(&fence, None).expect("a fence");
                to.raw.queue_submit(to.queue(), &[after], fence).expect("submitted");
                to.raw.wait_for_fences(&[fence], true, PATIENT * 1_000_000).expect("it ends");
            }
            assert_eq!(from.first_word(block), word, "it waited for the other device's work");
            // SAFETY: the device is alive.
            unsafe { from.raw.device_wait_idle() }.expect("idle");
        }
    });
}

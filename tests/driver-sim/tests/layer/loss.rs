//! Lost devices and queues that do not come back.

use ash::vk;

use crate::gpu::{PATIENT, World};
use crate::harness::{controlled, simulation, with_and_without};

#[test]
fn lost_at_submit_loses_the_device_for_good() {
    with_and_without!("llvmpipe=+lost_at_submit=3", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        gpu.ping().expect("the first");
        gpu.ping().expect("the second");
        assert_eq!(gpu.ping() == Err(vk::Result::ERROR_DEVICE_LOST), is);
        let timeline = gpu.timeline();
        // SAFETY: a timeline of this device.
        let value = unsafe { gpu.raw.get_semaphore_counter_value(timeline) };
        assert_eq!(value == Err(vk::Result::ERROR_DEVICE_LOST), is);
        let other = world.open(world.find("llvmpipe"));
        other.ping().expect("a new device of the same GPU");
    });
}

#[test]
fn lost_in_thread_accepts_the_submission_and_never_signals() {
    with_and_without!("llvmpipe=+lost_in_thread=2", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        gpu.ping().expect("the first");
        let timeline = gpu.timeline();
        gpu.submit(gpu.queue(), &[], None, Some((timeline, 1))).expect("it is accepted");
        assert_eq!(gpu.wait(timeline, 1, PATIENT) == Err(vk::Result::ERROR_DEVICE_LOST), is);
    });
}

#[test]
fn work_after_lost_still_writes() {
    driver_sim::under(&controlled("llvmpipe=+work_after_lost"), || {
        still_writes(true, vk::Result::TIMEOUT);
    });
    driver_sim::under(&controlled("llvmpipe=+work_after_lost+lost_waits='at_once'"), || {
        still_writes(true, vk::Result::ERROR_DEVICE_LOST);
    });
    driver_sim::under(&controlled(""), || still_writes(false, vk::Result::ERROR_DEVICE_LOST));
}

/// Work is held back, the device is lost with the next submission, and then the work is let go.
fn still_writes(is: bool, while_it_runs: vk::Result) {
    let control = driver_sim::Control::of_this_process().expect("a control file");
    let world = World::new();
    let (gpu, healthy) = (world.open(world.find("llvmpipe")), world.open(world.find("llvmpipe")));
    let (block, fd) = healthy.exported(4096);
    let import = gpu.import(fd, 4096).expect("an import");
    healthy.fill(block, 1).expect("a fill");
    let commands = gpu.filling(import, 7);
    let timeline = gpu.timeline();
    control.set("+hung_after=2").expect("written");
    gpu.ping_only();
    gpu.ping_only();
    gpu.submit(gpu.queue(), &[commands], None, Some((timeline, 1)))
        .expect("submitted before the loss");
    control.set("+hung_after=2 +lost_at_submit=4").expect("written");
    let lost = gpu.submit(gpu.queue(), &[], None, Some((timeline, 2)));
    assert_eq!(lost, Err(vk::Result::ERROR_DEVICE_LOST));
    assert_eq!(gpu.wait(timeline, 1, 300), Err(while_it_runs));
    assert_eq!(healthy.first_word(block), 1, "not yet");
    control.set("+lost_at_submit=4").expect("written");
    // SAFETY: the device is alive.
    let idle = unsafe { gpu.raw.device_wait_idle() };
    assert_eq!(idle, Err(vk::Result::ERROR_DEVICE_LOST));
    let mut rounds = 0;
    while is && healthy.first_word(block) != 7 {
        rounds += 1;
        assert!(rounds < 120_000, "the work never ran");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    if !is {
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(healthy.first_word(block), 1, "the work ended with the device");
    }
}

#[test]
fn a_wait_with_a_limit_keeps_to_it_while_the_driver_waits_for_the_host() {
    driver_sim::under(&simulation("+lost_at_submit=2"), || {
        let world = World::new();
        for name in ["llvmpipe", "SwiftShader"] {
            let gpu = world.open(world.find(name));
            let (of_host, timeline) = (gpu.timeline(), gpu.timeline());
            gpu.submit(gpu.queue(), &[], Some((of_host, 1)), Some((timeline, 1)))
                .expect("submitted before the loss");
            let lost = gpu.submit(gpu.queue(), &[], None, None);
            assert_eq!(lost, Err(vk::Result::ERROR_DEVICE_LOST), "{name}");
            assert_eq!(gpu.wait(timeline, 1, 100), Err(vk::Result::TIMEOUT), "{name}");
            let signal = vk::SemaphoreSignalInfo::default().semaphore(of_host).value(1);
            // SAFETY: a timeline of this device, whose value it raises.
            unsafe { gpu.raw.signal_semaphore(&signal) }.expect("the host signals");
            let lost = gpu.wait(timeline, 1, PATIENT);
            assert_eq!(lost, Err(vk::Result::ERROR_DEVICE_LOST), "{name}");
        }
    });
}

impl crate::gpu::Gpu<'_> {
    /// An empty submission that is not waited for.
    fn ping_only(&self) {
        self.submit(self.queue(), &[], None, None).expect("an empty submission");
    }
}

#[test]
fn hung_after_never_completes_and_waits_time_out() {
    with_and_without!("llvmpipe=+hung_after=1", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        gpu.ping().expect("the first");
        let timeline = gpu.timeline();
        gpu.submit(gpu.queue(), &[], None, Some((timeline, 1))).expect("it is accepted");
        assert_eq!(
            gpu.wait(timeline, 1, if is { 100 } else { PATIENT }) == Err(vk::Result::TIMEOUT),
            is
        );
        let other = world.open(world.find("SwiftShader"));
        other.ping().expect("another GPU");
    });
}

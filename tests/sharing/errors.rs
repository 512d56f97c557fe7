//! Invalid input and failures return errors that state the cause, with its numbers.

use crate::common::{LONG, Rig, assert_pattern, bytes, fill, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Error, Placement, SharedBuffer,
};

fn create(rig: &Rig, home: &Device, size: u64) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(size)).expect("a buffer")
}

#[test]
fn a_buffer_of_no_bytes_is_refused() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let error = rig.engine().create_buffer(device, BufferDescriptor::new(0)).expect_err("no size");
    assert!(matches!(error, Error::InvalidSize { size: 0, .. }), "{error:?}");
}

#[test]
fn a_size_beyond_the_heap_is_refused_with_the_budget() {
    let rig = Rig::new();
    for device in rig.all() {
        let heap = device.adapter().heaps().iter().map(|heap| heap.size).max().expect("a heap");
        for size in [heap + 1, 1 << 50, 1 << 62] {
            let vram = BufferDescriptor::new(size).placement(Placement::Vram);
            let error = rig.engine().create_buffer(&device, vram).expect_err("too large");
            let Error::OutOfMemory { domain, requested, budget, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*domain, DomainId::Vram(device.id()));
            assert!(*requested >= size && *budget <= heap, "{error}");
            for number in [*requested, *budget] {
                assert!(error.to_string().contains(&number.to_string()), "{error}");
            }
            assert!(error.is_out_of_memory());
        }
        let largest = BufferDescriptor::new(u64::MAX);
        let error = rig.engine().create_buffer(&device, largest).expect_err("no such size");
        assert!(matches!(error, Error::InvalidSize { size: u64::MAX, .. }), "{error:?}");
        let system = BufferDescriptor::new(1 << 60).placement(Placement::System);
        let error = rig.engine().create_buffer(&device, system).expect_err("too large");
        assert!(matches!(error, Error::OutOfMemory { domain: DomainId::System, .. }), "{error:?}");
    }
}

#[test]
fn a_lost_device_is_named_and_the_others_keep_working() {
    let rig = Rig::new();
    // Of every adapter, one device is lost and one is not.
    let devices = rig.twice_each();
    for lost in devices.iter().step_by(2) {
        // Everything that the lost device needs is created before it is lost.
        let healthy: Vec<_> = devices.iter().skip(1).step_by(2).collect();
        let doomed = create(&rig, lost, 4096);
        let mapping = doomed.attach(lost).and_then(|attachment| attachment.map(Access::ReadWrite));
        let mapping = mapping.expect("mapped");
        mapping.fill(1).expect("the device works");
        let code = vk::Result::ERROR_DEVICE_LOST;
        rig.engine().calls().fail_nth(Call::QueueSubmit, 1, code);
        let error = mapping.fill(2).expect_err("the device is lost");
        let Error::DeviceLost { device, call, .. } = &error else { panic!("{error:?}") };
        assert_eq!((device.as_str(), *call), (lost.name(), "vkQueueSubmit"));
        assert!(error.is_device_lost() && lost.is_lost());
        for device in healthy {
            let buffer = create(&rig, device, 4096);
            let attachment = buffer.attach(device).expect("attached");
            fill(&attachment, 3);
            assert_pattern(&attachment, 3, "a device that was not lost");
        }
    }
}

#[test]
fn a_wait_on_a_lost_device_returns_device_lost() {
    let rig = Rig::new();
    for device in rig.all() {
        let [source, target] = [1, 2].map(|_| create(&rig, &device, 1 << 20));
        bytes::write(&source, 5);
        let code = vk::Result::ERROR_DEVICE_LOST;
        rig.engine().calls().fail_nth(Call::WaitSemaphores, 1, code);
        // Whether a wait blocks depends on the machine. Enough of these waits do.
        for _ in 0..200 {
            let copied = rig.engine().copy(&source, &target, CopyRegion::first(1 << 20));
            match copied.and_then(|fence| fence.wait(LONG)) {
                Ok(()) => {}
                Err(error) => {
                    assert!(error.is_device_lost(), "{error:?}");
                    break;
                }
            }
        }
        assert_eq!(device.is_lost(), !rig.engine().calls().clear_faults(), "{}", device.name());
        // The device is not really lost. Its work must end before its memory is freed.
        wait_idle(&[&device]);
    }
}

#[test]
fn objects_of_another_engine_are_refused() {
    let rig = Rig::new();
    let [ours, peer] = rig.two_of_one_adapter();
    let external = rig.external_engine();
    let theirs = rig.open_on(&external, &ours);
    let buffer = create(&rig, &ours, 4096);
    let foreign = external.create_buffer(&theirs, BufferDescriptor::new(4096)).expect("a buffer");
    let errors = [
        rig.engine().create_buffer(&theirs, BufferDescriptor::new(4096)).map(drop),
        buffer.attach(&theirs).map(drop),
        rig.engine().copy(&buffer, &foreign, CopyRegion::first(1)).map(drop),
        rig.engine().copy(&foreign, &buffer, CopyRegion::first(1)).map(drop),
        external.copy(&buffer, &buffer, CopyRegion::first(1)).map(drop),
        rig.engine().route(&ours, &theirs).map(drop),
        external.route(&ours, &peer).map(drop),
    ];
    for (index, result) in errors.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::ForeignEngine { .. })), "{index}: {result:?}");
    }
}

#[test]
fn compute_passes_require_whole_words() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 4098);
        let mapping =
            buffer.attach(&device).and_then(|attachment| attachment.map(Access::ReadWrite));
        let mapping = mapping.expect("mapped");
        let errors =
            [mapping.fill(1).map(drop), mapping.verify(1).map(drop), mapping.checksum().map(drop)];
        for result in errors {
            let error = result.expect_err("4098 bytes are no whole words");
            assert!(matches!(error, Error::Misaligned { value: 4098, align: 4, .. }), "{error:?}");
        }
        bytes::assert_zero(&buffer, "nothing was written");
    }
}

#[test]
fn a_pass_copies_between_mappings_of_one_device() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let [source, target] = [1, 2].map(|_| create(&rig, &first, 4096));
    let small = create(&rig, &first, 100);
    let map = |buffer: &SharedBuffer, device: &Device| {
        buffer
            .attach(device)
            .and_then(|attachment| attachment.map(Access::ReadWrite))
            .expect("mapped")
    };
    let (from, to, other) = (map(&source, &first), map(&target, &first), map(&target, &second));
    from.fill(8).expect("a pass");
    from.copy_to(&to).expect("the same device");
    assert!(to.verify(8).expect("a pass").is_clean());
    let error = from.copy_to(&other).expect_err("another device");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    let error = from.copy_to(&map(&small, &first)).expect_err("too small");
    assert!(matches!(error, Error::OutOfBounds { len: 4096, size: 100, .. }), "{error:?}");
}

#[test]
fn wrong_bytes_are_reported_without_an_error() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 4096);
        let attachment = buffer.attach(&device).expect("attached");
        fill(&attachment, 1);
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        let mut word = [0; 4];
        access.read(400, &mut word).expect("in range");
        access.write(400, &word.map(|byte| !byte)).expect("in range");
        access.read(4092, &mut word).expect("in range");
        access.write(4092, &word.map(|byte| !byte)).expect("in range");
        access.end().expect("it ends");
        let report = attachment.map(Access::Read).and_then(|m| m.verify(1)).expect("a pass");
        assert_eq!((report.words, report.wrong, report.first_wrong), (1024, 2, Some(400)));
    }
}

#[test]
fn errors_report_whether_they_are_retryable() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let buffer = create(&rig, device, 4096);
    let _held = buffer.host_access(Access::Read).expect("host access");
    let error = buffer.export_foreign().expect_err("it would have to leave its slab");
    assert!(matches!(error, Error::Busy { host: 1, .. }) && error.is_retryable(), "{error:?}");
    assert!(!error.is_out_of_memory() && !error.is_device_lost());
}

#[test]
fn a_maximal_timeout_does_not_overflow() {
    let rig = Rig::with(|descriptor| descriptor.timeout(std::time::Duration::MAX));
    let [home, _] = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&home, BufferDescriptor::new(64)).expect("a buffer");
    drop(buffer.host_access(Access::Read).expect("no overflow"));
}

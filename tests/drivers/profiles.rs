//! What holds under every profile.

use driver_sim::PROFILES;
use peerbuf::device::Call;
use peerbuf::{BufferDescriptor, Error};

use crate::common::{Rig, assert_pattern, fill};
use crate::under;

/// Profiles of drivers that lack what peerbuf requires of a device.
const UNUSABLE: [&str; 1] = ["legacy"];

fn usable() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|profile| profile.name).filter(|name| !UNUSABLE.contains(name))
}

#[test]
fn every_profile_opens_a_device_that_computes() {
    for profile in usable() {
        under(profile, || {
            let rig = Rig::new();
            for device in rig.all() {
                let buffer = rig.engine().create_buffer(&device, BufferDescriptor::new(1 << 20));
                let attachment = buffer.expect("a buffer").attach(&device).expect("its own buffer");
                fill(&attachment, 7);
                assert_pattern(&attachment, 7, profile);
            }
        });
    }
}

#[test]
fn a_driver_that_is_too_old_hides_no_other() {
    for profile in UNUSABLE {
        under(&format!("llvmpipe={profile}"), || {
            let rig = Rig::new();
            let usable =
                rig.engine().adapters().iter().filter(|adapter| adapter.missing().is_empty());
            assert_eq!(usable.count(), 1, "SwiftShader");
        });
    }
}

#[test]
fn two_devices_of_one_gpu_share_under_every_profile() {
    for profile in usable() {
        under(profile, || {
            let rig = Rig::new();
            let [home, other] = rig.two_of_one_adapter();
            let buffer = rig.engine().create_buffer(&home, BufferDescriptor::new(1 << 20));
            let buffer = buffer.expect("a buffer");
            let (own, theirs) = (buffer.attach(&home), buffer.attach(&other));
            let (own, theirs) =
                (own.expect("its own buffer"), theirs.expect("memory of the same GPU"));
            fill(&own, 3);
            assert_pattern(&theirs, 3, profile);
        });
    }
}

/// `maxBufferSize` may be smaller than the largest allocation (llama.cpp#18160).
#[test]
fn a_buffer_beyond_the_largest_that_the_driver_makes_is_refused_before_any_call() {
    const LIMIT: u64 = 16 << 20;
    under("+max_buffer_size=16M", || {
        let rig = Rig::new();
        for device in rig.all() {
            assert!(device.adapter().max_allocation() <= LIMIT, "{}", device.name());
            let create = |size| rig.engine().create_buffer(&device, BufferDescriptor::new(size));
            let buffer = create(LIMIT).expect("as large as the limit");
            fill(&buffer.attach(&device).expect("its own buffer"), 5);
            let calls = [Call::CreateBuffer, Call::AllocateMemory];
            let made = || calls.map(|call| rig.engine().calls().made(call));
            let before = made();
            let error = create(LIMIT + 4).expect_err("the driver makes no such buffer");
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(&LIMIT.to_string()), "{error}");
            assert_eq!(made(), before, "{error}");
        }
    });
}

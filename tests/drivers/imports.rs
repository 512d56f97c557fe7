//! Imports that other drivers refuse, and memory that they report otherwise.

use peerbuf::{Access, BufferDescriptor, CopyRegion, Error};

use crate::common::{Rig, assert_pattern, fill};
use crate::under;

#[test]
fn copies_go_on_where_every_host_pointer_is_refused() {
    under("+refuse_host_pointer=all", || {
        let rig = Rig::new();
        let Some(devices) = rig.two_drivers() else { return };
        let [from, to] = devices.each_ref().map(|device| {
            rig.engine().create_buffer(device, BufferDescriptor::new(1 << 20)).expect("a buffer")
        });
        assert!(matches!(from.attach(&devices[1]), Err(Error::Unreachable { .. })), "no route");
        fill(&from.attach(&devices[0]).expect("its own buffer"), 5);
        rig.engine().copy(&from, &to, CopyRegion::first(1 << 20)).expect("a staged copy");
        assert_pattern(&to.attach(&devices[1]).expect("its own buffer"), 5, "after the copy");
    });
}

#[test]
fn memory_that_is_not_coherent_is_flushed_and_invalidated() {
    under("+non_coherent=256", || {
        let rig = Rig::new();
        for device in rig.all() {
            let buffer = rig.engine().create_buffer(&device, BufferDescriptor::new(64 << 10));
            let buffer = buffer.expect("a buffer");
            let attachment = buffer.attach(&device).expect("its own buffer");
            fill(&attachment, 9);
            let mut word = [0; 4];
            let access = buffer.host_access(Access::ReadWrite).expect("host access");
            access.read(0, &mut word).expect("within the buffer");
            assert_ne!(word, [0; 4], "the device's bytes are there");
            access.write(0, &[0; 4]).expect("within the buffer");
            access.end().expect("the access ends");
            let report = attachment.map(Access::Read).expect("mapped").verify(9);
            assert_eq!(report.expect("the pass runs").wrong, 1, "the host's word arrived");
        }
    });
}

/// ivi-homescreen#219, #598: two GPUs of one driver with one UUID, fds alone, and a driver that wants more in the file than
/// it imports. The fd of the refused import is closed, which the rig checks.
#[test]
fn a_refusal_for_want_of_slack_names_both_sizes() {
    let text = "
        [[duplicate]]
        driver = \"llvmpipe\"
        [[device]]
        driver = \"llvmpipe\"
        switches.identity = { device_uuid = 0x86 }
        switches.import_slack = \"1 MiB\"
        switches.no_external_memory_host = true
    ";
    under(text, || {
        let rig = Rig::new();
        let all = rig.engine().adapters().iter();
        let twins: Vec<_> = all.filter(|adapter| adapter.name().contains("llvmpipe")).collect();
        let [first, second] = [0, 1].map(|at: usize| rig.open(twins[at]));
        let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(1 << 20));
        let error = buffer.expect("a buffer").attach(&second).expect_err("no route");
        let Error::Unreachable { refused, .. } = &error else { panic!("{error:?}") };
        let named =
            |text: &str| text.contains("imports of ") && text.contains(" bytes from a file of ");
        assert!(refused.iter().any(|refusal| named(&refusal.reason.to_string())), "{refused:?}");
    });
}

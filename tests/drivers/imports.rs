//! Imports that other drivers refuse, and memory that they report otherwise.

use std::os::fd::AsFd;
use std::time::Duration;

use driver_sim::Control;
use peerbuf::{Access, BufferDescriptor, CopyRegion, Error, Placement};

use crate::common::{LONG, Rig, assert_pattern, fill};
use crate::{under, under_control};

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

/// RADV closes the fd of an import that fails late. Its number may then name a duplicate of the same file.
#[test]
fn duplicates_of_a_file_stay_open_while_its_imports_fail() {
    const ROUNDS: u32 = 200;
    let text = "
        [[duplicate]]
        driver = \"llvmpipe\"
        [[device]]
        driver = \"llvmpipe\"
        switches.identity = { device_uuid = 0x86 }
        switches.no_external_memory_host = true
    ";
    under_control(text, || {
        let control = Control::of_this_process().expect("a control file");
        let rig = Rig::new();
        let all = rig.engine().adapters().iter();
        let twins: Vec<_> = all.filter(|adapter| adapter.name().contains("llvmpipe")).collect();
        let [first, second] = [0, 1].map(|at: usize| rig.open(twins[at]));
        let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(1 << 20));
        let buffer = buffer.expect("a buffer");
        let export = buffer.export_foreign().expect("its memory has an fd");
        buffer.attach(&second).map(drop).expect("a route");
        rig.engine().trim();
        control.set("llvmpipe=+import_slack='1 GiB'+failed_import_closes_fd").expect("written");
        std::thread::scope(|scope| {
            let fail =
                || (0..ROUNDS).for_each(|_| drop(buffer.attach(&second).expect_err("refused")));
            let importing = scope.spawn(fail);
            while !importing.is_finished() {
                let handle = export.handle().expect("a duplicate");
                rustix::fs::fstat(handle.as_fd()).expect("nothing has closed it");
            }
        });
        control.set("").expect("written");
        fill(&buffer.attach(&second).expect("imported again"), 5);
    });
}

#[test]
fn imports_of_system_memory_stay_within_the_drivers_budget() {
    const USED: u64 = 1 << 30;
    under("[[device]]\ndriver = 'llvmpipe'\nswitches.identity.kind = 'discrete'\n", || {
        let rig = Rig::new();
        let Some(near) = rig.lavapipe() else { return };
        let far = rig.open(&near.adapter().clone());
        rig.engine().prove_routes(&[near.clone(), far.clone()]).expect("routes");
        let create = || {
            let descriptor = BufferDescriptor::new((8 << 20) + 4).placement(Placement::System);
            rig.engine().create_buffer(&near, descriptor).expect("there is room")
        };
        let buffers = [create(), create(), create()];
        let attach = |at: usize| buffers[at].attach(&far);
        let mut attachments = vec![attach(0).expect("a route"), attach(1).expect("a route")];
        let imports = || rig.engine().imports(&far).expect("a device of this engine");
        let used = imports().system;
        assert!(used >= 16 << 20, "{used}");
        let calls = rig.engine().calls();
        let report = |second, left| {
            calls.set_heap_budget(Some((USED + left, USED)));
            calls.set_clock(Some(Duration::from_secs(second)));
        };
        report(1000, 0);
        let error = attach(2).expect_err("nothing is left");
        let Error::ImportLimit(beyond) = error else { panic!("{error}") };
        assert_eq!((beyond.imported, beyond.limit), (used, used));
        report(1001, used);
        attachments.push(attach(2).expect("as much is left"));
        // Other programs need more: what is not used is given back.
        drop(attachments);
        assert_eq!(imports().views, 3);
        calls.set_heap_budget(Some((1 << 20, USED)));
        calls.set_clock(Some(Duration::from_secs(1002)));
        let fence = rig.engine().submit(&far, |_| Ok(())).expect("submitted");
        // They wait for all work of the device, and are freed when memory is collected: when a buffer is created.
        fence.wait(LONG).expect("it ends");
        drop(create());
        assert_eq!(imports().views, 0);
        calls.set_heap_budget(None);
    });
}

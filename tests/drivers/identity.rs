//! Two GPUs of one driver that report the same UUIDs, as ANV before 21.x and MoltenVK do (llama.cpp#19026).

use peerbuf::transfer::{RefusalReason, Verdict};
use peerbuf::{BufferDescriptor, Device, Route};

use crate::common::{Rig, assert_pattern, fill};
use crate::under;

/// Twice llvmpipe, with equal UUIDs. `first` and `second` say where they are.
fn twins(first: &str, second: &str) -> String {
    // The driver has one index of the first two, the copy is the last one.
    format!(
        "
        [[duplicate]]
        driver = \"llvmpipe\"
        [[device]]
        driver = \"llvmpipe\"
        switches.identity = {{ device_uuid = 0x86, {first} }}
        [[device]]
        index = 2
        switches.identity = {{ {second} }}
        "
    )
}

/// Opens both, and returns the verdict on the route from the first to the second.
fn verdict(rig: &Rig) -> Verdict {
    let twins =
        rig.engine().adapters().iter().filter(|adapter| adapter.name().contains("llvmpipe"));
    let devices: Vec<Device> = twins.map(|adapter| rig.open(adapter)).collect();
    let [first, second] = &devices[..] else { panic!("{} devices", devices.len()) };
    let uuids = [first, second].map(|device| device.adapter().device_uuid());
    assert_eq!(uuids[0], uuids[1]);
    let verdict = rig.engine().route(first, second).expect("a verdict");
    assert_ne!(verdict.route, Route::OpaqueFd, "{verdict:?}");
    (*verdict).clone()
}

fn reason(verdict: &Verdict, route: Route) -> &RefusalReason {
    let mut refused = verdict.refused.iter().filter(|refusal| refusal.route == route);
    &refused.next().unwrap_or_else(|| panic!("{verdict:?}")).reason
}

#[test]
fn equal_uuids_at_two_pci_addresses_are_two_devices() {
    let text = twins("pci = [0, 3, 0, 0]", "pci = [0, 0x83, 0, 0]");
    under(&text, || {
        let rig = Rig::new();
        let verdict = verdict(&rig);
        let RefusalReason::OtherPciAddress { theirs, ours } = reason(&verdict, Route::OpaqueFd)
        else {
            panic!("{verdict:?}")
        };
        assert_eq!((theirs.bus, ours.bus), (3, 0x83));
    });
}

#[test]
fn equal_uuids_at_two_render_nodes_are_two_devices() {
    under(&twins("render_node = 128", "render_node = 129"), || {
        let rig = Rig::new();
        let verdict = verdict(&rig);
        let RefusalReason::OtherDrmNode { theirs, ours } = reason(&verdict, Route::OpaqueFd) else {
            panic!("{verdict:?}")
        };
        assert_eq!((theirs.minor, ours.minor), (128, 129));
    });
}

/// The verdict on one is not that on the other, though UUIDs are all that tells them apart elsewhere.
#[test]
fn verdicts_of_equal_uuids_are_kept_apart() {
    under(&twins("pci = [0, 3, 0, 0]", "pci = [0, 0x83, 0, 0]"), || {
        let rig = Rig::new();
        let mut adapters = rig.engine().adapters().iter();
        let first = adapters.find(|adapter| adapter.name().contains("llvmpipe"));
        let first = first.expect("two are listed").clone();
        let [one, same] = [rig.open(&first), rig.open(&first)];
        let own = rig.engine().route(&one, &same).expect("a verdict");
        // Not that it is the chosen one: another may be faster.
        let works = own.working.iter().any(|working| working.route == Route::OpaqueFd);
        assert!(works, "two devices of one GPU: {own:?}");
        let verdict = verdict(&rig);
        assert!(matches!(reason(&verdict, Route::OpaqueFd), RefusalReason::OtherPciAddress { .. }));
    });
}

/// Two manifests of one driver list its GPU twice (Vulkan-Loader#493, #1874, Vulkan-Tools#1195).
#[test]
fn a_gpu_that_is_listed_twice_shares_as_two_openings_of_it() {
    under(&twins("pci = [0, 3, 0, 0]", "pci = [0, 3, 0, 0]"), || {
        let rig = Rig::new();
        let twins =
            rig.engine().adapters().iter().filter(|adapter| adapter.name().contains("llvmpipe"));
        let devices: Vec<Device> = twins.map(|adapter| rig.open(adapter)).collect();
        let [first, second] = &devices[..] else { panic!("{} devices", devices.len()) };
        let verdict = rig.engine().route(first, second).expect("a verdict");
        let works = verdict.working.iter().any(|working| working.route == Route::OpaqueFd);
        assert!(works, "one GPU: {verdict:?}");
        let buffer = rig.engine().create_buffer(first, BufferDescriptor::new(1 << 20));
        let buffer = buffer.expect("a buffer");
        let [own, theirs] = [first, second].map(|device| buffer.attach(device).expect("attached"));
        fill(&own, 3);
        assert_pattern(&theirs, 3, "listed twice");
    });
}

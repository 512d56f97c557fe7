//! Two adapters with one UUID: a driver that is listed twice, as drivers that give one UUID to all devices of a kind.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::turn::turn;
use crate::common::{Rig, child, missing};
use peerbuf::device::Call;

/// lavapipe's manifest, as its package installs it.
const MANIFEST: &str = "/usr/share/vulkan/icd.d/lvp_icd.json";

#[test]
fn adapters_with_one_uuid_have_verdicts_of_their_own() {
    if !child::is_child() {
        if !Path::new(MANIFEST).exists() {
            return missing(MANIFEST);
        }
        let _turn = turn();
        let copy = std::env::temp_dir().join(format!("peerbuf-{}-lvp.json", std::process::id()));
        fs::copy(MANIFEST, &copy).expect("a copy");
        let both = format!("{MANIFEST}:{}", copy.display());
        child::run(|command| command.env("VK_DRIVER_FILES", &both));
        return fs::remove_file(copy).expect("it was made above");
    }
    let rig = Rig::new();
    let [first, other] = rig.engine().adapters() else {
        panic!("two manifests, two adapters: {:?}", rig.engine().adapters())
    };
    assert_eq!(first.device_uuid(), other.device_uuid());
    let [from, twin, to] = [first, first, other].map(|adapter| rig.open(adapter));
    let known = rig.engine().route(&from, &twin).expect("a verdict");
    let before = rig.engine().calls().made(Call::CreateDevice);
    let found = rig.engine().route(&from, &to).expect("a verdict");
    assert!(!Arc::ptr_eq(&known, &found), "what is known of one is not said of the other");
    assert_eq!(rig.engine().calls().made(Call::CreateDevice) - before, 2, "it is tried itself");
}

//! Both programs under simulated drivers (`tests/driver-sim`): other heaps, imports that fail, small BARs.

use crate::common::{devices, prime, said, simulation, stream};
use serde_json::json;

/// Profiles that differ most: RADV refuses host pointers to files, NVIDIA's exports fail at importers, ANV has a small BAR.
const PROFILES: [&str; 3] = ["radv", "nvidia", "anv"];

#[test]
fn frames_are_whole_and_in_order_on_every_pair() {
    let devices = devices();
    for profile in PROFILES {
        let (simulation, _) = simulation(profile, profile);
        for render in &devices {
            for present in &devices {
                let fixed = ["--frames", "48", "--size", "300x200", "--verify"];
                let events = ["--move-every", "7", "--switch-every", "11", "--resize-every", "23"];
                let pair = ["--render", &render.number, "--present", &present.number];
                let arguments = [&fixed[..], &events, &pair].concat();
                let said = said(simulation.apply(&mut prime()), &arguments);
                let what = format!("{profile}: {} → {}: {said:#}", render.name, present.name);
                assert_eq!(said["frames"], json!(48), "{what}");
                assert_eq!(said["wrong"], json!([]), "{what}");
                assert!(said["checked"].as_u64() >= Some(44), "{what}");
            }
        }
    }
}

#[test]
fn every_tile_on_the_screen_is_what_it_must_be() {
    for profile in PROFILES {
        let (simulation, _) = simulation(profile, profile);
        for device in devices() {
            let fixed = ["--frames", "60", "--levels", "3", "--size", "300x200", "--verify"];
            let arguments = [&fixed[..], &["--device", &device.number]].concat();
            let said = said(simulation.apply(&mut stream()), &arguments);
            let what = format!("{profile}: {}: {said:#}", device.name);
            assert_eq!(said["frames"], json!(60), "{what}");
            assert_eq!(said["wrong"], json!([]), "{what}");
            assert!(said["checked"].as_u64() >= Some(60), "{what}");
        }
    }
}

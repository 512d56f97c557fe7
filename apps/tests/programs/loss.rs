//! A device is lost in the middle of a run: drivers are simulated (`tests/driver-sim`).

use crate::common::{Usable, devices, prime, said, sentence, simulation, stream};
use serde_json::{Value, json};

/// Frames of a run. The device is lost in the middle.
const FRAMES: &str = "120";
const FIXED: [&str; 5] = ["--frames", FRAMES, "--size", "400x300", "--verify"];

/// How a device is lost at a submission: the submission says so, or it is accepted and never runs; what was submitted before
/// ends first, or goes on behind waits that return at once.
const MANNERS: [&str; 3] = [
    "lost_at_submit=80",
    "lost_in_thread=80",
    "lost_at_submit=80+work_after_lost=true+lost_waits=at_once",
];

/// A run of `prime` in which the numbered device is lost.
fn prime_loses(lost: &Usable, manner: &str, pair: [&Usable; 2]) -> Value {
    let (simulation, report) = simulation(&format!("{}=+{manner}", lost.number), "loss");
    let devices = ["--render", &pair[0].number, "--present", &pair[1].number];
    let said = said(simulation.apply(&mut prime()), &[&FIXED[..], &devices].concat());
    let report = std::fs::read_to_string(report).expect("a report");
    let switch = manner.split('=').next().expect("a switch");
    assert!(report.contains(switch), "{manner} has not happened: {report}{said:#}");
    said
}

/// Every frame was shown, and all that were checked are right. Those in flight at the loss could not be.
fn assert_whole(said: &Value, what: &str) {
    assert_eq!(said["frames"], json!(120), "{what}: {said:#}");
    assert_eq!(said["wrong"], json!([]), "{what}: {said:#}");
    assert!(said["checked"].as_u64() >= Some(110), "{what}: {said:#}");
    assert_ne!(said["events"], json!([]), "{what}: {said:#}");
}

/// Whether a printed name is a device's. A number follows it, since two may have the same name.
fn is(printed: &Value, device: &Usable) -> bool {
    printed.as_str().is_some_and(|printed| printed.starts_with(&device.name))
}

/// One device draws and presents at the end.
fn assert_devices(said: &Value, device: &Usable, what: &str) {
    assert!(is(&said["render"], device) && is(&said["present"], device), "{what}: {said:#}");
}

#[test]
fn the_presenting_device_goes_on_alone_when_the_drawing_one_is_lost() {
    let devices = devices();
    for manner in MANNERS {
        for [render, present] in [[0, 1], [1, 0]].map(|pair| pair.map(|at| &devices[at])) {
            let said = prime_loses(render, manner, [render, present]);
            let what = format!("{} → {}, {manner}", render.name, present.name);
            assert_whole(&said, &what);
            assert_devices(&said, present, &what);
            let events = said["events"].to_string();
            assert!(events.contains("goes on alone"), "{what}: {events}");
        }
    }
}

#[test]
fn the_drawing_device_presents_when_the_presenting_one_is_lost() {
    let devices = devices();
    for manner in MANNERS {
        for [render, present] in [[0, 1], [1, 0]].map(|pair| pair.map(|at| &devices[at])) {
            let said = prime_loses(present, manner, [render, present]);
            let what = format!("{} → {}, {manner}", render.name, present.name);
            assert_whole(&said, &what);
            assert_devices(&said, render, &what);
        }
    }
}

/// At each of the first submissions of a device: while the ring is made, and when the first frames are drawn.
#[test]
fn the_presenting_device_draws_when_the_other_one_is_lost_at_the_start() {
    let devices = devices();
    for [render, present] in [[0, 1], [1, 0]].map(|pair| pair.map(|at| &devices[at])) {
        let mut happened = 0;
        for nth in 1..=8 {
            let manner = format!("{}=+lost_at_submit={nth}", render.number);
            let (simulation, report) = simulation(&manner, "loss-at-start");
            let pair = ["--render", &render.number, "--present", &present.number];
            let fixed = ["--frames", "20", "--size", "400x300", "--verify"];
            let said = said(simulation.apply(&mut prime()), &[&fixed[..], &pair].concat());
            let what = format!("{} → {}, {manner}: {said:#}", render.name, present.name);
            assert_eq!(said["frames"], json!(20), "{what}");
            assert_eq!(said["wrong"], json!([]), "{what}");
            assert_devices(&said, present, &what);
            let report = std::fs::read_to_string(report).unwrap_or_default();
            happened += u32::from(report.contains("lost_at_submit"));
        }
        assert_eq!(happened, 8, "{} submits while it starts", render.name);
    }
}

#[test]
fn another_device_takes_over_when_the_only_one_in_use_is_lost() {
    let devices = devices();
    for [lost, other] in [[0, 1], [1, 0]].map(|pair| pair.map(|at| &devices[at])) {
        let said = prime_loses(lost, MANNERS[0], [lost, lost]);
        assert_whole(&said, &lost.name);
        assert_devices(&said, other, &lost.name);
    }
}

/// Two GPUs of one driver share timelines: the presenting device's queue waits for a semaphore of the lost one.
#[test]
fn of_two_gpus_of_one_driver_the_other_one_goes_on() {
    let lavapipe = devices().into_iter().find(|one| one.name.contains("llvmpipe"));
    let lavapipe = lavapipe.expect("lavapipe: `.ci/setup test` prepares it");
    for manner in MANNERS {
        let (switch, rest) = manner.split_once('+').unwrap_or((manner, ""));
        let more = if rest.is_empty() {
            ""
        } else {
            "switches.work_after_lost = true\nswitches.lost_waits = \"at_once\"\n"
        };
        let switch = switch.replace('=', " = ");
        let world = format!(
            "[[duplicate]]\ndriver = \"llvmpipe\"\n[[device]]\nindex = {}\nswitches.{switch}\n{more}",
            lavapipe.number
        );
        let (simulation, _) = simulation(&world, "loss-duplicate");
        // The copy is listed last.
        let pair = ["--render", &lavapipe.number, "--present", "2"];
        let said = said(simulation.apply(&mut prime()), &[&FIXED[..], &pair].concat());
        assert_whole(&said, manner);
        assert_eq!(said["render"], said["present"], "{said:#}");
    }
}

#[test]
fn a_sentence_says_that_no_device_is_left() {
    let (simulation, _) = simulation("+lost_at_submit=60", "loss-all");
    let arguments = [&["--headless"], &FIXED[..]].concat();
    for mut program in [prime(), stream()] {
        let errors = sentence(simulation.apply(&mut program), &arguments);
        assert!(errors.contains("no other device goes on"), "{errors}");
        assert!(errors.contains("it was lost"), "each device is named with the reason: {errors}");
    }
}

#[test]
fn the_map_is_made_again_on_another_device() {
    let devices = devices();
    for manner in MANNERS {
        for [lost, other] in [[0, 1], [1, 0]].map(|pair| pair.map(|at| &devices[at])) {
            let (simulation, report) = simulation(&format!("{}=+{manner}", lost.number), "map");
            let arguments = ["--levels", "3", "--device", &lost.number];
            let said = said(simulation.apply(&mut stream()), &[&FIXED[..], &arguments].concat());
            let report = std::fs::read_to_string(report).expect("a report");
            assert!(report.contains("lost_"), "{manner} has not happened: {report}{said:#}");
            let what = format!("{}, {manner}", lost.name);
            assert_eq!(said["frames"], json!(120), "{what}: {said:#}");
            assert_eq!(said["wrong"], json!([]), "{what}: {said:#}");
            assert!(is(&said["device"], other), "{what}: {said:#}");
            let events = said["events"].to_string();
            assert!(events.contains("made again on another device"), "{what}: {events}");
        }
    }
}

//! The recorder finds each mistake that is planted here, with both sides of it, and is silent about correct use.
//!
//! Each test runs in a child process under the recorder. Whether work has really ended plays no part: the recorder goes
//! by what waits for what.

#[path = "../layer/gpu.rs"]
mod gpu;
mod image;

use std::path::PathBuf;

use ash::vk::{ImageLayout as Layout, Semaphore};
use driver_sim::Simulation;

use gpu::{Gpu, World};
use image::Do::{Acquire, Change, Clear, Lower, Read, Release, Upper};
use image::{Seen, Way, share};

const GENERAL: Layout = Layout::GENERAL;
const UNDEFINED: Layout = Layout::UNDEFINED;
const SRC: Layout = Layout::TRANSFER_SRC_OPTIMAL;

/// What the recorder has found in this process.
struct Findings(PathBuf);

impl Findings {
    /// The file of a test, which is the same in its child.
    fn of_this_test() -> Self {
        let name = std::thread::current().name().unwrap_or_default().replace("::", "-");
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.findings")))
    }

    /// The findings since the last call.
    fn take(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let _ = std::fs::remove_file(&self.0);
        text.lines().map(str::to_owned).collect()
    }

    fn assert_none(&self, what: &str) {
        assert_eq!(self.take(), [""; 0], "{what}");
    }

    /// Asserts that there is one finding, of this rule, which names all of these words.
    fn assert_one(&self, rule: &str, words: &[&str], what: &str) {
        let all = self.take();
        let [one] = &all[..] else { panic!("{what}: {all:?}") };
        assert!(one.starts_with(&format!("RECORDER-{rule}: ")), "{what}: {one}");
        for word in words {
            assert!(one.contains(word), "{what}: no {word} in: {one}");
        }
    }
}

/// Runs a test under the recorder.
fn recorded(body: impl FnOnce(&World, &Findings)) {
    let findings = Findings::of_this_test();
    let _ = std::fs::remove_file(&findings.0);
    let simulation = Simulation::new("").unwrap_or_else(|error| panic!("{error}"));
    driver_sim::under(&simulation.recorded_to(&findings.0), || body(&World::new(), &findings));
}

/// Two devices of lavapipe, and one of SwiftShader.
fn open(world: &World) -> [Gpu<'_>; 3] {
    ["llvmpipe", "llvmpipe", "SwiftShader"].map(|name| world.open(world.find(name)))
}

/// The ways to share an image, with the devices.
fn ways<'g>([first, second, other]: &'g [Gpu<'g>; 3]) -> [(Way, [&'g Gpu<'g>; 2]); 5] {
    [
        (Way::OpaqueFd, [first, second]),
        (Way::Mappings, [first, other]),
        (Way::Mappings, [other, first]),
        (Way::Pages, [first, other]),
        (Way::Pages, [second, first]),
    ]
}

/// The first device has drawn the image, and has released it.
fn drawn<'g>(way: Way, gpus: [&'g Gpu<'g>; 2]) -> [Seen<'g>; 2] {
    let both = share(way, gpus);
    both[0].submit(&[Change(UNDEFINED, GENERAL), Clear, Release(GENERAL, GENERAL)]);
    both[0].finish();
    both
}

#[test]
fn an_image_that_is_handed_on_correctly_is_no_finding() {
    recorded(|world, findings| {
        let gpus = open(world);
        for (way, gpus) in ways(&gpus) {
            let [one, two] = drawn(way, gpus);
            for seen in [&two, &one] {
                // All of it is written in two parts, so nothing is kept.
                seen.submit(&[Acquire(UNDEFINED, GENERAL), Upper, Lower, Release(GENERAL, SRC)]);
                seen.finish();
                let read = [Acquire(SRC, SRC), Change(SRC, GENERAL), Read];
                seen.submit(&read);
                seen.submit(&[Release(GENERAL, GENERAL)]);
                seen.finish();
            }
            // Both read at once, and neither waits for the other.
            for seen in [&one, &two, &one] {
                seen.submit(&[Acquire(GENERAL, GENERAL), Read, Release(GENERAL, GENERAL)]);
            }
            for seen in [&one, &two] {
                seen.submit(&[Acquire(GENERAL, GENERAL), Read]);
            }
            for seen in [&one, &two] {
                seen.submit(&[Release(GENERAL, GENERAL)]);
                seen.finish();
            }
            two.submit(&[Acquire(GENERAL, GENERAL), Clear, Release(GENERAL, GENERAL)]);
            two.finish();
            findings.assert_none(&format!("{way:?}"));
        }
    });
}

#[test]
fn undefined_over_content_is_found() {
    recorded(|world, findings| {
        let gpus = open(world);
        for (way, gpus) in ways(&gpus) {
            let [one, two] = drawn(way, gpus);
            let words = ["UNDEFINED", "(device "];
            two.submit(&[Acquire(UNDEFINED, GENERAL), Read, Release(GENERAL, GENERAL)]);
            findings.assert_one("undefined-over-content", &words, &format!("{way:?}, read"));
            two.finish();
            one.submit(&[Acquire(UNDEFINED, GENERAL), Upper, Release(GENERAL, GENERAL)]);
            let words = ["512 of its texels", "vkCmdClearColorImage", "vkCmdCopyBufferToImage"];
            findings.assert_one("undefined-over-content", &words[..1], &format!("{way:?}, half"));
            one.finish();
            two.submit(&[Acquire(UNDEFINED, GENERAL), Release(GENERAL, GENERAL)]);
            findings.assert_one("undefined-over-content", &["1024 of"], &format!("{way:?}, none"));
            two.finish();
        }
    });
}

#[test]
fn an_acquire_that_does_not_match_the_release_is_found() {
    recorded(|world, findings| {
        let gpus = open(world);
        for (way, gpus) in ways(&gpus) {
            let [one, two] = drawn(way, gpus);
            two.submit(&[Acquire(SRC, SRC), Read, Release(SRC, GENERAL)]);
            let words = ["TRANSFER_SRC_OPTIMAL", "left it in GENERAL", "vkCmdPipelineBarrier"];
            findings.assert_one("acquire-without-its-release", &words, &format!("{way:?}, layout"));
            two.finish();
            // Written, and not released.
            one.submit(&[Acquire(GENERAL, GENERAL), Clear]);
            one.finish();
            findings.assert_none("so far");
            two.submit(&[Acquire(GENERAL, GENERAL), Read]);
            let words = ["has not released it, having written it"];
            findings.assert_one("acquire-without-its-release", &words, &format!("{way:?}, owned"));
            two.submit(&[Release(GENERAL, GENERAL)]);
            two.finish();
            findings.assert_none("after that");
        }
    });
}

#[test]
fn use_without_ownership_is_found() {
    recorded(|world, findings| {
        let gpus = open(world);
        for (way, gpus) in ways(&gpus) {
            let [one, two] = drawn(way, gpus);
            let rule = "use-without-ownership";
            two.submit(&[Read]);
            findings.assert_one(rule, &["released it to EXTERNAL"], &format!("{way:?}, importer"));
            two.submit(&[Release(GENERAL, GENERAL)]);
            two.finish();
            findings.assert_none("it counts as owned from there on");
            one.submit(&[Clear]);
            findings.assert_one(rule, &["writes it", "released it"], &format!("{way:?}, exporter"));
            one.submit(&[Release(GENERAL, GENERAL)]);
            one.submit(&[Release(GENERAL, GENERAL)]);
            findings.assert_one(rule, &["releases it"], &format!("{way:?}, released twice"));
            one.finish();
            // Both read; one of them writes.
            for seen in [&one, &two] {
                seen.submit(&[Acquire(GENERAL, GENERAL), Read]);
                seen.finish();
            }
            findings.assert_none("both read");
            two.submit(&[Clear]);
            findings.assert_one(rule, &["owns it, too"], &format!("{way:?}, a reader writes"));
            one.submit(&[Release(GENERAL, GENERAL)]);
            two.submit(&[Release(GENERAL, GENERAL)]);
        }
    });
}

#[test]
fn a_write_beside_an_unfinished_read_is_found() {
    recorded(|world, findings| {
        let gpus = open(world);
        let rule = "beside-unfinished-use";
        for (way, gpus) in ways(&gpus) {
            let [one, two] = drawn(way, gpus);
            let read = [Acquire(GENERAL, GENERAL), Read, Release(GENERAL, GENERAL)];
            let write = [Acquire(GENERAL, GENERAL), Clear, Release(GENERAL, GENERAL)];
            one.submit(&read);
            two.submit(&write);
            let words = ["writes it beside an unfinished read", "vkCmdCopyImageToBuffer"];
            findings.assert_one(rule, &words, &format!("{way:?}, write"));
            one.submit(&read);
            let words = ["reads it beside an unfinished write", "vkCmdClearColorImage"];
            findings.assert_one(rule, &words, &format!("{way:?}, read"));
            one.finish();
            two.finish();
            one.submit(&write);
            findings.assert_none("all had ended");
            one.finish();
        }
    });
}

#[test]
fn what_is_ordered_by_semaphores_is_no_finding() {
    recorded(|world, findings| {
        let gpus = open(world);
        for (way, gpus) in ways(&gpus) {
            let [one, two] = drawn(way, gpus);
            let write = [Acquire(GENERAL, GENERAL), Clear, Release(GENERAL, GENERAL)];
            // The timeline of each device; the host passes their values on, as a thread of a bridge would.
            let [first, second] = [&one, &two].map(|seen| seen.gpu.timeline());
            // It waits for a value that is signalled later.
            two.submit_between(Some((second, 1)), &write, Some((second, 2)));
            findings.assert_none("it is judged once its wait is known");
            one.submit_between(None, &write, Some((first, 1)));
            one.gpu.wait(first, 1, gpu::PATIENT).expect("the first device ends");
            signal(two.gpu, second, 1);
            two.gpu.wait(second, 2, gpu::PATIENT).expect("the second device ends");
            one.submit(&write);
            one.finish();
            findings.assert_none(&format!("{way:?}"));
            // The same without the wait of the host.
            two.submit_between(Some((second, 3)), &write, Some((second, 4)));
            one.submit(&write);
            signal(two.gpu, second, 3);
            let what = format!("{way:?}: signalled too early");
            findings.assert_one("beside-unfinished-use", &["unfinished write"], &what);
            one.finish();
            two.finish();
        }
    });
}

/// The host signals a timeline.
fn signal(gpu: &Gpu<'_>, semaphore: Semaphore, value: u64) {
    let info = ash::vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(value);
    // SAFETY: a timeline of the device, whose value was smaller.
    unsafe { gpu.raw.signal_semaphore(&info) }.expect("it is signalled");
}

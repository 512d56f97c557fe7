//! Routes that are kept in a file: another engine proves nothing again, and a file that is damaged or of another kind
//! does no harm.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::turn::{Turn, turn};
use crate::common::{Rig, assert_pattern, fill};
use ash::vk::Result as Code;
use peerbuf::device::Call;
use peerbuf::transfer::{RefusalReason, Trial, Verdict};
use peerbuf::{BufferDescriptor, HandleType, Route};

/// A path that no other test uses; what is there at the end is removed.
struct Scratch(PathBuf, Turn);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("peerbuf-routes-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name), turn())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn rig(path: &Path) -> Rig {
    Rig::with(|descriptor| descriptor.route_cache(path))
}

/// The verdict on two devices of one adapter, how many devices were opened for it, and a use of the route.
fn verdict(rig: &Rig) -> (Verdict, u64) {
    let [first, second] = rig.two_of_one_adapter();
    let before = rig.engine().calls().made(Call::CreateDevice);
    let verdict = Verdict::clone(&rig.engine().route(&first, &second).expect("a verdict"));
    let opened = rig.engine().calls().made(Call::CreateDevice) - before;
    let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
    let (near, far) =
        (buffer.attach(&first).expect("attached"), buffer.attach(&second).expect("attached"));
    fill(&near, 4);
    assert_pattern(&far, 4, "the other device");
    (verdict, opened)
}

fn trial(verdict: &Verdict, route: Route) -> &Trial {
    let mut trials = verdict.trials.iter();
    trials.find(|trial| trial.route == route).unwrap_or_else(|| panic!("{route}: {verdict:?}"))
}

#[test]
fn another_engine_opens_no_device_for_routes_that_are_remembered() {
    let scratch = Scratch::new("remembered");
    let (proved, opened) = verdict(&rig(&scratch.0));
    assert_eq!(opened, 2);
    assert!(proved.trials.iter().all(|trial| !trial.remembered), "{proved:?}");
    let (known, opened) = verdict(&rig(&scratch.0));
    assert_eq!(opened, 0, "{known:?}");
    assert_eq!(known.working, proved.working);
    assert_eq!(known.refused, proved.refused);
    assert!(known.trials.iter().all(|trial| trial.remembered), "{known:?}");
    let passes = |verdict: &Verdict| trial(verdict, Route::OpaqueFd).passes.clone();
    assert_eq!(passes(&known), passes(&proved));
}

#[test]
fn a_refused_route_is_remembered_with_its_evidence_until_it_is_forgotten() {
    let scratch = Scratch::new("refused");
    let fault = (HandleType::OpaqueFd, Code::ERROR_DEVICE_LOST);
    let refused = {
        let rig = rig(&scratch.0);
        rig.engine().calls().fail_submissions_with_import(Some(fault));
        verdict(&rig).0.refused
    };
    let lost = |reason: &RefusalReason| matches!(reason, RefusalReason::DeviceLost { .. });
    assert!(refused.iter().any(|refusal| lost(&refusal.reason)), "{refused:?}");
    let rig = rig(&scratch.0);
    let (known, opened) = verdict(&rig);
    assert_eq!((known.refused.clone(), opened), (refused, 0), "it is not tried again");
    let trial = trial(&known, Route::OpaqueFd);
    assert!(trial.remembered && trial.at <= std::time::SystemTime::now(), "{trial:?}");
    rig.engine().forget_routes();
    let text = fs::read_to_string(&scratch.0).expect("the file");
    assert_eq!(text.lines().count(), 1, "only its first line is left: {text}");
    let (proved, opened) = verdict(&rig);
    assert!(proved.working.iter().any(|working| working.route == Route::OpaqueFd), "{proved:?}");
    assert!(opened > 0, "it is proved again");
}

#[test]
fn a_file_that_was_cut_anywhere_is_read_as_far_as_it_is_whole() {
    let scratch = Scratch::new("cut");
    let proved = verdict(&rig(&scratch.0)).0;
    let text = fs::read(&scratch.0).expect("the file");
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let mut opened_at_some = false;
    for cut in (0..4).map(|part| text.len() * part / 4).chain([text.len() - 1]) {
        fs::write(&scratch.0, &text[..cut]).expect("the file");
        let (known, opened) = verdict(&rig(&scratch.0));
        opened_at_some |= opened > 0;
        let routes =
            |verdict: &Verdict| -> Vec<_> { verdict.working.iter().map(|w| w.route).collect() };
        assert_eq!(routes(&known), routes(&proved), "cut at {cut}");
        let after = fs::read(&scratch.0).expect("the file");
        let whole = after.iter().filter(|byte| **byte == b'\n').count();
        assert!(whole >= lines, "cut at {cut}: {whole} of {lines} lines");
    }
    assert!(opened_at_some, "what was cut off is proved again");
}

#[test]
fn a_file_of_another_kind_is_not_touched() {
    let scratch = Scratch::new("foreign");
    let letters: &[&[u8]] =
        &[b"a letter\nto a friend\n", b"peerbuf routes 99\npair=x end\n", &[0, 255, 10, 13]];
    for letter in letters {
        fs::write(&scratch.0, letter).expect("the file");
        let rig = rig(&scratch.0);
        let (_, opened) = verdict(&rig);
        assert_eq!(opened, 2, "routes are proved without it");
        rig.engine().forget_routes();
        assert_eq!(&fs::read(&scratch.0).expect("the file"), letter);
    }
}

#[test]
fn a_file_that_cannot_be_written_fails_no_engine() {
    for path in ["/proc/nothing/routes", "/dev/null", "/"] {
        let (_, opened) = verdict(&rig(Path::new(path)));
        assert_eq!(opened, 2, "{path}");
    }
}

//! Routes that are kept in a file: another engine proves nothing again, and a file that is damaged or of another kind
//! does no harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::turn::{Turn, turn};
use crate::common::{Rig, assert_pattern, fill};
use ash::vk::Result as Code;
use peerbuf::device::{Call, StoppedQueues};
use peerbuf::transfer::{RefusalReason, Trial, Verdict};
use peerbuf::{
    BufferDescriptor, Device, DomainId, HandleType, Placement, Refault, ResidencyOptions, Route,
};

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
    // Auto-migration measures what accesses of GPUs cost, on routes of its own choice.
    let moves = ResidencyOptions::new().auto_migration(false);
    Rig::with(|descriptor| descriptor.route_cache(path).residency(moves))
}

/// The verdict on two devices of one adapter, how many devices were opened for it, and a use of the route.
fn verdict(rig: &Rig) -> (Verdict, u64) {
    verdict_of(rig, rig.two_of_one_adapter())
}

fn verdict_of(rig: &Rig, [first, second]: [Device; 2]) -> (Verdict, u64) {
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
fn the_file_is_read_when_devices_are_opened_and_not_when_they_attach() {
    let scratch = Scratch::new("opened");
    let proved = verdict(&rig(&scratch.0)).0;
    let rig = rig(&scratch.0);
    let devices = rig.two_of_one_adapter();
    fs::remove_file(&scratch.0).expect("the file");
    let (known, opened) = verdict_of(&rig, devices);
    assert_eq!(opened, 0, "{known:?}");
    assert_eq!(known.working, proved.working);
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

/// Checks that the file knows the route over the memory of `provider`, and no worse one.
fn assert_best_alone(path: &Path, provider: &str) {
    let text = fs::read_to_string(path).expect("the file");
    let routes = text.lines().filter_map(|line| {
        let name = line.split(' ').find_map(|word| word.strip_prefix("route="))?;
        Route::LADDER.iter().copied().find(|route| route.name() == name)
    });
    // The variants are in the order of the ladder.
    let worst = routes.max().map(Route::name);
    assert_eq!(worst, Some(provider), "{text}");
}

#[test]
fn an_attach_proves_the_route_to_its_buffer_and_no_worse_one() {
    let scratch = Scratch::new("one");
    let share = |opened: u64| {
        let rig = rig(&scratch.0);
        let [first, second] = rig.two_of_one_adapter();
        // A worse route that hangs costs nothing: it is not tried.
        let hangs = StoppedQueues::WithImport(HandleType::HostPointer);
        rig.engine().calls().stop_queues(Some(hangs));
        let before = rig.engine().calls().made(Call::CreateDevice);
        let vram = BufferDescriptor::new(4096).placement(Placement::Vram);
        let buffer = rig.engine().create_buffer(&first, vram).expect("a buffer");
        let (near, far) =
            (buffer.attach(&first).expect("attached"), buffer.attach(&second).expect("attached"));
        fill(&near, 4);
        assert_pattern(&far, 4, "the other device");
        assert_eq!(rig.engine().calls().made(Call::CreateDevice) - before, opened);
        assert_best_alone(&scratch.0, buffer.provider().name());
        rig.engine().calls().stop_queues(None);
    };
    share(2);
    // It is remembered alone.
    share(0);
}

#[test]
fn a_move_proves_the_routes_to_where_it_leads_and_a_verdict_those_that_are_left() {
    let scratch = Scratch::new("later");
    let rig = rig(&scratch.0);
    let [first, second] = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
    let attach =
        |device| buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("attached");
    let (near, far) = (attach(&first), attach(&second));
    fill(&near, 4);
    assert_best_alone(&scratch.0, buffer.provider().name());
    buffer.migrate(DomainId::System).expect("the routes to system memory are proved now");
    assert_pattern(&far, 4, "the other device");
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    for &route in Route::LADDER {
        let works = verdict.working.iter().filter(|working| working.route == route).count();
        let refused = verdict.refused.iter().filter(|refusal| refusal.route == route).count();
        assert_eq!(works + refused, 1, "{route} in {verdict:?}");
    }
}

//! Routes that a child process proves: a crash or a hang of it refuses the route that it was trying, and the others are
//! used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::bound::{too_short, with_bound_and};
use crate::common::turn::{Turn, turn};
use crate::common::{Rig, assert_pattern, fill};
use peerbuf::device::Call;
use peerbuf::transfer::{RefusalReason, Untried, Verdict};
use peerbuf::{BufferDescriptor, Device, Error, Route};

const PROGRAM: &str = env!("CARGO_BIN_EXE_peerbuf");

/// A program that does something else while `opaque_fd` is to be tried, and is `peerbuf` otherwise.
struct Script(PathBuf, Turn);

/// What such a program is afterwards.
const PEERBUF: &str = "exec PROGRAM \"$@\"";

impl Script {
    /// Names `opaque_fd` first.
    fn new(name: &str, instead: &str) -> Self {
        Self::of(name, &format!("echo trying opaque_fd; {instead}"), PEERBUF)
    }

    /// Does `first` while `opaque_fd` is to be tried, and `then` once it is to be skipped. For one device it is
    /// `peerbuf`.
    fn of(name: &str, first: &str, then: &str) -> Self {
        let turn = turn();
        let (then, same) = (then.replace("PROGRAM", PROGRAM), PEERBUF.replace("PROGRAM", PROGRAM));
        let name = format!("peerbuf-probe-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let text = format!(
            "#!/bin/sh\n\
             # The arguments are: probe, two adapters, whether they are one device, a limit, the routes to skip.\n\
             case ,$4,$6, in\n\
             *,true,*) {same} ;;\n\
             *,opaque_fd,*) {then} ;;\n\
             *) {first} ;;\n\
             esac\n"
        );
        fs::write(&path, text).expect("the script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        Self(path, turn)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn works(verdict: &Verdict, route: Route) -> bool {
    verdict.working.iter().any(|working| working.route == route)
}

fn refusal(verdict: &Verdict, route: Route) -> RefusalReason {
    let mut refused = verdict.refused.iter().filter(|refusal| refusal.route == route);
    refused.next().unwrap_or_else(|| panic!("{route}: {verdict:?}")).reason.clone()
}

/// Whether no device was opened in this process to prove routes on.
fn opened_none(rig: &Rig) -> bool {
    rig.engine().calls().made(Call::CreateDevice) == 0
}

fn share(rig: &Rig, first: &Device, second: &Device) {
    let buffer = rig.engine().create_buffer(first, BufferDescriptor::new(4096)).expect("a buffer");
    let (near, far) =
        (buffer.attach(first).expect("attached"), buffer.attach(second).expect("attached"));
    fill(&near, 4);
    assert_pattern(&far, 4, "the other device");
}

#[test]
fn a_child_process_proves_the_same_routes() {
    let expected = {
        let rig = Rig::new();
        let [first, second] = rig.two_of_one_adapter();
        Verdict::clone(&rig.engine().route(&first, &second).expect("a verdict"))
    };
    let rig = Rig::with(|descriptor| descriptor.probe_program(PROGRAM));
    let [first, second] = rig.two_of_one_adapter();
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    let routes =
        |verdict: &Verdict| -> Vec<_> { verdict.working.iter().map(|w| w.route).collect() };
    assert_eq!(routes(&verdict), routes(&expected));
    assert_eq!(verdict.refused, expected.refused);
    let passes = |verdict: &Verdict| -> Vec<_> {
        verdict.trials.iter().map(|trial| (trial.route, trial.passes.clone())).collect()
    };
    assert_eq!(passes(&verdict), passes(&expected));
    share(&rig, &first, &second);
    assert!(opened_none(&rig), "this process opens no device for it");
}

#[test]
fn a_route_that_crashes_the_child_is_refused_and_another_child_tries_the_others() {
    let script = Script::new("crash", "kill -SEGV $$");
    let rig = Rig::with(|descriptor| descriptor.probe_program(&script.0));
    let [first, second] = rig.two_of_one_adapter();
    let verdict = rig.engine().route(&first, &second).expect("a verdict");
    let expected = RefusalReason::Crashed { how: "signal 11".into() };
    assert_eq!(refusal(&verdict, Route::OpaqueFd), expected);
    assert!(works(&verdict, Route::Memfd) && verdict.untried.is_empty(), "{verdict:?}");
    share(&rig, &first, &second);
    assert!(opened_none(&rig));
}

#[test]
fn a_route_that_never_returns_is_refused_and_the_child_is_killed() {
    let script = Script::new("hang", "exec sleep 100000");
    let change = |descriptor: peerbuf::EngineDescriptor| descriptor.probe_program(&script.0);
    with_bound_and(change, |rig, bound| {
        let [first, second] = rig.two_of_one_adapter();
        rig.engine().calls().set_clock(Some(Duration::from_secs(1)));
        let error = rig.engine().route(&first, &second).expect_err("nothing else was tried");
        assert!(error.is_retryable(), "{error:?}");
        // The others are tried later, by another child.
        rig.engine().calls().set_clock(Some(Duration::from_secs(1000)));
        let Ok(verdict) = rig.engine().route(&first, &second) else { too_short() };
        let RefusalReason::NeverReturned { after } = refusal(&verdict, Route::OpaqueFd) else {
            panic!("{verdict:?}")
        };
        assert!(after > bound / 4 * 3, "longer than all trials may take: {after:?} of {bound:?}");
        if !works(&verdict, Route::Memfd) {
            too_short();
        }
    });
}

#[test]
fn a_late_child_refuses_no_route_whose_trial_had_little_time() {
    // The child's own limit, in milliseconds, passes before the trial.
    let wait = "sleep $(($5 / 1000)).$(printf %03d $(($5 % 1000)))";
    let name = format!("echo started; {wait}; echo trying opaque_fd; exec sleep 100000");
    let script = Script::of("late", &name, PEERBUF);
    let rig =
        Rig::with(|descriptor| descriptor.probe_program(&script.0).timeout(Duration::from_secs(2)));
    let [first, second] = rig.two_of_one_adapter();
    let error = rig.engine().route(&first, &second).expect_err("nothing was tried");
    let Error::RoutesUnproved { untried, .. } = &error else { panic!("{error:?}") };
    assert!(untried.iter().any(|refusal| refusal.route == Route::OpaqueFd), "{error:?}");
    assert!(opened_none(&rig), "this process tries none, either");
}

#[test]
fn children_that_die_before_a_trial_leave_the_rest_untried_and_this_process_tries_none() {
    let crash = "echo trying opaque_fd; kill -SEGV $$";
    let cases =
        [("opening", "echo started; kill -KILL $$", PEERBUF), ("twice", crash, "kill -KILL $$")];
    for (name, first, then) in cases {
        let script = Script::of(name, first, then);
        let rig = Rig::with(|descriptor| descriptor.probe_program(&script.0));
        let [near, far] = rig.two_of_one_adapter();
        let error = rig.engine().route(&near, &far).expect_err("no route is known");
        let Error::RoutesUnproved { untried, .. } = &error else { panic!("{name}: {error:?}") };
        let mut memfd = untried.iter().filter(|refusal| refusal.route == Route::Memfd);
        let reason = &memfd.next().expect("it is open").reason;
        let none = |reason: &RefusalReason| {
            matches!(reason, RefusalReason::NotProvedYet(Untried::NoProbeDevice { .. }))
        };
        assert!(none(reason), "{name}: {reason:?}");
        assert!(opened_none(&rig), "{name}: the route that crashes is not tried here");
    }
}

#[test]
fn what_a_child_found_out_before_it_died_is_kept() {
    // Its output is cut behind the first result.
    let cut = format!("{PROGRAM} \"$@\" | sed '/^tried .*route=opaque_fd/q'; kill -SEGV $$");
    let script = Script::of("cut", &cut, "kill -KILL $$");
    let rig = Rig::with(|descriptor| descriptor.probe_program(&script.0));
    let [first, second] = rig.two_of_one_adapter();
    let verdict = rig.engine().route(&first, &second).expect("one route is known to work");
    assert!(works(&verdict, Route::OpaqueFd) && !verdict.untried.is_empty(), "{verdict:?}");
    assert!(opened_none(&rig));
}

#[test]
fn a_program_that_is_none_leaves_the_proof_to_this_process() {
    for program in ["/nothing/there", "/bin/true", "/bin/cat"] {
        let rig = Rig::with(|descriptor| descriptor.probe_program(Path::new(program)));
        let [first, second] = rig.two_of_one_adapter();
        let verdict = rig.engine().route(&first, &second).expect("a verdict");
        assert!(works(&verdict, Route::OpaqueFd), "{program}: {verdict:?}");
        assert!(!opened_none(&rig), "{program}");
    }
}

#[test]
fn a_child_that_dies_at_once_leaves_all_routes_unproved() {
    let script = Script::new("dies", "kill -SEGV $$");
    // It names a route that was not asked for.
    let text = fs::read_to_string(&script.0).expect("the script");
    let text = text.replace("*,true,*) ", "never) ").replace("opaque_fd", "local");
    fs::write(&script.0, text).expect("the script");
    let rig = Rig::with(|descriptor| descriptor.probe_program(&script.0));
    let [first, second] = rig.two_of_one_adapter();
    let error = rig.engine().route(&first, &second).expect_err("nothing is known");
    assert!(error.is_retryable() && error.to_string().contains("signal 11"), "{error}");
}

//! A device waits for the timeline of another one that is lost and never signals it.

use crate::common::app::{App, FAMILY};
use crate::common::faulty_queue::{Fate, FaultyQueue};
use crate::common::timeline_export::{self, Exports};
use crate::common::{LONG, Rig, alive};
use peerbuf::{Device, Engine, Error, Fence, WaitRoute};
use std::sync::Arc;

use super::lose;

/// Two devices of one adapter that share timelines. The second waits for work of the first, which the driver of the
/// first has swallowed.
fn with_a_swallowed_submission(check: impl Fn(&Engine, [&Device; 2], &FaultyQueue, Fence)) {
    let rig = Rig::new();
    let mut seen = 0;
    for twin in rig.all() {
        let apps = [(); 2].map(|()| App::new(&rig, twin.adapter(), |_| true));
        let queues = [0, 1].map(|at: usize| FaultyQueue::new(&apps[at].device, FAMILY));
        let engine = rig.external_engine();
        let live = Arc::clone(engine.live());
        let [first, second] = [0, 1].map(|at: usize| {
            let joined = apps[at].try_join(&rig, &engine, |facts| {
                facts.device = queues[at].device().clone();
                timeline_export::report(facts, Exports::Made);
            });
            joined.expect("adopted")
        });
        // Without the extension no driver is asked about semaphores.
        let route = engine.wait_route(&first, &second).expect("devices of this engine");
        if route == WaitRoute::SharedTimeline {
            seen += 1;
            queues[0].next(Fate::Swallowed);
            let swallowed = engine.submit(&first, |_| Ok(())).expect("accepted");
            let behind = engine.submit(&second, |submission| {
                submission.after(&swallowed);
                Ok(())
            });
            check(&engine, [&first, &second], &queues[0], behind.expect("a submission"));
        }
        drop((first, second, engine));
        assert_eq!(alive(&live), Vec::<String>::new());
    }
    assert!(seen > 0, "no driver has the extension");
}

#[test]
fn the_waits_of_others_for_a_lost_devices_timeline_end() {
    with_a_swallowed_submission(|engine, [first, second], queue, behind| {
        assert!(matches!(behind.is_signalled(), Ok(false)), "it waits");
        // From now on waits report the loss.
        queue.lose();
        lose(engine, first);
        engine.report();
        let ended = behind.wait(LONG).expect_err("what it depends on is lost");
        assert!(matches!(ended, Error::WorkFailed { .. }), "{ended}");
        assert!(!second.is_lost());
        engine.submit(second, |_| Ok(())).and_then(|fence| fence.wait(LONG)).expect("it goes on");
    });
}

/// A device whose timelines cannot be exported after all is opened, and waited for in another way.
#[test]
fn a_device_opens_although_its_timelines_cannot_be_exported() {
    let rig = Rig::new();
    for twin in rig.all() {
        let apps = [(); 2].map(|()| App::new(&rig, twin.adapter(), |_| true));
        let engine = rig.external_engine();
        let [first, second] = [0, 1].map(|at: usize| {
            let joined = apps[at].try_join(&rig, &engine, |facts| {
                timeline_export::report(facts, Exports::Fail);
            });
            joined.expect("it opens all the same")
        });
        let route = engine.wait_route(&first, &second).expect("devices of this engine");
        assert_ne!(route, WaitRoute::SharedTimeline);
        let before = engine.submit(&first, |_| Ok(())).expect("a submission");
        let behind = engine.submit(&second, |submission| {
            submission.after(&before);
            Ok(())
        });
        behind.and_then(|fence| fence.wait(LONG)).expect("it ends");
    }
}

//! Devices that are lost while earlier work still runs.
#![expect(unsafe_code, reason = "records a command")]

use std::sync::Arc;
use std::time::Duration;

use driver_sim::Control;
use peerbuf::observe::Object;
use peerbuf::transfer::{Refusal, RefusalReason, Untried, Verdict};
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, EngineDescriptor, Error, Placement, Scope,
    SharedBuffer,
};

use crate::common::bytes;
use crate::{under, under_control};

const SIZE: u64 = 1 << 20;
const BUFFERS: usize = 4;

/// RADV's driver id, and its behaviour: waits on a lost device return at once, and earlier work goes on.
const LOST_AS_RADV: &str = "
    [[device]]
    driver = \"llvmpipe\"
    switches.identity.driver = 3
    switches.work_after_lost = true
    switches.lost_waits = \"at_once\"
";

/// No step of a test takes this long, on a busy machine either.
/// A timeout that only a hang reaches.
const LONG: Duration = Duration::from_secs(120);

fn engine(timeout: Duration) -> Engine {
    let descriptor = EngineDescriptor::new().timeout(timeout);
    Engine::open(&descriptor).expect("the engine opens")
}

/// A device of the driver with this name. The order of the adapters is the loader's.
fn open(engine: &Engine, name: &str) -> Device {
    let adapter = engine.adapters().iter().find(|adapter| adapter.name().contains(name));
    engine.open_device(adapter.expect("both drivers are there")).expect("it opens")
}

fn system_buffer(engine: &Engine, home: &Device) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(SIZE).placement(Placement::System);
    engine.create_buffer(home, descriptor).expect("a buffer")
}

/// The engine has no rig: what the lost device may write is leaked.
#[test]
fn memory_that_a_lost_device_may_write_gets_no_new_owner_although_waits_return() {
    under_control(LOST_AS_RADV, || {
        let control = Control::of_this_process().expect("a control file");
        let engine = engine(LONG);
        let [lost, healthy] = ["llvmpipe", "SwiftShader"].map(|name| open(&engine, name));
        let old = system_buffer(&engine, &healthy);
        bytes::write(&old, 1);
        let attachment = old.attach(&lost).expect("a route over system memory");
        let mapping = attachment.map(Access::Write).expect("a mapping");
        mapping.view().expect("scrubbed by now");
        control.set("llvmpipe=+hung_after=1").expect("written");
        let raw = lost.raw();
        let held = engine.submit(&lost, |submission| {
            let view = submission.uses(&mapping, Access::Write, Scope::TRANSFER)?;
            // SAFETY: a live buffer, and the range of the mapping.
            let record = move |commands| unsafe {
                raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, 0x0707_0707);
            };
            // SAFETY: it records a valid command on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        });
        held.expect("accepted before the loss");
        control.set("llvmpipe=+hung_after=1+lost_at_submit=1").expect("written");
        let error = engine.submit(&lost, |_| Ok(())).expect_err("the device is lost");
        assert!(error.is_device_lost(), "{error}");
        drop((mapping, attachment, old));
        let created: Vec<_> = (0..BUFFERS).map(|_| system_buffer(&engine, &healthy)).collect();
        created.iter().for_each(|buffer| bytes::assert_zero(buffer, "a new buffer"));
        // The work of the lost device runs now.
        control.set("llvmpipe=+lost_at_submit=1").expect("written");
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(10));
            created.iter().for_each(|buffer| bytes::assert_zero(buffer, "after late work"));
        }
    });
}

/// A trial loses its device while its memory may still be written. The memory ends with the device, at the end of the
/// engine.
#[test]
fn memory_of_a_trial_that_a_lost_device_may_write_is_kept_until_the_engine_ends() {
    // After the controls and the first passes.
    let switches = format!("{LOST_AS_RADV}    switches.lost_at_submit = 6\n");
    // A trial waits for its lost device until its time is over. On a slow machine that may be before it loses one.
    under(&switches, || {
        let mut seconds = [4, 16, 64, 256].into_iter();
        let kept = seconds.any(|seconds| {
            let trial = a_trial(Duration::from_secs(seconds));
            assert!(trial.kept || trial.out_of_time, "memory of a lost device is freed: {trial:?}");
            trial.kept
        });
        assert!(kept, "each trial was over before it lost a device");
    });
}

/// What a trial has left behind.
#[derive(Debug)]
struct Left {
    /// Whether its memory was there once it had ended.
    kept: bool,
    /// Whether routes were left untried because its time, or a device's part of it, was over.
    out_of_time: bool,
    #[expect(dead_code, reason = "printed if the test fails")]
    said: Result<Arc<Verdict>, Error>,
}

fn a_trial(timeout: Duration) -> Left {
    let engine = engine(timeout);
    let [first, second] = ["llvmpipe"; 2].map(|name| open(&engine, name));
    let allocations = || engine.live().count(Object::Allocation);
    let before = allocations();
    let said = engine.route(&first, &second);
    let kept = allocations() > before;
    let untried = match &said {
        Ok(verdict) => &verdict.untried,
        Err(Error::RoutesUnproved { untried, .. }) => untried,
        Err(error) => panic!("{error:?}"),
    };
    let is_over = |refusal: &Refusal| match &refusal.reason {
        RefusalReason::NotProvedYet(why) => {
            matches!(why, Untried::OutOfTime { .. } | Untried::Busy { .. })
        }
        _ => false,
    };
    let out_of_time = untried.iter().any(is_over);
    assert!(!first.is_lost() && !second.is_lost(), "routes are tried on other devices");
    let live = Arc::clone(engine.live());
    drop((first, second, engine));
    for object in [Object::Allocation, Object::View, Object::Device] {
        assert_eq!(live.count(object), 0, "{object:?}");
    }
    Left { kept, out_of_time, said }
}

//! Waits for work of other devices by kernel fences.
#![expect(unsafe_code, reason = "records a fill")]

use std::time::Duration;

use driver_sim::Control;
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, EngineDescriptor, Fence, Mapping, Scope, WaitRoute,
};

use crate::common::bytes;
use crate::common::until::rounds;
use crate::{under, under_control};

/// A timeout that only a hang reaches.
const LONG: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 20;
const SIZE: u64 = 4096;

/// A submission to `device` that is told that `after` is still running, as it is on a device that is slower than the host.
fn behind(engine: &Engine, device: &Device, after: Option<&Fence>) -> Fence {
    engine.calls().set_pretend_busy(after.is_some());
    let made = engine.submit(device, |submission| {
        after.into_iter().for_each(|fence| submission.after(fence));
        Ok(())
    });
    engine.calls().set_pretend_busy(false);
    let made = made.expect("a submission");
    made.wait(LONG).expect("it ends");
    made
}

/// Two devices that wait for each other by sync files.
fn pair(engine: &Engine) -> [Device; 2] {
    let find = |name: &str| {
        let adapter = engine.adapters().iter().find(|adapter| adapter.name().contains(name));
        engine.open_device(adapter.expect("both drivers are there")).expect("it opens")
    };
    let [source, target] = ["llvmpipe", "SwiftShader"].map(find);
    let route = engine.wait_route(&source, &target).expect("devices of this engine");
    assert_eq!(route, WaitRoute::SyncFd);
    [source, target]
}

/// Row C8 of the desk check: a binary semaphore for each wait across devices is slow where their creation is
/// (crocdialer/vierkant#70).
#[test]
fn semaphores_of_sync_files_are_used_again() {
    under("+sync_fd", || {
        let engine = Engine::open(&EngineDescriptor::new().timeout(LONG)).expect("it opens");
        let [source, target] = pair(&engine);
        let made = |call| engine.calls().made(call);
        let [created, exported, imported] =
            [Call::CreateSemaphore, Call::GetSemaphoreFd, Call::ImportSemaphoreFd].map(made);
        for _ in 0..ROUNDS {
            let work = behind(&engine, &source, None);
            behind(&engine, &target, Some(&work));
        }
        assert_eq!(made(Call::GetSemaphoreFd) - exported, ROUNDS, "one sync file for each wait");
        assert_eq!(made(Call::ImportSemaphoreFd) - imported, ROUNDS);
        // Those of a submission are free again at the submission after the one that finds it ended.
        let created = made(Call::CreateSemaphore) - created;
        assert!(created <= 6, "{created} semaphores for {ROUNDS} waits");
    });
}

/// Row C9: a driver hangs on a wait for a binary semaphore without command buffers (doitsujin/dxvk#4380).
#[test]
fn a_wait_for_a_binary_semaphore_has_a_command_buffer() {
    under("+sync_fd+empty_wait_hangs", || {
        let engine = Engine::open(&EngineDescriptor::new().timeout(LONG)).expect("it opens");
        let [source, target] = pair(&engine);
        let imported = engine.calls().made(Call::ImportSemaphoreFd);
        let work = behind(&engine, &source, None);
        behind(&engine, &target, Some(&work));
        assert_eq!(engine.calls().made(Call::ImportSemaphoreFd) - imported, 1, "a binary wait");
    });
}

/// Row C10: Mesa exports a sync file only once its submit thread has the signal, which may be never. The exporting call is
/// made under reservations, so it is waited for with a bound.
#[test]
fn an_export_that_does_not_return_holds_up_no_reservation() {
    under_control("+sync_fd", || {
        let control = Control::of_this_process().expect("a control file");
        let engine = Engine::open(&EngineDescriptor::new().timeout(LONG)).expect("it opens");
        let [source, target] = pair(&engine);
        let buffer = engine.create_buffer(&source, BufferDescriptor::new(SIZE)).expect("a buffer");
        let attach = |device| buffer.attach(device).expect("a route");
        let attachments = [attach(&source), attach(&target)];
        let mappings =
            attachments.each_ref().map(|one| one.map(Access::ReadWrite).expect("mapped"));
        let fill = |device: &Device, mapping: &Mapping, word: u32| {
            let raw = device.raw();
            let made = engine.submit(device, |submission| {
                let view = submission.uses(mapping, Access::Write, Scope::TRANSFER)?;
                // SAFETY: a live buffer, and the mapping's range.
                let record = move |commands| unsafe {
                    raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word);
                };
                // SAFETY: it records a valid command on what was declared.
                unsafe { submission.record(record) };
                Ok(())
            });
            made.expect("a submission")
        };
        control.set("llvmpipe=+sync_fd+hung_after=0").expect("written");
        let exported = engine.calls().made(Call::GetSemaphoreFd);
        fill(&source, &mappings[0], 1);
        // Each waits for the work that is held, the second one for no call.
        let behind = [2, 3].map(|word| fill(&target, &mappings[1], word));
        assert_eq!(engine.calls().made(Call::GetSemaphoreFd) - exported, 1, "no call is repeated");
        assert!(behind.iter().all(|fence| !fence.is_signalled().expect("no error")), "they wait");
        control.set("").expect("written");
        behind.iter().for_each(|fence| fence.wait(LONG).expect("it ends"));
        assert_eq!(bytes::read(&buffer)[..4], 3_u32.to_ne_bytes(), "the last writer's");
        // The call has returned by now or returns soon, and sync files are used again.
        let used = rounds().any(|_| {
            let imported = engine.calls().made(Call::ImportSemaphoreFd);
            let work = fill(&source, &mappings[0], 4);
            engine.calls().set_pretend_busy(true);
            let after = fill(&target, &mappings[1], 5);
            engine.calls().set_pretend_busy(false);
            work.wait(LONG).and(after.wait(LONG)).expect("they end");
            engine.calls().made(Call::ImportSemaphoreFd) > imported
        });
        assert!(used, "sync files are used again");
    });
}

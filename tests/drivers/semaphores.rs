//! Waits for work of other devices by kernel fences.

use std::time::Duration;

use peerbuf::device::Call;
use peerbuf::{Device, Engine, EngineDescriptor, Fence, WaitRoute};

use crate::under;

/// A timeout that only a hang reaches.
const LONG: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 20;

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

/// Row C8 of the desk check: a binary semaphore for each wait across devices is slow where their creation is
/// (crocdialer/vierkant#70).
#[test]
fn semaphores_of_sync_files_are_used_again() {
    under("+sync_fd", || {
        let engine = Engine::open(&EngineDescriptor::new().timeout(LONG)).expect("it opens");
        let find = |name: &str| {
            let adapter = engine.adapters().iter().find(|adapter| adapter.name().contains(name));
            engine.open_device(adapter.expect("both drivers are there")).expect("it opens")
        };
        let [source, target] = ["llvmpipe", "SwiftShader"].map(find);
        let route = engine.wait_route(&source, &target).expect("devices of this engine");
        assert_eq!(route, WaitRoute::SyncFd);
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

//! Nothing hangs: a test that takes too long ends its process, with its name.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{in_vm, say, soak};

/// Ends the process if it is not stopped in time.
pub(crate) struct Watchdog {
    /// Dropping it wakes the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The emulated processors of the virtual machine are some twenty times as slow.
const LIMIT: Duration = Duration::from_secs(120);
const LIMIT_IN_VM: Duration = Duration::from_secs(900);

impl Watchdog {
    /// Starts to watch the current test.
    pub(crate) fn start() -> Self {
        let limit = if in_vm() { LIMIT_IN_VM } else { LIMIT } * soak::factor();
        let name = test_name();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                say(&format!("{name} hangs: not finished after {limit:?}; giving up"));
                std::process::abort();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Stops watching.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only waits, so it cannot have panicked.
            let _ = thread.join();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The name of the current test: the harness names its threads after them.
pub(crate) fn test_name() -> String {
    std::thread::current().name().unwrap_or("a thread without a name").to_owned()
}

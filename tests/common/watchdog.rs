//! Nothing hangs: a test that makes no progress ends its process, with its name.
//!
//! Progress is measured in processor time of this process, not by the clock, so that a busy machine makes no test
//! fail. A test hangs in one of two ways. It spins: it has used more processor time than any test needs. Or it sleeps:
//! for many minutes it has used next to none.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{in_vm, say, soak};

/// Ends the process if the test hangs.
pub(crate) struct Watchdog {
    /// Dropping it wakes the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Processor time that no test needs. In the virtual machine it is not independent of what else the host does, so
/// `.ci/vm` watches from outside, too.
const SPINS: Duration = Duration::from_secs(600);
const SPINS_IN_VM: Duration = Duration::from_secs(3600);
/// A test that has used less than a hundredth of this much time sleeps.
const SLEEPS: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_secs(5);

impl Watchdog {
    /// Starts to watch the current test.
    pub(crate) fn start() -> Self {
        let limit = if in_vm() { SPINS_IN_VM } else { SPINS } * soak::factor();
        let name = test_name();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let began = processor_time();
            let mut seen = (Instant::now(), began);
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let used = processor_time();
                if used - began > limit {
                    give_up(&name, &format!("it has used {limit:?} of processor time"));
                }
                if seen.0.elapsed() >= SLEEPS {
                    if used - seen.1 < SLEEPS / 100 {
                        give_up(&name, &format!("it has done nothing for {SLEEPS:?}"));
                    }
                    seen = (Instant::now(), used);
                }
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

fn give_up(name: &str, why: &str) -> ! {
    say(&format!("{name} hangs: {why}; giving up"));
    std::process::abort()
}

/// What all threads of this process have used so far. It opens no descriptor, which tests would count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (time.tv_sec.try_into(), time.tv_nsec.try_into());
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// The name of the current test: the harness names its threads after them.
pub(crate) fn test_name() -> String {
    std::thread::current().name().unwrap_or("a thread without a name").to_owned()
}

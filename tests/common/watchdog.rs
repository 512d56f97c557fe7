//! Ends the process of a test that hangs, and reports the name of the test.
//!
//! Progress is measured in processor time of this process, not by the clock, so that no test
//! fails on a busy machine. A test hangs in one of two ways. It spins if it has used more processor time than any
//! test needs. It sleeps if it has used almost none for many minutes, while no other
//! program kept it from a processor.

use std::path::Path;
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

/// Processor time that no test needs. In the virtual machine it depends on the load of the host, so `.ci/vm`
/// watches from outside as well.
const SPINS: Duration = Duration::from_secs(600);
const SPINS_IN_VM: Duration = Duration::from_secs(900);
/// A test sleeps if it has used less than a hundredth of this period as processor time, unless others had the processors.
const SLEEPS: Duration = Duration::from_secs(600);
/// How often the states of threads are read, and how long after each other.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_secs(5);

impl Watchdog {
    /// Starts watching the current test.
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
                    abort(&name, &format!("it has used {limit:?} of processor time"));
                }
                if seen.0.elapsed() >= SLEEPS {
                    if used - seen.1 < SLEEPS / 100 && !waits_for_a_processor() {
                        abort(&name, &format!("it has done nothing for {SLEEPS:?}"));
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
            // The thread only waits, so it cannot have panicked.
            let _ = thread.join();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop();
    }
}

fn abort(name: &str, why: &str) -> ! {
    say(&format!("{name} hangs: {why}; process aborted"));
    std::process::abort()
}

/// The processor time of all threads of this process. Reading it opens no descriptor, which tests would count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (time.tv_sec.try_into(), time.tv_nsec.try_into());
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// Whether a thread of this process, other than the current one, can run and does not: other programs have the
/// processors. Opens descriptors, which tests would count, so it is asked only of a test that seems to sleep.
fn waits_for_a_processor() -> bool {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    (0..LOOKS).any(|_| {
        std::thread::sleep(LOOK);
        let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        threads
            .filter(|thread| *thread.file_name() != *own)
            .any(|thread| is_runnable(&thread.path()))
    })
}

/// Whether a thread runs or could run. Its state follows its name, which is in parentheses (proc_pid_stat(5)).
fn is_runnable(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
}

/// The name of the current test. The harness names each thread after its test.
pub(crate) fn test_name() -> String {
    std::thread::current().name().unwrap_or("a thread without a name").to_owned()
}

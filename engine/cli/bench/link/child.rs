//! The other process of a cell, with a bound for its life.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::stop::Stop;

/// How long the end of a killed child, and the rest of its output, are waited for: one that waits in the kernel without
/// interruption outlives its kill.
const LAST: Duration = Duration::from_secs(1);

/// Time between two looks at the child.
const SLICE: Duration = Duration::from_millis(5);

/// What `command` prints, once it has ended well. It is killed when the run is stopped, or after `bound`. Otherwise the
/// error says how it ended, with the last line of its standard error.
pub(super) fn output(
    command: &mut Command,
    stop: &Stop,
    bound: Duration,
) -> Result<Vec<u8>, String> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C reaches this process alone, which then says why there is no result.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("the other process cannot be started: {error}"))?;
    let printed = child.stdout.take().map(read);
    let errors = child.stderr.take().map(read);
    let all = |of: Option<Receiver<Vec<u8>>>| {
        of.and_then(|of| of.recv_timeout(LAST).ok()).unwrap_or_default()
    };
    let status = end(&mut child, stop, bound)?;
    let printed = all(printed);
    if status.success() {
        return Ok(printed);
    }
    let errors = all(errors);
    let errors = String::from_utf8_lossy(&errors);
    let last = errors.lines().rfind(|line| !line.trim().is_empty());
    let why = last.map_or(String::new(), |line| format!(": {}", line.trim()));
    Err(format!("the other process ended with {status}{why}"))
}

/// Reads a pipe to its end, on a thread of its own: a child that fills it would wait.
fn read(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is kept. The receiver may be gone.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits for the end of the child.
fn end(child: &mut Child, stop: &Stop, bound: Duration) -> Result<ExitStatus, String> {
    let wait = |child: &mut Child, until: Instant, stops: bool| {
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(Some(status)),
                Ok(None) if Instant::now() >= until || stops && stop.reason().is_some() => {
                    return Ok(None);
                }
                Ok(None) => thread::sleep(SLICE),
                Err(error) => return Err(format!("the end of the other process: {error}")),
            }
        }
    };
    if let Some(status) = wait(child, Instant::now() + bound, true)? {
        return Ok(status);
    }
    let why = stop.reason().map_or_else(
        || format!("the other process hangs: no end within {} s", bound.as_secs()),
        |why| format!("left out: {why}"),
    );
    // An error means that it has ended meanwhile.
    let _ = child.kill();
    wait(child, Instant::now() + LAST, false)?;
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, stop: &Stop, bound: Duration) -> Result<String, String> {
        let mut command = Command::new("sh");
        let printed = output(command.args(["-c", script]), stop, bound)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_a_child_prints_is_returned_and_why_it_failed_is_told() {
        let stop = Stop::new(LONG);
        let many = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done";
        assert_eq!(shell(many, &stop, LONG).map(|text| text.len()), Ok(220_000));
        let failed = shell("echo once >&2; echo 'no memory' >&2; exit 3", &stop, LONG);
        assert_eq!(
            failed,
            Err("the other process ended with exit status: 3: no memory".to_owned())
        );
    }

    #[test]
    fn a_child_that_hangs_is_killed_at_its_bound_and_when_the_run_is_stopped() {
        let hung = shell("sleep 1000", &Stop::new(LONG), Duration::from_secs(1));
        assert!(
            hung.as_ref().is_err_and(|why| why.contains("hangs: no end within 1 s")),
            "{hung:?}"
        );
        let stopped = shell("sleep 1000", &Stop::new(Duration::ZERO), LONG);
        assert!(stopped.as_ref().is_err_and(|why| why.starts_with("left out: ")), "{stopped:?}");
    }
}

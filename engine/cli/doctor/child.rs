//! Child processes with a bound: what loads a driver may crash or hang.

use std::io::{self, PipeReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;

/// What a message of the child begins with. Drivers print on the same pipe.
pub(super) const MARK: &str = "\u{1}peerbuf:";

/// What a failure begins with that says nothing of what the child was to look at.
pub(super) const NOT_STARTED: &str = "the process that would look cannot be started";

/// The longest line that is kept.
const LINE: usize = 1 << 20;

/// The most printed lines that are kept, and the most bytes of them.
const LINES: usize = 256;
const BYTES: usize = 64 << 10;

/// How long the pipe is waited for until the child is looked at again.
const SLICE: Duration = Duration::from_millis(50);

/// How a child process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    /// Why it did not finish.
    Failed(String),
}

/// What a child process sent and printed, and how it ended.
#[derive(Debug)]
pub(super) struct Heard<M> {
    pub(super) messages: Vec<M>,
    /// The lines that were no messages, as many as are kept.
    pub(super) printed: Vec<String>,
    /// The bytes in `printed`.
    bytes: usize,
    pub(super) end: End,
}

/// Runs `command` until it ends or `bound` is over; then it is killed. Standard output and standard error are one
/// pipe, so that the call needs four file descriptors.
pub(super) fn run<M: DeserializeOwned>(command: &mut Command, bound: Duration) -> Heard<M> {
    let mut heard = Heard { messages: vec![], printed: vec![], bytes: 0, end: End::Finished };
    let (mut child, mut output) = match start(command) {
        Ok(started) => started,
        Err(error) => {
            heard.end = End::Failed(format!("{NOT_STARTED}: {error}"));
            return heard;
        }
    };
    let deadline = Instant::now() + bound;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Before the pipe is read: all that a child wrote until its end is in the pipe then.
        let has_ended = !matches!(child.try_wait(), Ok(None));
        let wait = if has_ended { Duration::ZERO } else { left.min(SLICE) };
        match output.read(wait, |line| heard.take(line)) {
            // A child that prints without end has the same bound.
            Ok(Arrived::Bytes) if !left.is_zero() => {}
            Ok(Arrived::Nothing) if !has_ended && !left.is_zero() => {}
            // After the child's end, a grandchild may keep the pipe open.
            _ => break,
        }
    }
    heard.take(&output.rest());
    heard.end = end(&mut child, deadline, bound);
    heard
}

impl<M: DeserializeOwned> Heard<M> {
    fn take(&mut self, line: &str) {
        let (printed, message) = match line.split_once(MARK) {
            Some((before, message)) => (before, serde_json::from_str(message).ok()),
            None => (line, None),
        };
        self.messages.extend(message);
        let printed = printed.trim();
        let is_kept = self.printed.len() < LINES && self.bytes + printed.len() <= BYTES;
        if !printed.is_empty() && is_kept {
            self.bytes += printed.len();
            self.printed.push(printed.to_owned());
        }
    }
}

fn start(command: &mut Command) -> io::Result<(Child, Output)> {
    let (reader, writer) = io::pipe()?;
    let child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command keeps the writing ends, without which the pipe never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((child, Output { reader, line: Vec::new() }))
}

/// What a child prints.
struct Output {
    reader: PipeReader,
    /// The bytes since the last end of a line.
    line: Vec<u8>,
}

/// What a look at the pipe has found.
enum Arrived {
    Bytes,
    Nothing,
    /// No process has the writing end any more.
    End,
}

impl Output {
    /// Waits for bytes, for at most `wait`, and calls `take` with each line that they end.
    fn read(&mut self, wait: Duration, mut take: impl FnMut(&str)) -> io::Result<Arrived> {
        let wait = Timespec {
            // CAST: a slice of a second.
            tv_sec: wait.as_secs() as i64,
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut looked_at = [PollFd::new(&self.reader, PollFlags::IN)];
        match poll(&mut looked_at, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Arrived::Nothing),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 4096];
        let read = self.reader.read(&mut bytes)?;
        for &byte in &bytes[..read] {
            if byte == b'\n' || self.line.len() == LINE {
                take(&self.rest());
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
        Ok(if read == 0 { Arrived::End } else { Arrived::Bytes })
    }

    /// Takes the bytes since the last end of a line.
    fn rest(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        text
    }
}

/// Waits for the child's end until `deadline`, then kills it.
fn end(child: &mut Child, deadline: Instant, bound: Duration) -> End {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return by(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) => break,
            Err(error) => return End::Failed(format!("its end cannot be read: {error}")),
        }
    }
    // A child that waits in the kernel without interruption outlives its kill; it is not waited for.
    let _ = child.kill();
    for _ in 0..100 {
        if let Ok(Some(_)) = child.try_wait() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    End::Failed(format!("it hangs: no end within {} s", bound.as_secs_f64()))
}

fn by(status: ExitStatus) -> End {
    match (status.success(), status.signal()) {
        (true, _) => End::Finished,
        (false, Some(signal)) => End::Failed(format!("it crashed: {}", signal_name(signal))),
        (false, None) => {
            End::Failed(format!("it exited with status {}", status.code().unwrap_or(-1)))
        }
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_prints_without_end_is_killed_and_few_of_its_lines_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do echo again; done"]);
        // A shell on a busy machine may not have begun when a short bound is over.
        let bounds = (0..10).map(|nth| Duration::from_millis(500 << nth));
        let mut runs = bounds.map(|bound| run::<String>(&mut command, bound));
        let heard = runs.find(|heard| !heard.printed.is_empty()).expect("it prints");
        assert!(matches!(&heard.end, End::Failed(why) if why.contains("hangs")), "{:?}", heard.end);
        assert!(heard.printed.len() <= LINES);
        assert!(heard.printed.iter().all(|line| line == "again"));
    }

    #[test]
    fn what_a_child_wrote_before_its_end_is_heard_while_a_grandchild_keeps_the_pipe_open() {
        for _ in 0..5 {
            let mut command = Command::new("sh");
            let script = format!("sleep 5 & echo {MARK}'\"first\"'; printf '{MARK}\"last\"'");
            command.args(["-c", &script]);
            let heard = run::<String>(&mut command, Duration::from_secs(600));
            assert_eq!(
                (&heard.messages[..], heard.end),
                (&["first".into(), "last".into()][..], End::Finished)
            );
        }
    }

    #[test]
    fn long_lines_are_kept_up_to_a_number_of_bytes() {
        let mut heard =
            Heard::<String> { messages: vec![], printed: vec![], bytes: 0, end: End::Finished };
        (0..8).for_each(|_| heard.take(&"x".repeat(BYTES / 3)));
        heard.take(&format!("{MARK}\"a message\""));
        assert_eq!((heard.printed.len(), heard.messages.len()), (3, 1));
    }
}

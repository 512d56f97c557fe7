//! Child processes with a bound: what loads a driver may crash or hang.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

/// What a message of the child begins with. Drivers print on the same pipe.
pub(super) const MARK: &str = "\u{1}peerbuf:";

/// The longest line that is kept.
const LINE: u64 = 1 << 20;

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
    /// The lines that were no messages.
    pub(super) printed: Vec<String>,
    pub(super) end: End,
}

/// Runs `command` until it ends or `bound` is over; then it is killed. Standard output and standard error are one
/// pipe, so that the call needs four file descriptors.
pub(super) fn run<M: DeserializeOwned>(command: &mut Command, bound: Duration) -> Heard<M> {
    let mut heard = Heard { messages: vec![], printed: vec![], end: End::Finished };
    let (mut child, lines) = match start(command) {
        Ok(started) => started,
        Err(error) => {
            heard.end = End::Failed(format!("the process cannot be started: {error}"));
            return heard;
        }
    };
    let deadline = Instant::now() + bound;
    let mut ended = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A grandchild may keep the pipe open after the child's end.
        let slice = left.min(Duration::from_millis(50));
        match lines.recv_timeout(slice) {
            Ok(line) => heard.take(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if ended.is_some() || left.is_zero() => break,
            Err(RecvTimeoutError::Timeout) => ended = child.try_wait().unwrap_or(None),
        }
    }
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
        if !printed.trim().is_empty() {
            self.printed.push(printed.trim().to_owned());
        }
    }
}

fn start(command: &mut Command) -> io::Result<(Child, Receiver<String>)> {
    let (reader, writer) = io::pipe()?;
    let child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command keeps the writing ends, without which the pipe never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(text).is_err() {
                        return;
                    }
                }
            }
        }
    });
    Ok((child, lines))
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

//! Starts a child, reads its lines until it ends or a deadline passes, and kills it then.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::words::{Line, Request};
use crate::transfer::refusal::Route;

/// An answer longer than this is none.
const LONGEST: usize = 1 << 20;
/// How long a child that was killed may take to end.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What a child has written, and how it ended.
pub(super) struct Answer {
    pub(super) lines: Vec<Line>,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) enum End {
    /// It has written its last line.
    Done,
    /// It has ended before that.
    Died(String),
    /// It has not ended in time, and has written nothing for this long.
    Late { silent: Duration },
}

impl Answer {
    /// The route whose trial has begun and not ended.
    pub(super) fn trying(&self) -> Option<Route> {
        match self.lines.last() {
            Some(Line::Trying(route)) => Some(*route),
            _ => None,
        }
    }
}

/// Starts a child and returns its answer, within about `limit`. `None` if the child cannot answer: it does not start,
/// or sees other adapters, or ends without a line that is understood.
pub(super) fn ask(program: &Path, request: &Request, limit: Duration) -> Option<Answer> {
    let start = Instant::now();
    let mut child = match start_child(program, request) {
        Ok(child) => child,
        Err(error) => {
            let program = program.display();
            tracing::warn!(%error, %program, "no child process; routes are proved in this one");
            return None;
        }
    };
    let deadline = start + limit;
    let Output { text, closed, last } = read(&mut child, deadline);
    // A stall of this process after the deadline is no silence of the child.
    let heard = deadline.min(Instant::now());
    let silent = heard.saturating_duration_since(last.unwrap_or(start));
    let lines: Vec<_> = text.lines().filter_map(Line::parse).collect();
    let done = lines.contains(&Line::Done);
    let status = end(child, closed);
    // A child that is late may be the right program, on a slow machine.
    if (lines.is_empty() && closed) || lines.contains(&Line::Other) {
        tracing::warn!(
            program = %program.display(),
            "the child process sees other adapters, or is another program; routes are proved in this one"
        );
        return None;
    }
    let end = match (done, closed) {
        (true, _) => End::Done,
        (false, false) => End::Late { silent },
        (false, true) => End::Died(status.map_or_else(String::new, describe)),
    };
    Some(Answer { lines, end })
}

fn start_child(program: &Path, request: &Request) -> io::Result<Child> {
    Command::new(program)
        .args(request.arguments())
        // The trace is this process' own.
        .env_remove("PEERBUF_TRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// What a child has written.
struct Output {
    text: String,
    /// Whether it has closed its output.
    closed: bool,
    /// When it has written last.
    last: Option<Instant>,
}

/// All that the child writes until the deadline.
fn read(child: &mut Child, deadline: Instant) -> Output {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let (mut closed, mut last) = (false, None);
    while let Some(output) = &mut child.stdout {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { break };
        let mut fds = [PollFd::new(output, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => break,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        match output.read(&mut part) {
            Ok(0) => {
                closed = true;
                break;
            }
            Ok(count) if bytes.len() < LONGEST => {
                bytes.extend_from_slice(&part[..count]);
                last = Some(Instant::now());
            }
            _ => break,
        }
    }
    Output { text: String::from_utf8_lossy(&bytes).into_owned(), closed, last }
}

/// Ends the child and returns its status. One that has closed its output is about to end by itself, and is killed only
/// if it does not. A child that does not end when it is killed waits inside a driver; it is left alone.
fn end(mut child: Child, closed: bool) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut killed = false;
    while start.elapsed() < LAST_WAIT {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if !killed && (!closed || start.elapsed() > LAST_WAIT / 4) {
            killed = child.kill().is_ok();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    tracing::error!(child = child.id(), "a child process that proves routes does not end");
    None
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("status {code}"),
        (None, None) => status.to_string(),
    }
}
